"""What the facts about a machine mean: each finding is a function of `Probes` alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sdi.runtime.doctor.finding import Finding, fault, note, ok
from sdi.runtime.doctor.probes import Part, Probes
from sdi.runtime.engine.tensorrt_library import LIBRARIES, TENSORRT

__all__ = ["examine_machine"]

_PYTHON = ((3, 10), (3, 14))  # from, and before: requires-python of pyproject.toml
_ONNX_RUNTIME = (1, 18)  # the first with ONNX IR version 10
_BINDING_WITHOUT_LOCK = (12, 9, 1)  # Source: cuda-bindings 12.9.1 and 13.0.0, release notes
_JETPACKS = {"36": "JetPack 6", "38": "JetPack 7", "39": "JetPack 7"}  # by release of Jetson Linux
_PLAN = "build a plan: sdi-export --target tensorrt"
_FEATURES = {  # of OpenCV: what they are for
    "FFMPEG": "video files and network streams",
    "GStreamer": "pipelines and CSI cameras",
    "v4l/v4l2": "cameras at /dev/video*",
}


def examine_machine(probes: Probes) -> list[Finding]:
    """All findings about a machine, in the order in which they are mended."""
    system, gpu = (python, opencv, jetson, cameras, extras), (driver, clock, tensorrt, cuda_binding)
    return [finding for check in (*system, *gpu, onnx_runtime, providers) for finding in check(probes)]


def python(probes: Probes) -> Iterator[Finding]:
    """Python's version, and sdi's."""
    first, last = _PYTHON
    found = f"{_dotted(probes.python)} on {probes.system} {probes.machine}"
    if first <= probes.python[:2] < last:
        yield ok("Python", found)
    else:
        newest = f"{last[0]}.{last[1] - 1}"
        yield fault("Python", found, f"make an environment with Python {_dotted(first)} to {newest}")
    version = probes.packages.get("sdi")
    yield ok("sdi", version) if version else note("sdi", "used from a folder, not installed", "pip install .")


def opencv(probes: Probes) -> Iterator[Finding]:
    """OpenCV, that only one is installed, and what it can open."""
    part = probes.opencv
    if part.missing:
        system = "comes with JetPack: make the environment with --system-site-packages"
        yield fault("OpenCV", "not installed", system if probes.jetson else "pip install 'sdi[opencv]'")
        return
    if len(part.packages) > 1:
        yield fault(
            "OpenCV",
            f"{', '.join(part.packages)} overwrite each other's files",
            f"pip uninstall {' '.join(part.packages)}" + ("" if probes.jetson else " && pip install 'sdi[opencv]'"),
        )
    if part.error is not None:
        numpy = "NumPy" in part.error or "numpy" in part.error
        yield fault(
            "OpenCV",
            f"cannot be imported: {part.error}",
            "pip install 'numpy<2'" if numpy and probes.jetson else _again(part, "opencv-python-headless"),
        )
        return
    if len(part.packages) <= 1:
        yield ok("OpenCV", f"{part.version} ({part.packages[0] if part.packages else 'of the system'})")
    features = probes.opencv_features
    for name, purpose in _FEATURES.items():
        if name.startswith("v4l") and probes.system != "Linux":
            continue
        if features.get(name):
            with_version = f", gst-launch-1.0 {probes.gstreamer}" if name == "GStreamer" and probes.gstreamer else ""
            yield ok(f"OpenCV: {name}", f"yes{with_version}: {purpose}")
        elif name == "GStreamer" and probes.jetson and part.packages:
            yield fault(
                f"OpenCV: {name}",
                f"{part.packages[0]} hides JetPack's OpenCV, which has it: no {purpose}",
                f"pip uninstall {' '.join(part.packages)}; make the environment with --system-site-packages",
            )
        elif name == "FFMPEG" and not features.get("GStreamer"):
            yield fault(f"OpenCV: {name}", f"no, nor GStreamer: no {purpose}", "pip install 'sdi[opencv]'")
        else:
            fix = "apt-get install python3-opencv, without a wheel of OpenCV" if name == "GStreamer" else ""
            yield note(f"OpenCV: {name}", f"no: no {purpose}", fix)


def jetson(probes: Probes) -> Iterator[Finding]:
    """Model, JetPack, power mode and CSI cameras; nothing on other machines."""
    board = probes.jetson
    if board is None:
        return
    release = re.search(r"R(\d+).*REVISION:\s*([\d.]+)", board.release)
    pack = _JETPACKS.get(release[1]) if release else None
    linux = f"Jetson Linux {release[1]}.{release[2]}" if release else "release unknown"
    if pack:
        yield ok("Jetson", f"{board.model}, {linux}, {pack}")
    else:
        yield note("Jetson", f"{board.model}, {linux}", "sdi is made for JetPack 6 and 7")
    best = next((name for name in ("MAXN_SUPER", "MAXN") if name in board.power_modes), None)
    if board.power_mode is None:
        yield note("power mode", "nvpmodel does not name it", "sudo nvpmodel -q; in a container, on the host")
    elif best is not None and board.power_mode != best:
        yield note("power mode", f"{board.power_mode}, {best} is faster", f"sudo nvpmodel -m {board.power_modes[best]}")
    else:
        yield ok("power mode", board.power_mode)
    if board.csi_plugin:
        yield ok("CSI cameras", "GStreamer has nvarguscamerasrc")
    else:
        yield note("CSI cameras", "GStreamer has no nvarguscamerasrc", "sudo apt-get install nvidia-l4t-gstreamer")


def driver(probes: Probes) -> Iterator[Finding]:
    """NVIDIA's driver and GPUs."""
    found = probes.driver
    if found is None:
        if probes.jetson or probes.nvidia_hardware:
            container = "in a container pass " + ("--runtime nvidia" if probes.jetson else "--gpus all")
            driver_of = "flash JetPack" if probes.jetson else "install NVIDIA's driver"
            yield fault("GPU", "an NVIDIA GPU is there, its driver (libcuda) is not", f"{driver_of}; {container}")
        else:
            yield note("GPU", "no NVIDIA GPU and no driver: engines run on the CPU")
        return
    version = f"driver {found.version}, " if found.version else ""
    if found.gpus:
        yield ok(
            "GPU",
            f"{', '.join(found.gpus)}, compute capability {found.capability}, {version}for CUDA "
            f"{_dotted(found.cuda)} at most",
        )
        return
    text = f"{version}the driver shows no GPU{f' ({found.error})' if found.error else ''}"
    if probes.nvidia_hardware or probes.jetson:
        yield fault("GPU", text, "nvidia-smi gives the reason; restart after an update, in a container pass --gpus all")
    else:
        yield note("GPU", f"{text}: engines run on the CPU", "in a container pass --gpus all")


