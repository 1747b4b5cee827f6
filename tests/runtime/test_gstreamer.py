"""Live sources through GStreamer itself: a Jetson's own kind. They need an OpenCV that is built with it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources.open import open_source
from sdi.runtime.sources.patient import PatientCapture
from sdi.runtime.sources.settings import LiveSettings

SIZE = "video/x-raw,width=64,height=48"
RTP = "application/x-rtp,media=video,encoding-name=JPEG,payload=26,clock-rate=90000"


def _first(items: Iterator[Frame | Skipped | Event], kind: str) -> Event:
    return next(item for item in items if isinstance(item, Event) and item.kind == kind)


@pytest.mark.gstreamer
def test_a_pipeline_gives_frames() -> None:
    with open_source(f"gst:videotestsrc pattern=ball ! {SIZE}") as source:
        assert source.live
        items = source.frames()
        frames = [next(items) for _ in range(3)]
    assert [frame.image.shape for frame in frames if isinstance(frame, Frame)] == [(48, 64, 3)] * 3


@pytest.mark.gstreamer
def test_a_pipeline_that_ends_is_lost_and_comes_back() -> None:
    with open_source(f"gst:videotestsrc num-buffers=20 is-live=true pattern=ball ! {SIZE}") as source:
        items = source.frames()
        assert isinstance(next(items), Frame)
        assert _first(items, "source_lost").details == {"reason": "no frame came"}
        assert _first(items, "source_back").details["attempts"] >= 1
        assert isinstance(next(items), Frame)


@pytest.mark.gstreamer
@pytest.mark.parametrize("pipeline", ["no-such-element ! video/x-raw", "videotestsrc ! video/x-raw,format=NONE"])
def test_a_wrong_pipeline_is_refused_with_the_command_that_tells_why(
    pipeline: str,
) -> None:
    with pytest.raises(DeviceError, match=r"^pipeline gst:.* does not open.*try it: gst-launch-1.0 .* ! fakesink$"):
        open_source(f"gst:{pipeline}", LiveSettings(open_timeout_s=1))


@pytest.mark.gstreamer
def test_a_pipeline_that_goes_silent_is_lost(closed_port: int) -> None:
    """The sender is stopped, not ended: nothing tells GStreamer, and OpenCV before 4.7 waits for ever."""
    launch = shutil.which("gst-launch-1.0")
    assert launch is not None, "apt-get install gstreamer1.0-tools"
    sent = f"videotestsrc is-live=true pattern=ball ! {SIZE},format=I420,framerate=25/1 ! jpegenc ! rtpjpegpay"
    sender = subprocess.Popen(
        [launch, "--quiet", *f"{sent} ! udpsink host=127.0.0.1 port={closed_port}".split()], stdout=subprocess.DEVNULL
    )
    received = f"gst:udpsrc address=127.0.0.1 port={closed_port} ! {RTP} ! rtpjpegdepay ! jpegdec"
    try:
        with open_source(received, LiveSettings(give_up_s=0, read_timeout_s=1)) as source:
            items = source.frames()
            assert isinstance(next(items), Frame)
            sender.send_signal(signal.SIGSTOP)
            assert "nothing came for 1 s" in _first(items, "source_lost").details["reason"]
    finally:
        sender.kill()
        sender.wait()


@pytest.mark.gstreamer
def test_an_rtsp_camera_through_a_pipeline(closed_port: int) -> None:
    server = subprocess.Popen(
        ["/usr/bin/python3", str(Path(__file__).with_name("rtsp_server.py")), str(closed_port), "64", "48"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
        spec = f"gst:rtspsrc location=rtsp://u:secret@127.0.0.1:{closed_port}/strip ! rtpjpegdepay ! jpegdec"
        with open_source(spec) as source:
            assert "secret" not in source.name
            frame = next(iter(source.frames()))
            assert isinstance(frame, Frame)
            assert frame.image.shape == (48, 64, 3)
    finally:
        server.kill()
        server.communicate()


class Silent:
    """A backend whose read never returns until it is let go, as GStreamer's in OpenCV before 4.7."""

    def __init__(self) -> None:
        self.asked, self.let_go, self.released = threading.Event(), threading.Event(), threading.Event()

    def isOpened(self) -> bool:
        return True

    def get(self, prop: int) -> float:
        return 0.0

    def read(self, image: np.ndarray | None = None) -> tuple[bool, np.ndarray | None]:
        self.asked.set()
        assert self.let_go.wait(60)
        return False, None

    def release(self) -> None:
        assert self.let_go.is_set(), "released under a read that hangs"
        self.released.set()


def test_a_read_that_never_returns_is_a_lost_source(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Silent()
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: silent)
    with (
        open_source("gst:silent ! appsink", LiveSettings(give_up_s=0, read_timeout_s=0.05)) as source,
        pytest.raises(DeviceError, match=r"was lost after 0 frames: nothing came for 0.05 s"),
    ):
        for item in source.frames():
            assert isinstance(item, Event)
            assert item.kind == "source_lost"
    assert silent.asked.is_set()
    assert not silent.released.is_set()
    silent.let_go.set()
    assert silent.released.wait(60)  # once it answers, it is closed by the thread that reads it


def test_captures_that_hang_are_not_heaped_up(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Silent()
    monkeypatch.setattr(PatientCapture, "MOST_HUNG", 2)
    monkeypatch.setattr(PatientCapture, "_hung", [])
    for _ in range(2):
        capture = PatientCapture(lambda: silent, 10, 0.01)  # type: ignore[arg-type,return-value]
        with pytest.raises(DeviceError, match="nothing came"):
            capture.read()
    with pytest.raises(DeviceError, match=r"2 earlier attempts hang in OpenCV .*; start sdi-run again"):
        PatientCapture(lambda: silent, 10, 0.01)  # type: ignore[arg-type,return-value]
    silent.let_go.set()
    for thread in PatientCapture._hung:
        thread.join(60)
    PatientCapture(lambda: silent, 10, 10).release()  # type: ignore[arg-type,return-value]
