"""Cameras and streams: lost and back, frozen, another size. The streams are real; there is no camera to be had."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources import live as live_module
from sdi.runtime.sources.base import Source
from sdi.runtime.sources.capture import csi_pipeline, is_live, open_capture, public_name
from sdi.runtime.sources.open import open_source
from sdi.runtime.sources.settings import LiveSettings

Items = list["Frame | Skipped | Event"]


@pytest.fixture(autouse=True)
def quick_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "BACK_OFF_S", (0.01,))


def _levels(*levels: int, size_hw: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    return [np.full((*size_hw, 3), level, np.uint8) for level in levels]


def _until(source: Source, frames: int) -> Items:
    """What comes until so many frames have come."""
    items: Items = []
    for item in source.frames():
        items.append(item)
        if sum(isinstance(item, Frame) for item in items) == frames:
            source.stop()
    return items


def _frames(items: Items) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def _kinds(items: Items) -> list[str]:
    return [item.kind for item in items if isinstance(item, Event)]


def test_a_stream_that_comes_back_goes_on_counting(mjpeg: Any) -> None:
    mjpeg.push(*_levels(*range(0, 96, 8)))
    mjpeg.end()
    mjpeg.push(*_levels(*range(100, 196, 8)))
    with open_source(mjpeg.url) as source:
        items = _until(source, 24)
    frames = _frames(items)
    assert [frame.index for frame in frames] == list(range(24))
    assert len({frame.name for frame in frames}) == 24
    levels = [float(frame.image.mean()) for frame in frames]
    assert levels == pytest.approx([*range(0, 96, 8), *range(100, 196, 8)], abs=2)  # none invented, none repeated
    lost, back = items[12:14]
    assert isinstance(lost, Event)
    assert isinstance(back, Event)
    assert _kinds(items) == ["source_lost", "source_back"]
    assert lost.details == {"reason": "no frame came"}
    assert back.details["attempts"] >= 1
    assert back.details["format"] in ("64x48 MJPG", "64x48 mjpe")  # OpenCV 4.6 tells FFmpeg's own tag
    gap_s = frames[12].captured - frames[11].captured
    assert back.details["outage_s"] == pytest.approx(gap_s, abs=0.01)


def test_a_frame_that_the_loss_cuts_is_not_handed_out(mjpeg: Any, picture: Callable[..., np.ndarray]) -> None:
    """FFmpeg would fill the rest of it with what it likes."""
    mjpeg.push(*(picture(seed, (96, 128)) for seed in range(12)))
    mjpeg.cut(picture(99, (96, 128)))
    with (
        open_source(mjpeg.url, LiveSettings(give_up_s=0)) as source,
        pytest.raises(DeviceError, match="lost after 12 frames"),
    ):
        for item in source.frames():
            if isinstance(item, Frame):
                difference = np.abs(item.image.astype(int) - picture(item.index, (96, 128)))
                assert difference[-16:].mean() < 8


def test_a_stream_that_comes_back_in_another_size_is_told(mjpeg: Any) -> None:
    mjpeg.push(*_levels(*range(12)))
    mjpeg.end()
    mjpeg.push(*_levels(*range(12), size_hw=(96, 128)))
    with open_source(mjpeg.url) as source:
        items = _until(source, 24)
    assert _kinds(items) == ["source_lost", "source_back", "source_changed"]
    changed = next(item for item in items if isinstance(item, Event) and item.kind == "source_changed")
    assert changed.details["before"] in ("64x48 MJPG", "64x48 mjpe")
    assert changed.details["now"] in ("128x96 MJPG", "128x96 mjpe")
    assert [frame.image.shape[:2] for frame in _frames(items)] == [(48, 64)] * 12 + [(96, 128)] * 12


def test_a_required_size_is_required_again_after_an_outage(mjpeg: Any) -> None:
    mjpeg.push(*_levels(*range(12)))
    mjpeg.end()
    mjpeg.push(*_levels(*range(12), size_hw=(96, 128)))
    mjpeg.end()
    mjpeg.push(*_levels(*range(50, 62)))
    with open_source(mjpeg.url, LiveSettings(size_wh=(64, 48))) as source:
        items = _until(source, 24)
    assert _kinds(items) == ["source_lost", "source_back"]
    assert {frame.image.shape[:2] for frame in _frames(items)} == {(48, 64)}


def test_a_stream_of_another_size_than_required_is_lost_at_once(mjpeg: Any) -> None:
    mjpeg.push(*_levels(*range(12)))
    with (
        open_source(mjpeg.url, LiveSettings(size_wh=(640, 480), give_up_s=0)) as source,
        pytest.raises(DeviceError, match=r"lost after 0 frames: it gives 64x48, --resolution asks for 640x480"),
    ):
        list(source.frames())


def test_a_size_that_changes_within_a_stream_leaves_frames_whole(mjpeg: Any) -> None:
    """FFmpeg fits the new pictures to the first size; what counts is that all of the scene is in them."""
    across = np.tile(np.linspace(0, 255, 128), (96, 1)).astype(np.uint8)
    large = cv2.merge([across, across, across])
    mjpeg.push(*[cv2.resize(large, (64, 48), interpolation=cv2.INTER_AREA)] * 12, *[large] * 12)
    with open_source(mjpeg.url, LiveSettings(frozen_after=0)) as source:
        frames = _frames(_until(source, 24))
    for frame in frames:
        height, width = frame.image.shape[:2]
        expected = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(frame.image.astype(int) - expected).mean() < 4


def test_a_frozen_camera_is_told_and_its_frames_are_withheld(mjpeg: Any) -> None:
    mjpeg.push(*_levels(0, *[80] * 20, 160, 200))
    with open_source(mjpeg.url, LiveSettings(frozen_after=5)) as source:
        items = _until(source, 7)
    assert [frame.index for frame in _frames(items)] == [0, 1, 2, 3, 4, 21, 22]
    assert _kinds(items) == ["source_frozen", "source_moving"]
    frozen, moving = (item for item in items if isinstance(item, Event))
    assert frozen.details == {"frames": 5}
    assert moving.details == {"frames": 20}


def test_the_memory_of_a_dropped_frame_is_written_again(mjpeg: Any) -> None:
    """And still no two frames are taken for equal, nor does one change that somebody holds."""
    mjpeg.push(*_levels(*range(0, 240, 8)))
    kept: list[Frame] = []
    with open_source(mjpeg.url, LiveSettings(frozen_after=2)) as source:
        addresses = set()
        waiting: Frame | None = None
        for item in source.frames():
            assert isinstance(item, Frame)  # no `source_frozen`
            addresses.add(item.image.ctypes.data)
            if waiting is not None:
                source.recycle(waiting.image)  # as the loop does when a newer frame takes its place
            waiting = item
            if item.index % 10 == 9:
                kept.append(item)
                waiting = None
            if item.index == 29:
                source.stop()
    assert [float(frame.image.mean()) for frame in kept] == pytest.approx([72, 152, 232], abs=2)
    assert len(addresses) <= 8


def test_stop_ends_the_back_off_at_once(mjpeg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "BACK_OFF_S", (3600.0,))
    mjpeg.push(*_levels(*range(12)))
    mjpeg.end()
    lost, ended = threading.Event(), threading.Event()

    def run(source: Source) -> None:
        for item in source.frames():
            if isinstance(item, Event):
                lost.set()
        ended.set()

    with open_source(mjpeg.url) as source:
        threading.Thread(target=run, args=(source,), daemon=True).start()
        assert lost.wait(20)
        source.stop()
        assert ended.wait(20)


@pytest.mark.parametrize("name", ["strip.avi", "strip.mp4"])
def test_a_recording_behind_a_url_is_a_video_and_ends(name: str, make_video: Callable[..., Path]) -> None:
    path = make_video(name, frames=30)
    handler = functools.partial(_QuietHandler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with open_source(f"http://127.0.0.1:{server.server_address[1]}/{name}") as source:
                frames = [item for item in source.frames() if isinstance(item, Frame)]
        finally:
            server.shutdown()
            thread.join(20)
    assert not source.live
    assert source.length == len(frames) == 30
    assert frames[3].name == "strip_000003"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("spec", "live"),
    [
        ("camera:0", True),
        ("/dev/video2", True),
        ("csi:0", True),
        ("rtsp://u:p@10.0.0.5/1", True),
        ("tcp://10.0.0.5:5000", True),
        ("videotestsrc ! appsink", True),
        ("gst:videotestsrc", True),
        ("file:///strip.avi", False),
        ("strip/*.png", False),
        ("wow!.png", False),
    ],
)
def test_what_is_live(spec: str, live: bool) -> None:
    assert is_live(spec) == live


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("rtsp://user:secret@10.0.0.5:554/1?x=2", "rtsp://10.0.0.5:554/1?x=2"),
        ("rtspsrc location=rtsp://u:secret@cam/1 ! decodebin", "rtspsrc location=rtsp://cam/1 ! decodebin"),
        ("rtspsrc user-id=u user-pw=secret ! decodebin", "rtspsrc user-id=... user-pw=... ! decodebin"),
        ("camera:0", "camera:0"),
    ],
)
def test_names_hold_no_login(spec: str, name: str) -> None:
    assert public_name(spec) == name


def test_the_pipeline_of_a_csi_camera() -> None:
    text = csi_pipeline(1, LiveSettings(fps=59.94, size_wh=(1920, 1080)))
    assert text.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=59940/1000 ! "
    )
    assert text.endswith("video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false")


@pytest.mark.no_gstreamer
@pytest.mark.parametrize("spec", ["csi:0", "gst:videotestsrc num-buffers=3", "videotestsrc ! appsink"])
def test_without_gstreamer_it_says_how_to_get_it(spec: str) -> None:
    with pytest.raises(DeviceError, match=r"needs GStreamer, and this OpenCV .* is built without it: on a Jetson"):
        open_source(spec)


@pytest.mark.parametrize("settings", [LiveSettings(fps=30), LiveSettings(fourcc="MJPG")])
def test_settings_of_cameras_are_refused_for_streams(settings: LiveSettings) -> None:
    with pytest.raises(InputError, match=r"--fps and --fourcc are for cameras; set them where http://x/1 is made"):
        open_source("http://u:p@x/1", settings)


class Driver:
    """A V4L2 driver as seen through OpenCV: it knows two modes, and takes the nearer one without a word."""

    def __init__(self, images: list[np.ndarray], fps: float = 30.0) -> None:
        self.images = iter(images)
        self.values: dict[int, float] = {cv2.CAP_PROP_FPS: fps}
        self.released = False
        self.order: list[int] = []

    def set(self, prop: int, value: float) -> bool:
        self.order.append(prop)
        if prop == cv2.CAP_PROP_FRAME_WIDTH:
            value = 640 if value < 1000 else 1920
        if prop == cv2.CAP_PROP_FRAME_HEIGHT:
            value = 480 if value < 1000 else 1080
        if prop != cv2.CAP_PROP_FPS:
            self.values[prop] = value
        return True

    def get(self, prop: int) -> float:
        return self.values.get(prop, 0.0)

    def isOpened(self) -> bool:
        return True

    def read(self, image: np.ndarray | None = None) -> tuple[bool, np.ndarray | None]:
        image = next(self.images, None)
        return image is not None, image

    def release(self) -> None:
        self.released = True


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Driver]]:
    def make(*images: np.ndarray) -> Driver:
        driver = Driver(list(images))
        monkeypatch.setattr(cv2, "VideoCapture", lambda *_: driver)
        return driver

    return make  # type: ignore[return-value]


def test_a_camera_is_asked_for_its_format_first(camera: Callable[..., Driver]) -> None:
    driver = camera()
    open_capture("camera:0", LiveSettings(fps=30, size_wh=(1920, 1080), fourcc="MJPG"))
    assert driver.order[0] == cv2.CAP_PROP_FOURCC
    assert driver.values[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (LiveSettings(size_wh=(1280, 720)), "gives 1920x480, --resolution asks for 1280x720"),
        (LiveSettings(fps=60), "gives 30 frames a second, --fps asks for 60"),
    ],
)
def test_a_camera_that_does_otherwise_is_refused(
    settings: LiveSettings, text: str, camera: Callable[..., Driver]
) -> None:
    driver = camera()
    with pytest.raises(DeviceError, match=rf"camera /dev/video7 {text}; v4l2-ctl -d /dev/video7 --list-formats-ext"):
        open_source("/dev/video7", settings)
    assert driver.released


@pytest.mark.parametrize("shape", [(8, 10), (8, 10, 1), (8, 10, 4)])
def test_gray_and_bgra_become_bgr(shape: tuple[int, ...], camera: Callable[..., Driver]) -> None:
    camera(np.full(shape, 77, np.uint8))
    with open_source("camera:0") as source:
        (frame,) = _until(source, 1)
    assert isinstance(frame, Frame)
    assert frame.image.shape == (8, 10, 3)
    assert (frame.image == 77).all()


@pytest.mark.parametrize("image", [np.zeros((8, 10, 2), np.uint8), np.zeros((8, 10, 3), np.uint16)])
def test_what_is_no_colour_picture_is_refused(image: np.ndarray, camera: Callable[..., Driver]) -> None:
    camera(image)
    with (
        open_source("camera:0", LiveSettings(give_up_s=0)) as source,
        pytest.raises(DeviceError, match=r"it gives frames of .*, expected \(H, W, 3\) uint8; end the pipeline with"),
    ):
        list(source.frames())
