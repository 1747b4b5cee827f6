"""The executor of plans on a simulated GPU: right answers, no fault of it that is not told, nothing left behind."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")

from gpu_simulator import SimulatedGpu, install
from sdi.runtime.common.errors import DeviceError, InputError, SdiError
from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.golden import golden_frames, golden_record
from sdi.runtime.engine.manifest import Manifest, write_manifest
from sdi.runtime.engine.open import open_engine, open_tiled
from sdi.runtime.engine.tiling import Tiling
from simulated_cuda import cuda_python, pycuda_driver
from simulated_tensorrt import plan_bytes, tensorrt

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
RELEASES |= {"cuCtxPushCurrent"}  # without it pycuda's streams must not be destroyed

MAKERS = {"cudaEventCreate", "cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaGraphInstantiate"}
MAKERS |= {"cudaStreamEndCapture"}


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
    with open_engine(bench.plan(setup), tile=None) as engine:
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
        engine = open_engine(path, tile=None)
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


# -- misuse and interruption ------------------------------------------------------------------------------------------


@pytest.fixture
def opened(bench: Bench) -> Iterator[tuple[SimulatedGpu, Engine]]:
    """A dynamic plan, open."""
    setup = SETUPS["dynamic"]
    gpu = bench.machine(setup)
    with open_engine(bench.plan(setup), tile=None) as engine:
        yield gpu, engine
    assert gpu.left() == {}
    assert gpu.misuse == []


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (np.zeros((0, 8, 12, 3), np.uint8), r"\(0, 8, 12, 3\) uint8"),
        (np.zeros((1, 8, 12, 4), np.uint8), r"\(1, 8, 12, 4\) uint8"),
        (np.zeros((8, 12, 3), np.uint8), r"\(8, 12, 3\) uint8"),
        (np.zeros((1, 8, 12, 3), np.float32), r"\(1, 8, 12, 3\) float32"),
        ([[[[1, 2, 3]]]], "list"),
        (np.zeros((1, 8, 13, 3), np.uint8), "got 1 x 8x13"),
        (np.zeros((2, 8, 12, 3), np.uint8), "got 2 x 8x12"),
    ],
)
def test_wrong_arrays_are_refused_and_change_nothing(bench: Bench, given: np.ndarray, found: str) -> None:
    """Also as the very first call, which the graph is recorded after."""
    setup = SETUPS["fixed"]
    gpu = bench.machine(setup)
    with open_engine(bench.plan(setup)) as engine:
        before = len(gpu.order)
        for call in (engine.execute, engine.submit, engine.device_ms):
            with pytest.raises(InputError, match=rf"^tiny\.plan takes .*{found}"):
                call(given)
        assert len(gpu.order) == before
        assert all(step() for step in steps(setup, engine))


def test_frames_need_not_be_contiguous(opened: tuple[SimulatedGpu, Engine]) -> None:
    given = frames((2, 16, 40), 5)[:, :, ::2]
    assert (opened[1].execute(given) == saliency(given)).all()


def test_a_closed_engine_refuses_and_closes_once(bench: Bench) -> None:
    setup = SETUPS["fixed"]
    gpu = bench.machine(setup)
    engine = open_engine(bench.plan(setup))
    token = engine.submit(frames(setup.least, 0))
    engine.close()
    called = len(gpu.order)
    engine.close()
    for call in (engine.execute, engine.submit, engine.device_ms):
        with pytest.raises(DeviceError, match=r"^tiny\.plan was closed; open it again$"):
            call(frames(setup.least, 0))
    with pytest.raises(DeviceError, match="was closed"):
        engine.collect(token)
    assert len(gpu.order) == called
    assert gpu.left() == {}
    assert gpu.misuse == []


def test_close_waits_for_the_thread_inside_but_not_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that hangs: nothing is freed under it, and once it goes on, the engine can be closed."""
    from sdi.runtime.engine import guard

    setup = SETUPS["fixed"]
    gpu = bench.machine(setup)
    engine = open_engine(bench.plan(setup))
    engine.execute(frames(setup.least, 0))
    inside, go_on = threading.Event(), threading.Event()
    wait = gpu.wait

    def hang(handle: int | None = None) -> None:
        inside.set()
        assert go_on.wait(60)
        wait(handle)

    monkeypatch.setattr(gpu, "wait", hang)
    monkeypatch.setattr(guard, "PATIENCE_S", 0.05)
    answers: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: answers.append(engine.execute(frames(setup.least, 1))))
    thread.start()
    assert inside.wait(60)
    allocated = len([block for block in gpu.blocks if not block.freed])
    with pytest.raises(DeviceError, match=r"^tiny\.plan is in use by another thread.*0\.05 s"):
        engine.close()
    with pytest.raises(DeviceError, match="in use by another thread"):
        engine.execute(frames(setup.least, 2))
    assert len([block for block in gpu.blocks if not block.freed]) == allocated
    go_on.set()
    thread.join(60)
    assert (answers[0] == saliency(frames(setup.least, 1))).all()
    monkeypatch.setattr(guard, "PATIENCE_S", 60)
    engine.close()
    assert gpu.left() == {}
    assert gpu.misuse == []


