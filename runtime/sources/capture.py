"""What OpenCV captures live: V4L2 cameras, a Jetson's CSI cameras, GStreamer pipelines and network streams."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import cv2

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.sources.patient import PatientCapture
from sdi.runtime.sources.settings import LiveSettings

__all__ = ["csi_pipeline", "fourcc_of", "is_live", "open_capture", "open_video", "public_name"]

# Where a stream or a file is cut within a frame, FFmpeg would return half a picture and invent the rest. OpenCV takes
# FFmpeg's options from the environment alone; `prefer_tcp` is OpenCV's own default.
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|fflags;discardcorrupt")

# Likewise the seconds that a read from a V4L2 camera may take: OpenCV's default, 10 s, is too long for a line.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "5")

# What OpenCV needs at a pipeline's end: BGR, and the newest frame alone.
_APPSINK = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
_CSI_SIZE_WH, _CSI_FPS = (1280, 720), 30.0  # a mode that every CSI sensor for the Jetson has


def is_live(spec: str) -> bool:
    """Whether a source is a camera or stream rather than files."""
    return (
        spec.startswith(("camera:", "csi:", "gst:", "/dev/video", "/dev/v4l/"))
        or ("://" in spec and not spec.startswith("file://"))
        or " ! " in spec
    )


def public_name(spec: str) -> str:
    """A live source's name for logs and results: without the user and password of a URL."""
    if "://" in spec and not _pipeline(spec):
        parts = urlsplit(spec)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return re.sub(r"(user-pw|user-id|password)=\S+", r"\1=...", re.sub(r"://[^/\s@]*@", "://", spec))


def open_capture(spec: str, settings: LiveSettings) -> cv2.VideoCapture | PatientCapture:
    """Open what `spec` names; ask a camera for its settings.

    Raises:
        InputError: `spec` names no camera, or settings of cameras were given for a stream.
        DeviceError: it does not open; the text names what to try.
    """
    pipeline = _pipeline(spec)
    if spec.startswith("csi:"):
        pipeline = csi_pipeline(_index(spec, "csi:"), settings)
    elif pipeline is None and "://" not in spec:
        path = spec.removeprefix("camera:")
        return _open_camera(path if path.startswith("/dev/") else _index(spec, "camera:"), settings)
    if not spec.startswith("csi:") and (settings.fps is not None or settings.fourcc is not None):
        raise InputError(f"--fps and --fourcc are for cameras; set them where {public_name(spec)} is made")
    capture: cv2.VideoCapture | PatientCapture
    if pipeline is None:
        open_ms, read_ms = (round(1000 * s) for s in (settings.open_timeout_s, settings.read_timeout_s))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        capture = cv2.VideoCapture(spec, cv2.CAP_FFMPEG, limits)
        advice = "check the address with ffplay, the network and the camera's login"
    else:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise DeviceError(
                f"{public_name(spec)} needs GStreamer, and this OpenCV {cv2.__version__} is built without it: on a "
                "Jetson use JetPack's own (pip uninstall opencv-python opencv-python-headless; a virtual environment "
                "needs --system-site-packages), on Debian or Ubuntu apt-get install python3-opencv; streams and "
                "/dev/video0 work without GStreamer"
            )
        advice = f"try it: gst-launch-1.0 {public_name(pipeline.rpartition(' ! ')[0])} ! fakesink"
        try:
            capture = PatientCapture(
                partial(cv2.VideoCapture, pipeline, cv2.CAP_GSTREAMER), settings.open_timeout_s, settings.read_timeout_s
            )
        except DeviceError as error:
            raise DeviceError(f"pipeline {public_name(spec)} does not open: {error}; {advice}") from error
    if not capture.isOpened():
        capture.release()
        what = "stream" if pipeline is None else "pipeline"
        raise DeviceError(f"{what} {public_name(spec)} does not open; {advice}")
    return capture


def open_video(path: Path) -> cv2.VideoCapture:
    """Open a video file; the caller looks whether it is open."""
    return cv2.VideoCapture(str(path))


def csi_pipeline(number: int, settings: LiveSettings) -> str:
    """GStreamer pipeline of a Jetson's CSI camera.

    Source: NVIDIA's Accelerated GStreamer guide; nvvidconv gives BGRx at most, the last step is on the CPU.
    """
    width, height = settings.size_wh or _CSI_SIZE_WH
    rate = f"{round((settings.fps or _CSI_FPS) * 1000)}/1000"
    return (
        f"nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),width={width},height={height},"
        f"framerate={rate} ! nvvidconv ! video/x-raw,format=BGRx ! {_APPSINK}"
    )


def fourcc_of(capture: cv2.VideoCapture | PatientCapture) -> str:
    """The pixel format that a capture delivers before conversion, e.g. "MJPG"; empty where it is unknown."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    letters = code.to_bytes(4, "little") if 0 < code < 1 << 32 else b""
    return letters.decode("ascii", "replace").strip() if letters.isascii() else ""


def _pipeline(spec: str) -> str | None:
    """The pipeline in `spec`, with the end that OpenCV needs; None where `spec` is none."""
    if not spec.startswith("gst:") and " ! " not in spec:
        return None
    pipeline = spec.removeprefix("gst:").strip()
    return pipeline if "appsink" in pipeline else f"{pipeline} ! {_APPSINK}"


def _index(spec: str, scheme: str) -> int:
    """1 of "camera:1" or "csi:1"."""
    text = spec.removeprefix(scheme)
    if not text.isdecimal():
        raise InputError(f"'{spec}': a camera is given by its index, e.g. {scheme}0")
    return int(text)


def _open_camera(target: int | str, settings: LiveSettings) -> cv2.VideoCapture:
    try:
        capture = cv2.VideoCapture(target, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
    except cv2.error as error:  # an index beyond a C int
        raise DeviceError(_what_to_try(target)) from error
    if not capture.isOpened():
        raise DeviceError(_what_to_try(target))
    # The pixel format first: it decides which sizes and rates there are.
    if settings.fourcc is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*settings.fourcc))
    if settings.size_wh is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.size_wh[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.size_wh[1])
    if settings.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, settings.fps)
    wrong = _not_as_asked(capture, settings)
    if wrong:
        capture.release()
        device = target if isinstance(target, str) else f"/dev/video{target}"
        raise DeviceError(
            f"camera {target} {wrong}; v4l2-ctl -d {device} --list-formats-ext shows what formats, sizes and rates "
            "it has"
        )
    return capture


def _not_as_asked(capture: cv2.VideoCapture, settings: LiveSettings) -> str:
    """Where a driver did not follow the settings; empty where it did. Drivers silently take the nearest ones."""
    fourcc, rate = fourcc_of(capture), capture.get(cv2.CAP_PROP_FPS)
    if settings.fourcc is not None and fourcc and fourcc != settings.fourcc.strip():
        return f"gives {fourcc}, --fourcc asks for {settings.fourcc}"
    size_wh = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    if settings.size_wh is not None and size_wh != settings.size_wh:
        return "gives {}x{}, --resolution asks for {}x{}".format(*size_wh, *settings.size_wh)
    if settings.fps is not None and rate > 0 and abs(rate - settings.fps) > 0.05 * settings.fps:
        return f"gives {rate:g} frames a second, --fps asks for {settings.fps:g}"
    return ""


def _what_to_try(target: int | str) -> str:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    if not found:
        return (
            f"camera {target} does not open: there is no /dev/video* on this machine; plug the camera in, load its "
            "driver, or in a container pass --device /dev/video0"
        )
    return (
        f"camera {target} does not open; there are {', '.join(found)}: try another one, close the program that "
        "holds it, or join the group 'video'"
    )
