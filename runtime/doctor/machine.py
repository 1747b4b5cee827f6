"""Collects the facts about this machine."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from typing import Any

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.doctor.look import answer_of, text_of
from sdi.runtime.doctor.probes import Camera, Clock, Driver, Jetson, Part, Probes
from sdi.runtime.engine.tensorrt_library import LIBRARIES, Library

__all__ = [
    "cameras_in",
    "clock_of",
    "devfreq_clock",
    "features_of",
    "nvidia_on_bus",
    "power_mode_of",
    "power_modes_of",
    "probe_machine",
]

_PROOF_TIMEOUT_S = 120  # TensorRT's provider builds an engine
_PACKAGES = ("sdi", "cuda-bindings", "cuda-python", "pycuda", "paho-mqtt", "prometheus-client")


def probe_machine() -> Probes:
    """Examine this machine. It takes some seconds; nothing is changed and no camera is opened."""
    providers_of = metadata.packages_distributions()
    opencv, cv2 = _part("cv2", providers_of)
    onnx_runtime, ort = _part("onnxruntime", providers_of)
    driver, gpu_clock = _driver()
    jetson = _jetson()
    return Probes(
        python=sys.version_info[:3],
        system=platform.system(),
        machine=platform.machine(),
        packages={name: version for name in _PACKAGES if (version := _version(name)) is not None},
        opencv=opencv,
        opencv_features=features_of(cv2.getBuildInformation()) if cv2 is not None else {},
        gstreamer=_first_line("gst-launch-1.0", "--version", pattern=r"version (\S+)"),
        onnx_runtime=onnx_runtime,
        # Azure's is a service elsewhere, not a device of this machine.
        providers={
            name: _prove(name)
            for name in (ort.get_available_providers() if ort else ())
            if not name.startswith("Azure")
        },
        tensorrt={library.target: _tensorrt(library) for library in LIBRARIES},
        nvidia_hardware=nvidia_on_bus(Path("/sys/bus/pci/devices")),
        driver=driver,
        binding_error=_binding_error(),
        clock=devfreq_clock(Path("/sys/class/devfreq")) if jetson else gpu_clock,
        jetson=jetson,
        cameras=cameras_in(Path("/dev")),
    )


def features_of(build_information: str) -> dict[str, bool]:
    """What OpenCV was built with, from `cv2.getBuildInformation()`; what it does not list is left out."""
    found = re.findall(r"^\s+(FFMPEG|GStreamer|v4l/v4l2):\s+(YES|NO)\b", build_information, re.MULTILINE)
    return {name: answer == "YES" for name, answer in found}


def power_modes_of(configuration: str) -> dict[str, int]:
    """Names and numbers of the power modes in an nvpmodel.conf."""
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", configuration, re.MULTILINE)
    return {name: int(number) for number, name in found}


def power_mode_of(answer: str) -> str | None:
    """The mode in the answer of `nvpmodel -q`; None where it names none."""
    found = re.search(r"NV Power Mode:\s*(\S+)", answer)
    return found[1] if found else None


def clock_of(answer: str) -> Clock | None:
    """The clock in nvidia-smi's answer "1980, 2505"; None where a GPU does not report it."""
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", answer)
    return Clock(int(found[1]), int(found[2])) if found else None


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _part(module: str, providers_of: Mapping[str, list[str]]) -> tuple[Part, Any]:
    """What is known of a module, and the module where it can be imported."""
    packages = tuple(sorted(set(providers_of.get(module, ()))))
    if util.find_spec(module) is None:
        return Part(packages=packages), None
    try:
        imported = importlib.import_module(module)
        return Part(str(imported.__version__), packages=packages), imported
    except Exception as error:  # a broken installation raises anything: ImportError, AttributeError, OSError
        return Part(error=_one_line(str(error)) or type(error).__name__, packages=packages), None


def _tensorrt(library: Library) -> Part:
    if not any(util.find_spec(name) for name in library.modules):
        return Part()
    try:
        return Part(str(library.load().__version__))
    except DeviceError as error:
        return Part(error=str(error).partition("; ")[0])


def _provider_names(onnxruntime: Any) -> list[str]:
    """What ONNX Runtime was compiled with; without Azure's, which is a service elsewhere."""
    names = onnxruntime.get_available_providers() if onnxruntime is not None else []
    return [name for name in names if not name.startswith("Azure")]


