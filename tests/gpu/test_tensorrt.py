"""Plans on a real GPU, in whichever of TensorRT and TensorRT-RTX is installed. These run unchanged wherever one is."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from sdi.export.engines import BUILDERS, BuildOptions
from sdi.export.exporter import ExportRequest, ExportSource, export_engine, export_onnx
from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.engine.cuda import open_cuda
from sdi.runtime.engine.manifest import read_manifest, write_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.tensorrt import runtime_cache_path
from support import lively_checkpoint

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def gpu():
    try:
        return open_cuda().gpu
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def builder(request):
    reason = BUILDERS[request.param].unavailable()
    if reason is not None:
        pytest.skip(reason)
    return BUILDERS[request.param]


@pytest.fixture(scope="module")
def make(builder, tmp_path_factory):
    """Exports a request and builds it once; answers the ONNX file and the plan."""
    checkpoint = lively_checkpoint("tsernet-xs", 64)
    made = {}

    def build(request, **options):
        key = (request, tuple(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("gpu")
            exported = export_onnx(ExportSource(checkpoint, "0" * 64), request, folder)
            plan = export_engine(
                exported, ExportSource(checkpoint, "0" * 64), request, builder, BuildOptions(**options)
            )
            made[key] = exported.path, plan.path
        return made[key]

    return build


def frames(size_hw=(64, 64)):
    return [draw_strip(kind, seed, size_hw)[0] for kind in DEFECTS for seed in range(3)]


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 2), ("fp16", 12)])
def test_a_plan_answers_as_its_onnx_file(make, precision, allowed):
    onnx, plan = make(ExportRequest(precision))
    with open_engine(onnx, device="cpu") as reference, open_engine(plan) as engine:
        engine.self_test()
        assert engine.frame_hw == reference.frame_hw
        for frame in frames() * 2:  # the second time as a CUDA graph
            wanted, answer = reference(frame), engine(frame)
            assert wanted.std() > 1
            assert np.abs(answer.astype(int) - wanted).max() <= allowed


def test_the_planar_face_answers_the_same(make):
    onnx, _ = make(ExportRequest("fp32"))
    _, plan = make(ExportRequest("fp32", planar=True))
    with open_engine(onnx, device="cpu") as reference, open_engine(plan) as engine:
        for frame in frames():
            assert np.abs(engine(frame).astype(int) - reference(frame)).max() <= 2


def test_a_plan_of_a_range_takes_each_shape_in_it(make):
    sizes = ((40, 40), (64, 64), (120, 160))
    onnx, plan = make(ExportRequest("fp32", dynamic=True, batches=(1, 2, 4), frames=sizes))
    with open_engine(onnx, device="cpu") as reference, open_engine(plan) as engine:
        for size_hw in (*sizes, (64, 64), (50, 150)):
            for frame in frames(size_hw):
                assert np.abs(engine(frame).astype(int) - reference(frame)).max() <= 2
        several = np.stack(frames((64, 64))[:3])
        assert np.abs(engine.execute(several).astype(int) - reference.execute(several)).max() <= 2
        with pytest.raises(InputError, match="takes 1 x 40x40 to 4 x 120x160, got 1 x 200x200"):
            engine.execute(np.zeros((1, 200, 200, 3), np.uint8))
        assert engine(frames()[0]).shape == (64, 64)  # and goes on


def test_the_device_tells_how_long_it_takes(make):
    """By its own clock: some microseconds at least, and no longer than the host waits for the same."""
    onnx, plan = make(ExportRequest("fp16"))
    several = np.stack(frames()[:1])
    with open_engine(onnx, device="cpu") as cpu, open_engine(plan) as engine:
        assert (cpu.on_gpu, cpu.device_ms(several)) == (False, None)
        assert engine.on_gpu
        wanted = engine.execute(several)
        taken = []
        for _ in range(20):  # the first before there is a graph
            started = time.perf_counter()
            taken.append(engine.device_ms(several))
            assert 0.001 < taken[-1] < (time.perf_counter() - started) * 1e3
        assert (engine.execute(several) == wanted).all()  # timing leaves the engine as it was


def test_answers_belong_to_the_caller(make):
    _, plan = make(ExportRequest("fp16"))
    first, second = frames()[0], np.zeros((64, 64, 3), np.uint8)
    with open_engine(plan) as engine:
        kept = engine(first)
        before = kept.copy()
        engine(second)
        assert (kept == before).all()


def test_ten_thousand_runs_without_growth(make):
    torch = pytest.importorskip("torch", reason="free memory is asked of torch")
    _, plan = make(ExportRequest("fp16"))
    frame = frames()[0]
    with open_engine(plan) as engine:
        wanted = engine(frame)
        for _ in range(100):
            engine(frame)
        free = torch.cuda.mem_get_info()[0]
        started = time.monotonic()
        for _ in range(10_000):
            answer = engine(frame)
        seconds = time.monotonic() - started
        assert np.abs(answer.astype(int) - wanted).max() <= 1
        assert free - torch.cuda.mem_get_info()[0] < 32 << 20
        print(f"{engine.device}: {10_000 / seconds:.0f} frames a second")


def test_two_engines_share_the_gpu(make):
    (_, a), (_, b) = make(ExportRequest("fp16")), make(ExportRequest("fp32"))
    with open_engine(a) as one, open_engine(b) as other:
        for frame in frames():
            assert np.abs(one(frame).astype(int) - other(frame)).max() <= 12


def test_compiled_kernels_are_kept_beside_the_plan(make, builder):
    if builder.name != "tensorrt-rtx":
        pytest.skip("only TensorRT-RTX compiles when a plan is first used")
    _, plan = make(ExportRequest("fp16"))
    cache = runtime_cache_path(plan)
    cache.unlink(missing_ok=True)
    with open_engine(plan) as engine:
        engine(frames()[0])
    assert cache.stat().st_size > 0
    with open_engine(plan) as engine:
        engine.self_test()


def test_a_plan_of_another_gpu_is_refused(make, gpu):
    _, plan = make(ExportRequest("fp16"))
    manifest = read_manifest(plan)
    assert manifest is not None
    try:
        write_manifest(plan, replace(manifest, compute_capabilities=("5.3",)))
        with pytest.raises(DeviceError, match=f"compute capability 5.3.*has {gpu.compute_capability}; build it again"):
            open_engine(plan)
    finally:
        write_manifest(plan, manifest)
