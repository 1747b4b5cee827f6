"""`sdi-doctor`: made-up machines, made-up device folders, real engine files, and this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.doctor.engine_file import examine_engine
from sdi.runtime.doctor.finding import Finding
from sdi.runtime.doctor.findings import examine_machine
from sdi.runtime.doctor.machine import (
    cameras_in,
    clock_of,
    devfreq_clock,
    features_of,
    nvidia_on_bus,
    power_mode_of,
    power_modes_of,
    probe_machine,
)
from sdi.runtime.doctor.probes import Camera, Clock, Driver, Jetson, Part, Probes
from sdi.runtime.doctor.proof import PROOF_MODEL
from sdi.runtime.engine.cuda import Gpu, open_cuda
from sdi.runtime.engine.manifest import manifest_path
from sdi.runtime.engine.shipped import default_engine

CPU, CUDA, TRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
FEATURES = {"FFMPEG": True, "GStreamer": True, "v4l/v4l2": True}

DESKTOP = Probes(
    packages={"sdi": "0.1.0", "cuda-bindings": "12.9.1", "paho-mqtt": "2.1.0", "prometheus-client": "0.21.0"},
    opencv=Part("4.11.0", packages=("opencv-python-headless",)),
    opencv_features=FEATURES,
    onnx_runtime=Part("1.22.0", packages=("onnxruntime-gpu",)),
    providers={TRT: None, CUDA: None, CPU: None},
    tensorrt={"tensorrt": Part("10.9.0.34"), "tensorrt-rtx": Part("1.3.0.35")},
    nvidia_hardware=True,
    driver=Driver((12, 8), ("NVIDIA RTX A2000",), "8.6", None, "570.86.15"),
    clock=Clock(1200, 2100),
    cameras=(Camera("/dev/video0", "HD Pro Webcam"),),
)
JETSON = replace(
    DESKTOP,
    machine="aarch64",
    opencv=Part("4.8.0"),
    onnx_runtime=Part("1.22.0", packages=("onnxruntime",)),
    providers={CPU: None},
    tensorrt={"tensorrt": Part("10.3.0")},
    nvidia_hardware=False,
    driver=Driver((12, 6), ("Orin",), "8.7"),
    clock=Clock(1020, 1020, 1020),
    jetson=Jetson(
        "NVIDIA Jetson Orin Nano Developer Kit",
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        "MAXN_SUPER",
        {"15W": 0, "25W": 1, "MAXN_SUPER": 2},
        True,
    ),
)
BARE = Probes()  # nothing is installed
OFFICE = replace(  # no GPU at all
    DESKTOP,
    onnx_runtime=Part("1.22.0", packages=("onnxruntime",)),
    providers={CPU: None},
    tensorrt={},
    nvidia_hardware=False,
    driver=None,
    binding_error="libcuda.so.1 is not there",
    clock=None,
)


def _line(probes: Probes, check: str) -> Finding:
    (found,) = [finding for finding in examine_machine(probes) if finding.check == check]
    return found


def _faults(probes: Probes) -> list[str]:
    return [finding.check for finding in examine_machine(probes) if finding.status == "fault"]


def test_a_good_desktop_has_nothing_to_mend() -> None:
    assert {finding.status for finding in examine_machine(DESKTOP)} == {"ok"}
    assert _line(DESKTOP, "GPU").found == (
        "NVIDIA RTX A2000, compute capability 8.6, driver 570.86.15, for CUDA 12.8 at most"
    )


def test_a_good_jetson_has_no_fault() -> None:
    assert _faults(JETSON) == []
    assert _line(JETSON, "Jetson").found == "NVIDIA Jetson Orin Nano Developer Kit, Jetson Linux 36.4.3, JetPack 6"
    assert _line(JETSON, "power mode") == Finding("power mode", "ok", "MAXN_SUPER")
    assert _line(JETSON, "CSI cameras").status == "ok"
    assert _line(JETSON, "ONNX Runtime: CUDA").fix == "build a plan: sdi-export --target tensorrt"


def test_a_machine_without_a_gpu_is_no_fault() -> None:
    assert _faults(OFFICE) == []
    assert _line(OFFICE, "GPU").status == "note"
    assert _line(OFFICE, "CUDA binding").status == "note"


def test_every_fault_says_what_mends_it() -> None:
    assert _faults(BARE) == ["OpenCV", "ONNX Runtime"]
    for machine in (BARE, DESKTOP, JETSON, OFFICE, replace(JETSON, opencv=Part(), driver=None, tensorrt={})):
        assert all(finding.fix for finding in examine_machine(machine) if finding.status == "fault")


def _jetson(**changes: object) -> Probes:
    assert JETSON.jetson is not None
    return replace(JETSON, jetson=replace(JETSON.jetson, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "check", "status", "found", "fix"),
    [
        (replace(DESKTOP, python=(3, 9, 2)), "Python", "fault", "3.9.2", "Python 3.10 to 3.13"),
        (replace(DESKTOP, packages={}), "sdi", "note", "not installed", "pip install ."),
        # OpenCV
        (
            replace(DESKTOP, opencv=Part("4.11.0", packages=("opencv-python", "opencv-python-headless"))),
            "OpenCV",
            "fault",
            "opencv-python, opencv-python-headless overwrite",
            "pip uninstall opencv-python opencv-python-headless && pip install",
        ),
        (
            replace(JETSON, opencv=Part(error="numpy.core.multiarray failed to import")),
            "OpenCV",
            "fault",
            "multiarray",
            "pip install 'numpy<2'",
        ),
        (
            replace(
                JETSON,
                opencv=Part("4.11.0", packages=("opencv-python-headless",)),
                opencv_features=FEATURES | {"GStreamer": False},
            ),
            "OpenCV: GStreamer",
            "fault",
            "hides JetPack's OpenCV",
            "pip uninstall opencv-python-headless;",
        ),
        (
            replace(DESKTOP, opencv_features=FEATURES | {"GStreamer": False}),
            "OpenCV: GStreamer",
            "note",
            "no pipelines",
            "python3-opencv",
        ),
        (replace(DESKTOP, opencv_features={}), "OpenCV: FFMPEG", "fault", "no video files", "sdi[opencv]"),
        # ONNX Runtime
        (
            replace(DESKTOP, onnx_runtime=Part("1.22.0", packages=("onnxruntime", "onnxruntime-gpu"))),
            "ONNX Runtime",
            "fault",
            "onnxruntime and onnxruntime-gpu are installed together",
            "pip uninstall onnxruntime onnxruntime-gpu && pip install 'sdi[gpu]'",
        ),
        (
            replace(OFFICE, onnx_runtime=Part("1.22.0", packages=("onnxruntime", "onnxruntime-gpu"))),
            "ONNX Runtime",
            "fault",
            "installed together",
            "pip install 'sdi[cpu]'",
        ),
        (replace(DESKTOP, onnx_runtime=Part("1.9.0")), "ONNX Runtime", "fault", "1.18 is the first", "--upgrade"),
        (
            replace(DESKTOP, onnx_runtime=Part(error="no attribute '__version__'")),
            "ONNX Runtime",
            "fault",
            "no attribute",
            "pip uninstall onnxruntime && pip install",
        ),
        (
            replace(DESKTOP, onnx_runtime=Part("1.22.0", packages=("onnxruntime",)), providers={CPU: None}),
            "ONNX Runtime: CUDA",
            "note",
            "leave the GPU idle",
            "pip uninstall onnxruntime && pip install 'sdi[gpu]'",
        ),
        (
            replace(DESKTOP, providers={CUDA: "libcudnn.so.9: cannot open", CPU: None}),
            "ONNX Runtime: CUDA",
            "fault",
            "libcudnn.so.9: cannot open",
            "onnxruntime-gpu[cuda,cudnn]",
        ),
        (replace(OFFICE, providers={CUDA: "no", CPU: None}), "ONNX Runtime: CUDA", "note", "no GPU", ""),
        (replace(DESKTOP, providers={CPU: "Illegal instruction"}), "ONNX Runtime: CPU", "fault", "Illegal", "--force"),
        # driver, TensorRT, CUDA
        (replace(DESKTOP, driver=None), "GPU", "fault", "driver (libcuda) is not", "install NVIDIA's driver"),
        (
            replace(DESKTOP, driver=Driver((12, 8), error="cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")),
            "GPU",
            "fault",
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "nvidia-smi",
        ),
        (
            replace(DESKTOP, packages={"cuda-bindings": "13.0.1"}, binding_error="insufficient driver"),
            "CUDA binding",
            "fault",
            "is for CUDA 13, the driver runs CUDA 12.8 at most",
            "pip install 'cuda-python>=12.9.1,<13', or update the driver",
        ),
        (
            replace(DESKTOP, packages={}),
            "CUDA binding",
            "fault",
            "plans do not run",
            "pip install 'cuda-python>=12.9.1,<13'",
        ),
        (
            replace(DESKTOP, packages={"cuda-bindings": "12.8.0"}),
            "CUDA binding",
            "note",
            "holds Python's lock while it waits for the GPU",
            "pip install 'cuda-python>=12.9.1,<13'",
        ),
        (replace(DESKTOP, binding_error="out of memory"), "CUDA binding", "fault", "out of memory", "pip install"),
        (
            replace(DESKTOP, tensorrt={"tensorrt": Part(error="libnvinfer.so.10: cannot open")}),
            "TensorRT",
            "fault",
            "libnvinfer.so.10",
            "sdi[gpu]",
        ),
        (replace(DESKTOP, tensorrt={}), "TensorRT-RTX", "note", "not installed", "sdi[rtx]"),
        (replace(JETSON, tensorrt={}), "TensorRT", "fault", "comes with JetPack", "--system-site-packages"),
        (replace(JETSON, clock=Clock(306, 1020, 306)), "GPU clock", "note", "306 MHz of 1020 MHz", "jetson_clocks"),
        # Jetson
        (_jetson(power_mode="15W"), "power mode", "note", "15W, MAXN_SUPER is faster", "sudo nvpmodel -m 2"),
        (_jetson(power_mode=None), "power mode", "note", "does not name it", "sudo nvpmodel -q"),
        (_jetson(release="# R35 (release), REVISION: 4.1"), "Jetson", "note", "35.4.1", "JetPack 6 and 7"),
        (_jetson(csi_plugin=False), "CSI cameras", "note", "no nvarguscamerasrc", "nvidia-l4t-gstreamer"),
        # cameras and extras
        (replace(DESKTOP, cameras=()), "cameras", "note", "no /dev/video*", "--device /dev/video0"),
        (
            replace(DESKTOP, cameras=(Camera("/dev/video1", "line", False),)),
            "camera (line)",
            "fault",
            "/dev/video1 may not be opened",
            "usermod -aG video",
        ),
        (replace(DESKTOP, packages={}), "MQTT (--mqtt)", "note", "paho-mqtt is not", "pip install 'sdi[line]'"),
    ],
)
def test_what_is_wrong_is_found(machine: Probes, check: str, status: str, found: str, fix: str) -> None:
    line = _line(machine, check)
    assert line.status == status
    assert found in line.found
    assert fix in line.fix


def test_answers_of_programs_are_read() -> None:
    assert power_mode_of("NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n") == "MAXN"
    assert power_mode_of("") is None
    text = "# < POWER_MODEL ID=9 NAME=OLD >\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
    assert power_modes_of(text + "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n") == {"15W": 0, "MAXN_SUPER": 2}
    assert clock_of("1980, 2505\n") == Clock(1980, 2505)
    assert clock_of("[N/A], [N/A]") is None
    build = "  Video I/O:\n    FFMPEG:    YES\n      avcodec: YES (59)\n    GStreamer: NO\n    v4l/v4l2:  YES (x.h)\n"
    assert features_of(build) == {"FFMPEG": True, "GStreamer": False, "v4l/v4l2": True}


def test_device_folders_are_read(tmp_path: Path) -> None:
    for name in ("video10", "video2", "videocodec", "null"):
        (tmp_path / name).touch()
    assert [Path(camera.path).name for camera in cameras_in(tmp_path)] == ["video2", "video10"]
    for device, vendor, kind in (("a", "0x8086", "0x030000"), ("b", "0x10de", "0x040300")):
        (tmp_path / "bus" / device).mkdir(parents=True)
        (tmp_path / "bus" / device / "vendor").write_text(f"{vendor}\n")
        (tmp_path / "bus" / device / "class").write_text(f"{kind}\n")
    assert not nvidia_on_bus(tmp_path / "bus")  # Intel's graphics, and NVIDIA's sound
    (tmp_path / "bus" / "b" / "class").write_text("0x030200\n")
    assert nvidia_on_bus(tmp_path / "bus")
    assert devfreq_clock(tmp_path / "none") is None
    gpu = tmp_path / "devfreq" / "17000000.gpu"
    gpu.mkdir(parents=True)
    for name, hertz in (("cur", 306000000), ("min", 306000000), ("max", 1020000000)):
        (gpu / f"{name}_freq").write_text(f"{hertz}\n")
    assert devfreq_clock(tmp_path / "devfreq") == Clock(306, 1020, 306)


def test_the_proof_is_a_valid_model_with_a_known_answer() -> None:
    import cv2
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load_from_string(PROOF_MODEL), full_check=True)
    ones = np.ones((4, 4), np.float32)
    session = onnxruntime.InferenceSession(PROOF_MODEL, providers=[CPU])
    expected = cv2.filter2D(ones, -1, np.ones((3, 3), np.float32), borderType=cv2.BORDER_CONSTANT)
    np.testing.assert_array_equal(session.run(["y"], {"x": ones[None, None]})[0][0, 0], expected)


@pytest.mark.parametrize(("provider", "code"), [(CPU, 0), ("NoSuchExecutionProvider", 1)])
def test_only_a_run_is_a_proof(provider: str, code: int) -> None:
    command = [sys.executable, "-m", "sdi.runtime.doctor.proof", provider]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == code


# -- engine files -----------------------------------------------------------------------------------------------------


def _a2000() -> Gpu:
    return Gpu("NVIDIA RTX A2000", "8.6")


def _no_gpu() -> Gpu:
    raise DeviceError("no CUDA device answers: no package; look at `nvidia-smi`")


def _examined(path: Path, gpu: Callable[[], Gpu] = _no_gpu) -> list[tuple[str, str]]:
    return [(finding.check.removeprefix(f"{path.name}: "), finding.status) for finding in examine_engine(path, gpu)]


def test_a_good_engine_passes_its_self_test(make_engine: Callable[..., Path]) -> None:
    assert _examined(make_engine()) == [("manifest", "ok"), ("self-test", "ok")]


def test_without_a_manifest_it_is_only_loaded(make_engine: Callable[..., Path]) -> None:
    path = make_engine(manifest=False)
    assert _examined(path) == [("manifest", "note"), ("self-test", "note")]


def test_a_wrong_answer_is_a_fault(make_engine: Callable[..., Path]) -> None:
    path = make_engine()
    record = json.loads(manifest_path(path).read_text())
    record["golden"]["tile_means"][1][0][0] += 30
    manifest_path(path).write_text(json.dumps(record))
    assert _examined(path) == [("manifest", "ok"), ("self-test", "fault")]


def test_a_damaged_engine_is_not_loaded(make_engine: Callable[..., Path]) -> None:
    path = make_engine()
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = examine_engine(path, _no_gpu)
    assert (finding.status, "truncated" in finding.found, "export the engine again" in finding.fix) == (
        "fault",
        True,
        True,
    )
    manifest_path(path).write_text("{")
    assert _examined(path) == [(path.name, "fault")]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 torch", b"text", b"\x08\x0a garbage"])
def test_what_is_no_engine_is_a_fault(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert _examined(path) == [("manifest", "note"), ("self-test", "fault")]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Callable[..., Path]) -> Path:
    """A real plan."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
    engines = pytest.importorskip("sdi.export.engines")
    from sdi.export.plan import engine_from_onnx

    folder = tmp_path_factory.mktemp("plan")
    onnx = tiny_engine(folder / "tiny.onnx", frame_hw=(32, 48), batch=1)
    engine_from_onnx(onnx, engines.BUILDERS["tensorrt-rtx"], engines.BuildOptions(), folder)
    return folder / "tiny.plan"