def clock(probes: Probes) -> Iterator[Finding]:
    """The GPU's clock, where it can be read."""
    found = probes.clock
    if found is None:
        return
    text = f"{found.now_mhz} MHz of {found.max_mhz} MHz"
    if found.min_mhz is not None and found.min_mhz < found.max_mhz:
        yield note("GPU clock", f"{text}, follows the load: the first frames are slower", "sudo jetson_clocks")
    else:
        yield ok("GPU clock", text)


def onnx_runtime(probes: Probes) -> Iterator[Finding]:
    """ONNX Runtime: there, one, and new enough."""
    part, extra = probes.onnx_runtime, _extra(probes)
    if part.missing:
        yield fault("ONNX Runtime", "not installed", f"pip install 'sdi[{extra}]'")
        return
    if len(part.packages) > 1:
        yield fault(
            "ONNX Runtime",
            f"{' and '.join(part.packages)} are installed together and overwrite each other's files",
            f"pip uninstall {' '.join(part.packages)} && pip install 'sdi[{extra}]'",
        )
    if part.error is not None:
        yield fault(
            "ONNX Runtime",
            f"cannot be imported: {part.error}",
            f"pip uninstall {' '.join(part.packages) or 'onnxruntime'} && pip install 'sdi[{extra}]'",
        )
    elif _numbers(part.version) < _ONNX_RUNTIME:
        yield fault(
            "ONNX Runtime",
            f"{part.version} reads no engine of sdi, {_dotted(_ONNX_RUNTIME)} is the first that does",
            f"pip install --upgrade 'sdi[{extra}]'",
        )
    elif len(part.packages) <= 1:
        yield ok("ONNX Runtime", f"{part.version} ({part.packages[0] if part.packages else 'of the system'})")


def providers(probes: Probes) -> Iterator[Finding]:
    """ONNX Runtime's providers: each ran a network, or could not, and why."""
    for name, reason in probes.providers.items():
        check = f"ONNX Runtime: {name.removesuffix('ExecutionProvider')}"
        if reason is None:
            yield ok(check, "ran a network")
        elif name.startswith("CPU"):
            yield fault(check, f"does not run: {reason}", _again(probes.onnx_runtime, "onnxruntime"))
        elif name.startswith("CUDA") and probes.gpu:
            fix = _PLAN if probes.jetson else "pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]'"
            yield fault(check, f"does not run: {reason}", fix)
        elif name.startswith("Tensorrt") and probes.gpu:
            yield note(check, f"does not run: {reason}", f"not needed: {_PLAN}")
        else:
            yield note(check, "does not run here" + ("" if probes.gpu else ": no GPU"))
    if probes.providers and probes.gpu and "CUDAExecutionProvider" not in probes.providers:
        packages = " ".join(probes.onnx_runtime.packages) or "onnxruntime"
        yield note(
            "ONNX Runtime: CUDA",
            "not in this ONNX Runtime: ONNX engines leave the GPU idle",
            _PLAN if probes.jetson else f"pip uninstall {packages} && pip install 'sdi[gpu]'",
        )


