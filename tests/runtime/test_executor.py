"""The executor of plans on a simulated GPU: right answers, no fault of it that is not told, nothing left behind."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")

from gpu_simulator import SimulatedGpu, cuda_python, install, plan_bytes, pycuda_driver, tensorrt

from sdi.runtime.common.errors import DeviceError, SdiError
from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.golden import golden_frames, golden_record
from sdi.runtime.engine.manifest import Manifest, write_manifest
from sdi.runtime.engine.open import open_engine

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Setup:
    """One kind of plan on one kind of machine."""

    version: str = "10.3.0"
    rtx: bool = False
    cuda: str = "cuda.bindings"  # "cuda.cudart", "pycuda"
    planar: bool = False
    least: Size = (1, 8, 12)
    greatest: Size = (1, 8, 12)
    dla: bool = False
    capturable: bool = True
    integrated: bool = False
    eager: bool = False

    @property
    def dynamic(self) -> bool:
        return self.least != self.greatest

    def sizes(self) -> list[Size]:
        return [self.least, self.greatest] if self.dynamic else [self.least]


SETUPS = {
    "fixed": Setup(),
    "at once": Setup(eager=True),
    "dynamic": Setup(version="10.13.0", least=(1, 8, 12), greatest=(3, 16, 20)),
    "batched": Setup(version="11.1.0", least=(2, 8, 12), greatest=(2, 8, 12)),
    "planar": Setup(planar=True),
    "planar, dynamic": Setup(planar=True, least=(1, 8, 12), greatest=(2, 16, 12)),
    "dla": Setup(planar=True, dla=True),
    "rtx": Setup(version="1.7.1", rtx=True),
    "rtx, dynamic": Setup(version="1.7.1", rtx=True, least=(1, 8, 12), greatest=(3, 16, 20)),
    "rtx, not capturable": Setup(version="1.7.1", rtx=True, capturable=False),
    "rtx, old": Setup(version="1.0.0", rtx=True),
    "old name": Setup(cuda="cuda.cudart"),
    "pycuda": Setup(cuda="pycuda"),
    "pycuda, dynamic, planar": Setup(cuda="pycuda", planar=True, least=(1, 8, 12), greatest=(3, 16, 20)),
    "integrated": Setup(integrated=True),
    "integrated, dynamic": Setup(integrated=True, eager=True, least=(1, 8, 12), greatest=(3, 16, 20)),
    "integrated, pycuda": Setup(integrated=True, cuda="pycuda"),
}
RELEASES = {"cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaGraphDestroy", "cudaGraphExecDestroy"}
RELEASES |= {"cudaEventDestroy", "cuMemFree", "cuMemFreeHost"}


class Bench:
    """Makes simulated machines and plans for them, one after the other."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, patch

    def plan(self, setup: Setup, *, manifest: bool = True, name: str = "tiny.plan") -> Path:
        magic = b"vtrt" if setup.rtx else b"ftrt"
        path = self.folder / name
        path.write_bytes(
            plan_bytes(magic, setup.version, setup.least, setup.greatest, planar=setup.planar, dla=setup.dla)
        )
        if manifest:
            write_manifest(path, _manifest(path, setup))
        return path

    def machine(self, setup: Setup, gpu: SimulatedGpu | None = None) -> SimulatedGpu:
        gpu = gpu or SimulatedGpu(eager=setup.eager, integrated=setup.integrated)
        trt = tensorrt(gpu, setup.version, rtx=setup.rtx, capturable=setup.capturable)
        cuda: ModuleType = pycuda_driver(gpu) if setup.cuda == "pycuda" else cuda_python(gpu)
        install(trt, cuda, self._patch.setitem, old_name=setup.cuda == "cuda.cudart")
        return gpu


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    from sdi.runtime.engine.cuda import open_cuda

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    gc.collect()
    gc.freeze()  # the simulator collects often, and all that pytest has loaded need not be looked at each time
    yield Bench(tmp_path, monkeypatch)
    gc.unfreeze()
    open_cuda.cache_clear()


def _manifest(path: Path, setup: Setup) -> Manifest:
    size_hw = setup.least[1:] if setup.least[1:] == setup.greatest[1:] else None
    height, width = size_hw or setup.greatest[1:]
    saliency = np.rint(golden_frames(height, width).mean(axis=3)).astype(np.uint8)
    digest = sha256_of(path)
    return Manifest(
        model="tiny",
        family="tiny",
        precision="fp16",
        target="tensorrt-rtx" if setup.rtx else "tensorrt",
        face="planar" if setup.planar else "uint8",
        batch=setup.least[0] if setup.least[0] == setup.greatest[0] else None,
        frame_hw=size_hw,
        network_hw=(height, width),
        preprocessing={},
        random_weights=False,
        checkpoint_sha256=None,
        onnx_sha256=digest,
        bytes=path.stat().st_size,
        sha256=digest,
        builder={},
        golden=golden_record((height, width), saliency, 1.0),
        parity={},
        profile=(setup.least, setup.greatest, setup.greatest) if setup.dynamic else None,
        build={"dla_core": 0} if setup.dla else {},
    )