def test_a_plan_is_held_against_library_and_gpu(plan: Path) -> None:
    assert _examined(plan) == [("manifest", "ok"), ("library", "ok"), ("GPU", "fault")]
    findings = examine_engine(plan, lambda: Gpu("Tesla T4", "7.5"))
    assert "compute capability 8.0, 8.6, 8.9, 12.0+, Tesla T4 has 7.5" in findings[-1].found
    assert findings[-1].fix.endswith("or run tiny.onnx")
    assert _examined(plan, _a2000)[:3] == [("manifest", "ok"), ("library", "ok"), ("GPU", "ok")]


def test_a_plan_of_another_library_version_is_a_fault(plan: Path, tmp_path: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[24:28] = bytes((1, 0, 0, 9))
    other = tmp_path / "other.plan"
    other.write_bytes(data)
    *_, finding = examine_engine(other, _a2000)
    assert (finding.check, finding.status) == ("other.plan: library", "fault")
    assert "was built by TensorRT-RTX 1.0.0" in finding.found
    assert finding.fix.startswith("build it again: sdi-export")


# -- the command ------------------------------------------------------------------------------------------------------


def _doctor(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    code = "from sdi.runtime.doctor.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = os.environ | (environment or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)


def test_this_machine(make_engine: Callable[..., Path]) -> None:
    done = _doctor(make_engine(), "--engine", make_engine(name="second.onnx"), "--json")
    answer = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    assert answer["ok"] == (done.returncode == 0) == (answer["faults"] == 0)
    lines = {line["check"]: line for line in answer["findings"]}
    assert lines["Python"]["found"].startswith(".".join(map(str, sys.version_info[:3])))
    assert lines["ONNX Runtime: CPU"]["found"] == "ran a network"
    assert lines["tiny.onnx: self-test"]["status"] == lines["second.onnx: self-test"]["status"] == "ok"
    assert set(lines["Python"]) == {"check", "status", "found", "fix"}


@pytest.mark.gpu
def test_a_real_gpu_is_shown() -> None:
    try:
        gpu = open_cuda().gpu
    except DeviceError as error:
        pytest.skip(str(error))
    line = _line(probe_machine(), "GPU")
    assert line.status == "ok"
    assert f"{gpu.name}, compute capability {gpu.compute_capability}" in line.found


def test_two_onnx_runtimes_on_this_machine_are_a_fault(make_engine: Callable[..., Path], tmp_path: Path) -> None:
    """What pip leaves behind of a second package that brings the same module."""
    info = tmp_path / "onnxruntime_gpu-1.22.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.22.0\n")
    (info / "top_level.txt").write_text("onnxruntime\n")
    done = _doctor(make_engine(), environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "onnxruntime and onnxruntime-gpu are installed together" in done.stdout
    assert "-> pip uninstall onnxruntime onnxruntime-gpu && pip install" in done.stdout


def test_a_broken_opencv_is_a_fault_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    done = _doctor("--json", environment={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    lines = {line["check"]: line for line in json.loads(done.stdout)["findings"]}
    assert lines["OpenCV"]["status"] == "fault"
    assert "libGL.so.1" in lines["OpenCV"]["found"]
    assert lines[f"{default_engine().name}: self-test"]["status"] == "fault"


@pytest.mark.parametrize("option", [(), ("--engine",), ("-e",)])
def test_wrong_use_is_no_failed_gate(option: tuple[str, ...], tmp_path: Path) -> None:
    for path in (tmp_path / "missing.onnx", tmp_path):
        done = _doctor(*option, path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "give an engine" in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from sdi.runtime.doctor.cli import main; sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code\n"
        "print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "sdi-doctor --json" in done.stdout
    assert not set(done.stdout.split("loaded:")[1].split()) & {"cv2", "numpy", "onnxruntime", "torch", "onnx"}