def test_threads_take_turns(opened: tuple[SimulatedGpu, Engine]) -> None:
    wrong: list[int] = []

    def run(first: int) -> None:
        for seed in range(first, first + 20):
            given = frames((1 + seed % 3, 8, 12), seed)
            if not (opened[1].execute(given) == saliency(given)).all():
                wrong.append(seed)

    threads = [threading.Thread(target=run, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


@pytest.mark.parametrize("setup", [SETUPS["fixed"], SETUPS["dynamic"], SETUPS["pycuda"]], ids=["fixed", "dyn", "py"])
def test_ctrl_c_at_any_call_loses_that_frame_alone(bench: Bench, setup: Setup) -> None:
    path = bench.plan(setup)
    gpu = bench.machine(setup)
    _use(setup, path, gpu, None)
    for name in sorted(set(gpu.order)):
        machine = bench.machine(setup)
        with open_engine(path, tile=None) as engine:
            machine.interrupt_in = name
            interrupted = 0
            for number, step in enumerate(steps(setup, engine)):
                try:
                    assert step(), f"Ctrl-C in {name}: step {number} answered wrong"
                except KeyboardInterrupt:
                    interrupted += 1
            assert interrupted <= 1
            machine.interrupt_in = None
        made = name in MAKERS  # Python loses what the interrupted call made
        assert sum(machine.left().values()) <= made, name
        assert machine.misuse == [], name


def test_two_engines_share_a_machine(bench: Bench) -> None:
    setup = SETUPS["fixed"]
    gpu = bench.machine(setup)
    paths = [bench.plan(setup, name=f"{name}.plan") for name in ("one", "two")]
    with open_engine(paths[0]) as one, open_engine(paths[1]) as two:
        for first, second in zip(steps(setup, one), steps(setup, two), strict=True):
            assert first()
            assert second()
        one.close()
        given = frames(setup.least, 1)
        assert (two.execute(given) == saliency(given)).all()
    assert gpu.left() == {}
    assert gpu.misuse == []


def test_tokens(opened: tuple[SimulatedGpu, Engine]) -> None:
    """Collected once, in any order; never more than there are slots; a dropped one gives its slot back."""
    _, engine = opened
    given = [frames((1, 8, 12), seed) for seed in range(3)]
    first, second = engine.submit(given[0]), engine.submit(given[1])
    with pytest.raises(InputError, match="has 2 calls under way"):
        engine.submit(given[2])
    assert (engine.collect(second) == saliency(given[1])).all()
    assert (engine.collect(first) == saliency(given[0])).all()
    with pytest.raises(InputError, match="has no such call under way"):
        engine.collect(first)
    for _ in range(5):
        engine.submit(given[2])  # and dropped
    assert (engine.execute(given[0]) == saliency(given[0])).all()


def test_both_slots_are_under_way_at_once(bench: Bench) -> None:
    setup = SETUPS["fixed"]
    gpu = bench.machine(setup)
    with open_engine(bench.plan(setup)) as engine:
        assert engine.slots == 2
        given = [frames(setup.least, seed) for seed in range(2)]
        tokens = [engine.submit(each) for each in given]
        assert sum(bool(stream.queue) for stream in gpu.streams.values()) == 2
        for token, each in zip(tokens, given, strict=True):
            assert (engine.collect(token) == saliency(each)).all()


# -- what the library says --------------------------------------------------------------------------------------------


def test_an_old_message_is_no_reason_for_a_new_failure(opened: tuple[SimulatedGpu, Engine]) -> None:
    gpu, engine = opened
    gpu.fail(len(gpu.order))
    with pytest.raises(DeviceError, match="set_input_shape was made to fail"):
        engine.execute(frames((1, 8, 12), 0))
    gpu.fault = None
    gpu.silent = True
    number = len(gpu.order)
    for at in range(number, number + 3):
        gpu.fail(at)
        with suppress(DeviceError):
            engine.execute(frames((1, 8, 12), 0))
    gpu.fail(len(gpu.order))
    with pytest.raises(DeviceError) as told:
        engine.execute(frames((1, 8, 13), 0))
    assert "set_input_shape failed: the library gave no reason" in str(told.value)


def test_an_error_in_the_engine_is_not_a_damaged_golden_record(
    opened: tuple[SimulatedGpu, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(frames: np.ndarray) -> np.ndarray:
        raise ValueError("a bug")

    monkeypatch.setattr(opened[1], "execute", fail)
    with pytest.raises(ValueError, match=r"^a bug$"):
        opened[1].self_test()


# -- graphs -----------------------------------------------------------------------------------------------------------


def test_a_dla_plan_is_never_recorded(bench: Bench) -> None:
    setup = SETUPS["dla"]
    gpu = bench.machine(setup)
    with open_engine(bench.plan(setup)) as engine:
        assert all(step() for step in steps(setup, engine))
    assert gpu.calls["cudaStreamBeginCapture"] == 0


def test_recording_is_tried_three_times(bench: Bench) -> None:
    setup = SETUPS["fixed"]
    gpu = bench.machine(setup)
    with open_engine(bench.plan(setup)) as engine:
        for seed in range(6):
            gpu.fail(_next(gpu, "cudaStreamBeginCapture"))
            given = frames(setup.least, seed)
            with suppress(DeviceError):
                assert (engine.execute(given) == saliency(given)).all()
            gpu.fault = None
    assert gpu.left() == {}
    assert gpu.misuse == []

    stubborn = bench.machine(SETUPS["rtx, not capturable"])
    with open_engine(bench.plan(SETUPS["rtx, not capturable"])) as engine:
        for seed in range(6):
            engine.execute(frames(setup.least, seed))
    assert stubborn.calls["IExecutionContext.is_stream_capturable"] == 3
    assert stubborn.calls["cudaStreamBeginCapture"] == 0


def _next(gpu: SimulatedGpu, name: str) -> int:
    """The number of the call that comes after upload, enqueue, download and wait."""
    return len(gpu.order) + 4


def test_garbage_is_not_collected_during_a_recording(bench: Bench) -> None:
    """Another library's tensor in a circle, which frees GPU memory when it is found."""
    setup = SETUPS["fixed"]
    gpu = bench.machine(setup)
    from sdi.runtime.engine.cuda import open_cuda

    cuda = open_cuda()

    class Tensor:
        def __init__(self) -> None:
            with cuda.current():
                self.memory = cuda.device_memory(64)
            self.circle = self

        def __del__(self) -> None:
            cuda.free_device_memory(self.memory)

    with open_engine(bench.plan(setup)) as engine:
        gc.collect()
        gc.disable()
        Tensor()
        gc.enable()
        given = frames(setup.least, 0)
        assert (engine.execute(given) == saliency(given)).all()
        assert gc.isenabled()
        engine.execute(given)
    assert gpu.calls["cudaGraphLaunch"] == 1
    assert gpu.left() == {}
    assert gpu.misuse == []


@pytest.mark.parametrize("name", SETUPS)
def test_in_steady_state_a_frame_takes_three_calls_and_no_memory(bench: Bench, name: str) -> None:
    setup = SETUPS[name]
    gpu = bench.machine(setup)
    with open_engine(bench.plan(setup), tile=None) as engine:
        for seed in range(3):
            for size in setup.sizes():
                engine.execute(frames(size, seed))
        gpu.order.clear()
        copied = gpu.copied
        for size in setup.sizes():
            engine.execute(frames(size, 9))
        calls = [call for call in gpu.order if call.startswith("cu")]
        if setup.cuda == "pycuda":  # the context goes on and off the thread, and there are no graphs
            assert len(calls) <= 5 * len(setup.sizes())
        else:
            assert len(calls) <= 3 * len(setup.sizes())
        recorded = not (setup.rtx and (setup.dynamic or not setup.capturable)) and not setup.dla
        if recorded and setup.cuda != "pycuda":
            assert calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * len(setup.sizes())
        assert not [call for call in gpu.order if "Alloc" in call or "Free" in call or "create" in call]
        if setup.integrated:
            assert gpu.copied == copied == 0
        else:
            assert gpu.copied - copied == sum(4 * int(np.prod(s)) for s in setup.sizes()) * (4 if setup.planar else 1)


def test_several_gpus_cost_one_call_more(bench: Bench) -> None:
    """There another library may have made another GPU the thread's."""
    setup = SETUPS["fixed"]
    gpu = bench.machine(setup, SimulatedGpu(count=2))
    with open_engine(bench.plan(setup)) as engine:
        engine.execute(frames(setup.least, 0))
        gpu.order.clear()
        engine.execute(frames(setup.least, 0))
    assert gpu.order[:3] == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]


def test_a_few_shapes_keep_their_graphs(bench: Bench) -> None:
    setup = SETUPS["dynamic"]
    gpu = bench.machine(setup)
    shapes = [(count, 8 + step, 12) for count in (1, 2) for step in range(4)]
    with open_engine(bench.plan(setup), tile=None) as engine:
        for seed in range(3):
            for shape in shapes:
                given = frames(shape, seed)
                assert (engine.execute(given) == saliency(given)).all()
        assert gpu.left()["executable graphs"] == 4  # the first shapes'; none is thrown out for what comes once
        recorded = gpu.calls["cudaStreamBeginCapture"]
        assert recorded == 4
        for seed in range(3):  # what comes twice in a row is worth one
            given = frames(shapes[-1], seed)
            assert (engine.execute(given) == saliency(given)).all()
        assert gpu.calls["cudaStreamBeginCapture"] == recorded + 1
        assert gpu.left()["executable graphs"] == 4
    assert gpu.left() == {}
    assert gpu.misuse == []


# -- memory -----------------------------------------------------------------------------------------------------------


def test_zero_copy_has_a_switch(bench: Bench) -> None:
    setup = SETUPS["integrated"]
    given = frames(setup.least, 0)
    for asked, copies in ((None, False), (True, False), (False, True)):
        gpu = bench.machine(setup)
        with open_tiled(bench.plan(setup), "auto", None, Tiling(), zero_copy=asked) as engine:
            assert (engine.execute(given) == saliency(given)).all()
            assert bool(gpu.copied) == copies
            assert bool(gpu.calls["cudaHostGetDevicePointer"]) != copies
    desktop = bench.machine(SETUPS["fixed"])
    with open_engine(bench.plan(SETUPS["fixed"])) as engine:
        engine.execute(given)
        assert desktop.copied > 0


def test_contexts_share_one_working_memory(bench: Bench) -> None:
    """Graphs of four shapes, each with a context of its own, and no more memory than before them."""
    setup = SETUPS["dynamic"]
    gpu = bench.machine(setup)
    with open_engine(bench.plan(setup), tile=None) as engine:
        before = gpu.left()["memory"]
        for count in (1, 2, 3):
            engine.execute(frames((count, 8, 12), 0))
        assert gpu.left()["memory"] == before
        assert gpu.left()["contexts"] == 4


def test_memory_that_is_short_is_told(bench: Bench) -> None:
    setup = SETUPS["fixed"]
    gpu = bench.machine(setup, SimulatedGpu(memory=500))
    with pytest.raises(DeviceError, match=r"cudaMalloc failed in CUDA \(cudaErrorMemoryAllocation: out of memory\)"):
        open_engine(bench.plan(setup))
    assert gpu.left() == {}


# -- TensorRT-RTX -----------------------------------------------------------------------------------------------------


def test_compiled_kernels_are_kept_after_the_first_run(bench: Bench) -> None:
    from sdi.runtime.engine.kernel_cache import runtime_cache_path

    setup = SETUPS["rtx, dynamic"]
    bench.machine(setup)
    path = bench.plan(setup)
    kept = runtime_cache_path(path)
    with open_engine(path, tile=None) as engine:
        assert not kept.exists()
        engine.execute(frames((1, 8, 12), 0))
        assert kept.read_bytes() == b'kernels["[1, 8, 12]"]'
        engine.execute(frames((2, 9, 12), 0))
    assert kept.read_bytes() == b'kernels["[1, 8, 12]", "[2, 9, 12]"]'
    with open_engine(path, tile=None) as engine:
        engine.execute(frames((3, 8, 12), 0))
    assert b"[1, 8, 12]" in kept.read_bytes()  # it was loaded
    kept.write_bytes(b"another GPU's")
    with open_engine(path, tile=None) as engine:
        engine.execute(frames((1, 8, 12), 0))
    assert kept.read_bytes() == b'kernels["[1, 8, 12]"]'


def test_where_the_plan_cannot_be_written_beside_kernels_go_to_the_state_folder(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdi.runtime.engine import kernel_cache

    write = kernel_cache.write_bytes

    def refused(path: Path, data: bytes) -> None:
        if path.parent == bench.folder:
            raise InputError("read-only")  # root, who runs tests in containers, may write anywhere
        write(path, data)

    monkeypatch.setattr(kernel_cache, "write_bytes", refused)
    setup = SETUPS["rtx"]
    bench.machine(setup)
    path = bench.plan(setup)
    for folder in (tmp_path / "state" / "sdi", tmp_path / "service"):
        with open_engine(path) as engine:
            engine.execute(frames((1, 8, 12), 0))
        (kept,) = (folder / "kernels").iterdir()
        assert kept.read_bytes() == b'kernels["[1, 8, 12]"]'
        assert kept.parent.stat().st_mode & 0o077 == 0
        assert not runtime_cache_exists(path)
        monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "service"))
    assert kernel_cache.read_kernels(path) is not None


def runtime_cache_exists(path: Path) -> bool:
    return path.with_name(path.name + ".cache").exists()


def test_rtx_records_ranges_of_shapes_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = SETUPS["rtx, dynamic"]
    bench.machine(setup)
    import tensorrt_rtx

    chosen: list[object] = []
    create = tensorrt_rtx.ICudaEngine.create_execution_context

    def noted(self: object, how: object = None) -> object:
        chosen.append((how.cuda_graph_strategy, how._strategy))  # type: ignore[attr-defined]
        return create(self, how)

    monkeypatch.setattr(tensorrt_rtx.ICudaEngine, "create_execution_context", noted)
    with open_engine(bench.plan(setup), tile=None) as engine:
        engine.execute(frames((1, 8, 12), 0))
    assert chosen == [(1, 2)]  # WHOLE_GRAPH_CAPTURE, USER_MANAGED
    chosen.clear()
    with open_engine(bench.plan(SETUPS["rtx"])):
        assert chosen == [(0, 2)]  # DISABLED: the executor records fixed shapes, with their copies


# -- the simulator ----------------------------------------------------------------------------------------------------


def test_the_simulator_has_no_names_of_its_own() -> None:
    """Every class, method and member of the simulated TensorRT is one of the real bindings."""
    real = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
    trt = tensorrt(SimulatedGpu(), "1.7.1", rtx=True)
    for name in vars(trt):
        if name.startswith("__"):
            continue
        assert hasattr(real, name), name
        thing = getattr(trt, name)
        if isinstance(thing, type):
            for member in vars(thing):
                if not member.startswith("_") and member != "kind":
                    assert hasattr(getattr(real, name), member), f"{name}.{member}"


def test_the_simulator_has_cudas_functions() -> None:
    from cuda.bindings import runtime as real

    made = vars(cuda_python(SimulatedGpu()))
    for name in made:
        assert name == "__name__" or hasattr(real, name), name
    called = {name for name in made if name.startswith("cuda") and getattr(real, name) is not made[name]}
    assert {"cudaGraphLaunch", "cudaMemcpyAsync", "cudaHostGetDevicePointer"} <= called
    for name in called:
        assert callable(getattr(real, name))


# -- as processes -----------------------------------------------------------------------------------------------------

STARTUP = """
import atexit, json, sys
from gpu_simulator import SimulatedGpu, install
from simulated_cuda import cuda_python
from simulated_tensorrt import tensorrt
gpu = SimulatedGpu()
install(tensorrt(gpu, "10.3.0"), cuda_python(gpu), lambda d, k, v: d.__setitem__(k, v))
atexit.register(lambda: gpu.order and print("SIMULATOR", gpu.left(), gpu.misuse, file=sys.stderr))
"""


@pytest.fixture
def process(bench: Bench, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs an installed command on a machine with a simulated GPU, which tells at the end what is left on it."""
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "sitecustomize.py").write_text(STARTUP)
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path / "startup", root / "tests", root)))}

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        code = f"from sdi.runtime.{module}.cli import main; main()"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=tmp_path)

    return run


def test_sdi_run_on_a_simulated_gpu(
    bench: Bench, process: Callable[..., subprocess.CompletedProcess[str]], make_pictures: Callable[..., Path]
) -> None:
    import cv2

    setup = Setup(least=(1, 32, 48), greatest=(1, 32, 48))
    pictures = make_pictures("a.png", "b.png", "c.png")
    done = process("run", "--engine", bench.plan(setup), "--source", pictures, "--masks", bench.folder / "masks")
    assert done.returncode == 0, done.stderr
    assert "SIMULATOR {} []" in done.stderr
    for picture in pictures.iterdir():
        wanted = saliency(cv2.imread(str(picture))[None])[0]
        found = cv2.imread(str(bench.folder / "masks" / picture.name), cv2.IMREAD_GRAYSCALE)
        assert (found == wanted).all()


def test_sdi_bench_on_a_simulated_gpu(bench: Bench, process: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = process("bench", "--engine", bench.plan(SETUPS["fixed"]), "--seconds", "0.02", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["engines"][0]["device_p50_ms"] > 0
    assert report["start"][0]["device"] == "TensorRT 10.3.0, Simulated GPU"
    assert "SIMULATOR {} []" in done.stderr


def test_sdi_doctor_on_a_simulated_gpu(bench: Bench, process: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = process("doctor", bench.plan(SETUPS["fixed"]), "--json")
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["tiny.plan: self-test"]["found"] == "passed on TensorRT 10.3.0, Simulated GPU"
    assert findings["tiny.plan: GPU"]["status"] == "ok"
    assert "SIMULATOR {} []" in done.stderr