def _prove(provider: str) -> str | None:
    """Run a tiny network in a process of its own: a provider with the wrong libraries may crash or hang."""
    command = [sys.executable, "-m", "sdi.runtime.doctor.proof", provider]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROOF_TIMEOUT_S,
            check=False,
            env=os.environ | {"PYTHONSAFEPATH": "1"},  # it must not import modules from the current folder
        )
    except subprocess.TimeoutExpired:
        return f"no answer after {_PROOF_TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if "rror" in line] or done.stderr.splitlines()
    return _one_line(errors[0]) if errors else f"the process ended with {done.returncode}"


def _driver() -> tuple[Driver | None, Clock | None]:
    """What the CUDA driver library reports, without any binding, and nvidia-smi where it is installed."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None, None
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    cuda = (number.value // 1000, number.value % 1000 // 10)
    failed = library.cuInit(0)
    if failed:
        text = ctypes.c_char_p()
        library.cuGetErrorName(failed, ctypes.byref(text))
        return Driver(cuda, error=f"cuInit: {(text.value or b'').decode() or failed}"), None
    library.cuDeviceGetCount(ctypes.byref(number))
    names = []
    for device in range(number.value):
        name = ctypes.create_string_buffer(256)
        library.cuDeviceGetName(name, 256, device)
        names.append(name.value.decode(errors="replace"))
    capability = None
    if names:
        # Attributes 75 and 76, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (cuda.h).
        digits = []
        for attribute in (75, 76):
            library.cuDeviceGetAttribute(ctypes.byref(number), attribute, 0)
            digits.append(str(number.value))
        capability = ".".join(digits)
    version = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    clocks = _first_line("nvidia-smi", "--query-gpu=clocks.sm,clocks.max.sm", "--format=csv,noheader,nounits")
    return Driver(cuda, tuple(names), capability, None, version), clock_of(clocks or "")


def _binding_error() -> str | None:
    from sdi.runtime.engine.cuda import open_cuda

    try:
        open_cuda()
    except DeviceError as error:
        return str(error).removeprefix("no CUDA device answers: ").partition("; ")[0]
    except Exception as error:  # a binding and a driver that do not match
        return _one_line(str(error)) or type(error).__name__
    return None


def nvidia_on_bus(devices: Path) -> bool:
    """Whether a display or 3D controller (class 0x03....) of NVIDIA (vendor 0x10de) is there."""
    return any(
        text_of(device / "vendor").strip() == "0x10de" and text_of(device / "class").startswith("0x03")
        for device in devices.glob("*")
    )


def _jetson() -> Jetson | None:
    model = text_of(Path("/proc/device-tree/model")).rstrip("\0\n")
    release = text_of(Path("/etc/nv_tegra_release")).partition("\n")[0]
    if "NVIDIA" not in model and not release:
        return None
    plugin = answer_of("gst-inspect-1.0", "--exists", "nvarguscamerasrc")
    return Jetson(
        model or "Jetson",
        release,
        power_mode_of(answer_of("nvpmodel", "-q") or ""),
        power_modes_of(text_of(Path("/etc/nvpmodel.conf"))),
        plugin is not None,
    )


def devfreq_clock(folder: Path) -> Clock | None:
    """A Jetson's GPU clock in /sys/class/devfreq: 17000000.gpu, before JetPack 6 .ga10b or .gv11b."""
    for path in sorted(folder.glob("*")):
        if path.name.endswith((".gpu", ".ga10b", ".gv11b")) or path.name.startswith("gpu"):
            with suppress(ValueError):
                now, highest, lowest = (int(text_of(path / f"{name}_freq")) for name in ("cur", "max", "min"))
                return Clock(now // 10**6, highest // 10**6, lowest // 10**6)
    return None


def cameras_in(devices: Path) -> tuple[Camera, ...]:
    """The cameras in /dev, video2 before video10."""
    paths = sorted(devices.glob("video[0-9]*"), key=lambda path: (len(path.name), path.name))
    return tuple(
        Camera(
            str(path),
            text_of(Path("/sys/class/video4linux") / path.name / "name").strip(),
            os.access(path, os.R_OK | os.W_OK),
        )
        for path in paths
    )


def _first_line(*command: str, pattern: str = r"(.+)") -> str | None:
    found = re.search(pattern, (answer_of(*command) or "").strip())
    return found[1] if found else None


def _one_line(text: str) -> str:
    """A message's first line, of a length that can be read in a table."""
    return re.sub(r"\x1b\[[\d;]*m", "", (text.strip().splitlines() or [""])[0])[:300]
