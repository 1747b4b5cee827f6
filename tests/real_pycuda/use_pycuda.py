"""Runs the executor with the real pycuda over the stub of libcuda; a process of its own, started by the test.

Arguments: the plan, and the stub. Prints what went wrong, a line each.
"""

from __future__ import annotations

import ctypes
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_simulator import SimulatedGpu
from sdi.runtime.common.errors import SdiError
from sdi.runtime.engine.cuda import PyCuda, open_cuda
from sdi.runtime.engine.open import open_engine
from simulated_tensorrt import tensorrt


class StubGpu(SimulatedGpu):
    """TensorRT's side of it: addresses are the stub's, and work runs at once."""

    def __init__(self) -> None:
        super().__init__(eager=True)
        self.streams: Any = defaultdict(lambda: SimpleNamespace(recording=None, queue=[]))

    def view(self, address: int, size: int, *, host: bool) -> np.ndarray:
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def put(self, handle: int, work: Callable[[], None]) -> bool:
        work()
        return True

    def recording(self) -> None:
        return None


def use(plan: Path) -> list[str]:
    """Open, run, time and close; what was told."""
    told: list[str] = []

    def attempt(step: Callable[[], object]) -> object:
        try:
            return step()
        except SdiError as error:
            told.append(str(error))
            return None

    engine: Any = attempt(lambda: open_engine(plan, tile=None))
    if engine is None:
        return told
    for seed in range(3):
        given = np.random.default_rng(seed).integers(0, 256, (1 + seed, 8, 12, 3), np.uint8)
        answer = attempt(lambda given=given: engine.execute(given))  # type: ignore[misc]
        if answer is not None and not np.array_equal(answer, np.rint(given.mean(axis=3)).astype(np.uint8)):
            print(f"frame {seed} was answered wrong")
    tokens = [attempt(lambda: engine.submit(given)) for _ in range(2)]
    for token in tokens:
        if token is not None:
            attempt(lambda token=token: engine.collect(token))  # type: ignore[misc]
    attempt(lambda: engine.device_ms(given))
    attempt(engine.close)
    return told


def main(plan: Path, stub: Any) -> None:
    gpu = StubGpu()
    sys.modules["tensorrt"] = tensorrt(gpu, "10.3.0")
    if told := use(plan):
        print(f"without a fault: {told}")
    assert isinstance(open_cuda(), PyCuda)
    first = stub.stub_calls()
    use(plan)
    for for_good in (0, 1):
        for at in range(stub.stub_calls() - first if not for_good else 60):
            before = stub.stub_live()
            stub.stub_fail(at, for_good)
            told = use(plan)
            stub.stub_fail(-1, 0)
            # A release that fails leaves its thing; one that was refused for good leaves all.
            if not for_good and stub.stub_live() - before > 1:
                print(f"call {at}: {stub.stub_live() - before} things are left; told {told}")
            if stub.stub_contexts() not in (0, 1 if told else 0):
                print(f"call {at}: {stub.stub_contexts()} contexts are pushed; told {told}")
            while stub.stub_contexts():
                open_cuda()._context.pop()  # type: ignore[attr-defined]
            if told := use(plan):
                print(f"after call {at} had failed: {told}")
    print("objects left:", {name: count for name, count in gpu.objects.items() if count})


if __name__ == "__main__":
    main(Path(sys.argv[1]), ctypes.CDLL(sys.argv[2]))