def tensorrt(probes: Probes) -> Iterator[Finding]:
    """The two TensorRT libraries, which run plans."""
    for library in LIBRARIES:
        part = probes.tensorrt.get(library.target, Part())
        if part.version is not None:
            yield ok(library.title, part.version)
        elif part.error is not None:
            yield fault(library.title, part.error, library.install)
        elif library is TENSORRT and probes.jetson:
            yield fault(
                library.title,
                "not installed, though it comes with JetPack",
                "sudo apt-get install python3-libnvinfer; make the environment with --system-site-packages",
            )
        else:
            yield note(library.title, "not installed: its plans do not run", library.install if probes.gpu else "")


def cuda_binding(probes: Probes) -> Iterator[Finding]:
    """The CUDA binding that plans are run through, and that the driver is new enough for it."""
    installed = [name for name in ("cuda-bindings", "cuda-python", "pycuda") if name in probes.packages]
    wanted = f"pip install {'cuda-bindings' if probes.jetson else 'cuda-python'}"
    if probes.driver is not None and probes.driver.cuda[0]:
        major = probes.driver.cuda[0]
        first = _dotted(_BINDING_WITHOUT_LOCK) if major == _BINDING_WITHOUT_LOCK[0] else str(major)
        wanted = f"pip install '{wanted.split()[-1]}>={first},<{major + 1}'"
    if not installed:
        if probes.gpu and any(part.version for part in probes.tensorrt.values()):
            yield fault("CUDA binding", "neither cuda-python nor pycuda is installed: plans do not run", wanted)
        else:
            yield note("CUDA binding", "not installed: plans do not run", wanted if probes.gpu else "")
        return
    found = f"{installed[0]} {probes.packages[installed[0]]}"
    version = _numbers(probes.packages[installed[0]], 3)
    needs = version[:1]
    if probes.gpu and probes.driver is not None and installed[0] != "pycuda" and needs > probes.driver.cuda[:1]:
        yield fault(
            "CUDA binding",
            f"{found} is for CUDA {needs[0]}, the driver runs CUDA {_dotted(probes.driver.cuda)} at most",
            f"{wanted}, or update the driver",
        )
    elif probes.binding_error is None and installed[0] != "pycuda" and version < _BINDING_WITHOUT_LOCK:
        held = "holds Python's lock while it waits for the GPU: the watchdog and Ctrl-C wait too"
        yield note("CUDA binding", f"{found} shows the GPU, but {held}", wanted)
    elif probes.binding_error is None:
        yield ok("CUDA binding", f"{found}, shows the GPU")
    elif probes.gpu:
        yield fault("CUDA binding", f"{found} shows no GPU: {probes.binding_error}", wanted)
    else:
        yield note("CUDA binding", f"{found}, without a GPU to show")


def cameras(probes: Probes) -> Iterator[Finding]:
    """What lies at /dev/video*, and whether this user may open it."""
    if probes.system != "Linux":
        yield note("cameras", f"{probes.system} does not list them; try sdi-run --camera 0 --show")
    elif not probes.cameras:
        yield note("cameras", "no /dev/video*", "plug one in; in a container pass --device /dev/video0")
    for camera in probes.cameras:
        name = f" ({camera.name})" if camera.name else ""
        if camera.readable:
            yield ok(f"camera{name}", f"{camera.path} may be opened")
        else:
            yield fault(
                f"camera{name}",
                f"{camera.path} may not be opened by this user",
                "sudo usermod -aG video $USER, then log in again; in a container pass --group-add video",
            )


def extras(probes: Probes) -> Iterator[Finding]:
    """Packages for messages and metrics."""
    for package, purpose in (("paho-mqtt", "MQTT (--mqtt)"), ("prometheus-client", "Prometheus (/metrics of --http)")):
        version = probes.packages.get(package)
        if version:
            yield ok(purpose, f"{package} {version}")
        else:
            yield note(purpose, f"{package} is not installed", "pip install 'sdi[line]'")


def _extra(probes: Probes) -> str:
    """The extra of sdi that brings this machine's ONNX Runtime."""
    if probes.jetson:
        return "jetson6" if "R36" in probes.jetson.release else "jetson7"
    return "gpu" if probes.gpu and probes.machine in ("x86_64", "AMD64") else "cpu"


def _again(part: Part, package: str) -> str:
    """The command that installs a damaged package once more, and nothing else."""
    return f"pip install --force-reinstall --no-deps {' '.join(part.packages) or package}"


def _numbers(version: str | None, count: int = 2) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version or "")[:count])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