def frames(size: Size, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def saliency(frames: np.ndarray) -> np.ndarray:
    """What the simulated network answers, by numpy."""
    return np.rint(frames.mean(axis=3)).astype(np.uint8)


def close_to(answer: np.ndarray, wanted: np.ndarray) -> bool:
    """A planar plan's probabilities are rounded on their way."""
    return answer.shape == wanted.shape and int(np.abs(answer.astype(int) - wanted).max()) <= 1


def steps(setup: Setup, engine: Engine) -> Iterator[Callable[[], bool]]:
    """Calls of an engine that each answer whether they were right."""

    def execute(size: Size, seed: int) -> bool:
        given = frames(size, seed)
        return close_to(engine.execute(given), saliency(given))

    def overlap(size: Size, seed: int) -> bool:
        given = [frames(size, seed + i) for i in range(2)]
        tokens = [engine.submit(each) for each in given]
        answers = [engine.collect(token) for token in tokens]
        return all(close_to(answer, saliency(each)) for answer, each in zip(answers, given, strict=True))

    def time(size: Size) -> bool:
        taken = engine.device_ms(frames(size, 99))
        return taken is not None and taken > 0

    for seed in range(3):
        for size in setup.sizes():
            yield lambda size=size, seed=seed: execute(size, seed)  # type: ignore[misc]
    yield lambda: overlap(setup.greatest, 10)
    yield lambda: overlap(setup.greatest, 20)
    yield lambda: time(setup.least)
    for size in setup.sizes():
        yield lambda size=size: execute(size, 7)  # type: ignore[misc]


@pytest.mark.parametrize("name", SETUPS)
def test_each_kind_of_plan_answers_right_and_leaves_nothing(bench: Bench, name: str) -> None:
    setup = SETUPS[name]
    gpu = bench.machine(setup)
    with open_engine(bench.plan(setup)) as engine:
        engine.self_test()
        for number, step in enumerate(steps(setup, engine)):
            assert step(), (name, number)
    assert gpu.left() == {}
    assert gpu.misuse == []


@pytest.mark.parametrize("name", SETUPS)
def test_a_call_that_fails_once_is_told_and_the_next_frame_is_right(bench: Bench, name: str) -> None:
    _every_fault(bench, SETUPS[name], for_good=False)


@pytest.mark.parametrize("name", SETUPS)
def test_a_device_that_is_lost_is_told_each_time(bench: Bench, name: str) -> None:
    _every_fault(bench, SETUPS[name], for_good=True)


def _every_fault(bench: Bench, setup: Setup, for_good: bool) -> None:
    path = bench.plan(setup)
    gpu = bench.machine(setup)
    _use(setup, path, gpu, None)
    for number, name in enumerate(list(gpu.order)):
        faulty = bench.machine(setup)
        faulty.fail(number, for_good)
        at = f"call {number}, {name}, {'for good' if for_good else 'once'}"
        try:
            _use(setup, path, faulty, for_good)
        except AssertionError as error:
            raise AssertionError(f"{at}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{at}: {type(error).__name__}: {error}") from error


def _use(setup: Setup, path: Path, gpu: SimulatedGpu, for_good: bool | None) -> None:
    """Open, use and close an engine; `for_good` is None where nothing is made to fail."""
    for cache in path.parent.rglob("*.cache"):
        cache.unlink()  # each use of a plan begins alike
    told: list[SdiError] = []
    try:
        engine = open_engine(path)
    except SdiError as error:
        told.append(error)
        fault, gpu.fault = gpu.fault, None
        _is_clean(gpu, fault)
        if not for_good:
            _use(setup, path, gpu, None)
    else:
        for number, step in enumerate(steps(setup, engine)):
            try:
                assert step(), f"step {number} answered wrong"
            except SdiError as error:
                told.append(error)
        try:
            engine.close()
        except SdiError as error:
            told.append(error)
        engine.close()
        fault, gpu.fault = gpu.fault, None
        _is_clean(gpu, fault)
    if for_good is None:
        assert not told, told
    elif not for_good:
        assert len(told) <= 1, f"told {len(told)} times: {told}"
    name = gpu.order[fault.at] if fault is not None else ""
    if told and for_good is False:
        assert name.partition(".")[2] in str(told[0]) or name in str(told[0]), f"{told[0]} does not name {name}"
    assert all(isinstance(error, DeviceError) for error in told), told


def _is_clean(gpu: SimulatedGpu, fault: object) -> None:
    left = gpu.left()
    if fault is not None:
        at, for_good = fault.at, fault.for_good  # type: ignore[attr-defined]
        failed = [n for i, n in enumerate(gpu.order) if i == at or (for_good and i > at)]
        allowed = sum(name in RELEASES for name in failed)
        assert sum(left.values()) <= allowed, f"{left} is left, and {allowed} releases were made to fail"
        assert not set(left) & {"contexts", "engines", "runtimes"}, left
    else:
        assert left == {}, f"{left} is left"
    assert gpu.misuse == [], gpu.misuse
