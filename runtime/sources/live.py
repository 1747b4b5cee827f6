"""A camera or stream that is kept alive: lost, tried again, back; and never a frame that it did not give."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import chain, repeat

import cv2
import numpy as np

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources.base import Source
from sdi.runtime.sources.capture import fourcc_of, open_capture, public_name
from sdi.runtime.sources.patient import PatientCapture
from sdi.runtime.sources.settings import LiveSettings
from sdi.runtime.sources.video import VideoSource

__all__ = ["BACK_OFF_S", "LiveSource", "open_live"]

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)  # between attempts; the last one goes on


def open_live(spec: str, settings: LiveSettings) -> Source:
    """A live source. The URL of a recording, which has an end, gives a video with every frame instead.

    Raises:
        InputError, DeviceError: see `open_capture`.
    """
    capture = open_capture(spec, settings)
    if "://" in spec and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return VideoSource(public_name(spec), capture)
    return LiveSource(spec, settings, capture)


class LiveSource(Source):
    """A camera or stream, opened again with a back-off whenever it is lost.

    Events: `source_lost`; `source_back`, with the time between two frames as `outage_s`; `source_changed` when it comes
    back with another size or pixel format; `source_frozen` when the same picture came `frozen_after` times;
    `source_moving` when another picture came after that. Equal frames of a frozen source are counted and withheld.

    Args:
        spec, settings: see `open_source`.
        capture: opened by `open_capture`.
    """

    live = True
    endless = True

    def __init__(self, spec: str, settings: LiveSettings, capture: cv2.VideoCapture | PatientCapture) -> None:
        self.name = public_name(spec)
        self._spec = spec
        self._settings = settings
        self._capture: cv2.VideoCapture | PatientCapture | None = capture
        self._reading = threading.Lock()
        self._spare: np.ndarray | None = None
        rate = capture.get(cv2.CAP_PROP_FPS)
        if 0 < rate < 1000:  # some drivers answer nonsense
            self.fps = rate

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        index, form, outage = 0, "", None
        still = _StillWatch(self._settings.frozen_after)
        last_seen = time.monotonic()
        while not self.stopping:
            try:
                image, fourcc = self._read()
            except DeviceError as error:
                if self.stopping:
                    return
                self._release()
                if outage is None:
                    outage = _Outage()
                    yield self.event("source_lost", f"was lost after {index} frames: {error}", reason=str(error))
                outage.attempts += 1
                limit = self._settings.give_up_s
                if limit is not None and time.monotonic() - outage.since >= limit:
                    raise DeviceError(f"{self.name} was lost after {index} frames: {error}") from None
                self.pause(next(outage.delays))
                continue
            now, wall_time = time.monotonic(), time.time()
            self.seen = now  # frozen frames are withheld, and are no silence
            found = f"{image.shape[1]}x{image.shape[0]} {fourcc}".strip()
            if outage is not None:
                facts = {"outage_s": round(now - last_seen, 3), "attempts": outage.attempts, "format": found}
                yield self.event("source_back", f"is back after {now - last_seen:.1f} s", **facts)
                outage, still = None, _StillWatch(self._settings.frozen_after)
            if form and found != form:
                yield self.event("source_changed", f"changed from {form} to {found}", before=form, now=found)
            form, last_seen = found, now
            frozen_before = still.frozen
            still.look(image)
            if still.frozen and not frozen_before:
                yield self.event("source_frozen", f"gave the same picture {still.equal} times", frames=still.equal)
            elif frozen_before and not still.frozen:
                yield self.event("source_moving", "moves again", frames=frozen_before)
            if not still.frozen:
                # Named by the moment, so that a restarted run never writes over an earlier one's files.
                moment = datetime.fromtimestamp(wall_time, timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3]
                yield Frame(index, f"{self.prefix}{moment}_{index:06d}", self.name, image, now, wall_time)
            index += 1

    def recycle(self, image: np.ndarray) -> None:
        self._spare = image

    def close(self) -> None:
        self._release()

    def _release(self) -> None:
        # Released under a read that hangs in the driver, it would crash: that one ends with the process.
        if self._reading.acquire(blocking=False):
            if self._capture is not None:
                self._capture.release()
                self._capture = None
            self._reading.release()

    def _read(self) -> tuple[np.ndarray, str]:
        """The next picture, (H, W, 3) uint8 BGR, and its pixel format at the camera. Opens what is closed.

        Raises:
            DeviceError: no frame came, or one that is not what was asked for.
        """
        with self._reading:
            if self._capture is None:
                try:
                    self._capture = open_capture(self._spec, self._settings)
                except InputError as error:
                    raise DeviceError(str(error)) from error
            spare, self._spare = self._spare, None
            try:
                there, image = self._capture.read() if spare is None else self._capture.read(spare)
            except cv2.error as error:
                raise DeviceError(f"the frame cannot be read: {error.err}") from error
            if not there or image is None or image.size == 0:
                raise DeviceError("no frame came")
            fourcc = fourcc_of(self._capture)
        image = _as_bgr(image)
        size_wh = (image.shape[1], image.shape[0])
        asked = self._settings.size_wh
        if asked is not None and size_wh != asked:
            raise DeviceError("it gives {}x{}, --resolution asks for {}x{}".format(*size_wh, *asked))
        return image, fourcc


class _Outage:
    def __init__(self) -> None:
        self.since = time.monotonic()
        self.attempts = 0
        self.delays = chain(BACK_OFF_S, repeat(BACK_OFF_S[-1]))


class _StillWatch:
    """Counts equal pictures in a row."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last: np.ndarray | None = None
        self.equal = 1

    @property
    def frozen(self) -> int:
        """How many equal pictures there were, once they are too many; else 0."""
        return self.equal if self._limit and self.equal >= self._limit else 0

    def look(self, image: np.ndarray) -> None:
        last = self._last
        # Noise tells two pictures of a working sensor apart at a glance; all is compared only where it does not.
        same = (
            last is not None
            and last.shape == image.shape
            and np.array_equal(last[::31, ::31], image[::31, ::31])
            and np.array_equal(last, image)
        )
        self.equal = self.equal + 1 if same else 1
        self._last = image  # the newest, even among equals: the memory of an earlier one may be written again


def _as_bgr(image: np.ndarray) -> np.ndarray:
    """Gray and BGRA as BGR. Other formats are refused, because their values are not colours."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] == 1):
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.dtype == np.uint8 and image.shape[2] == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    raise DeviceError(
        f"it gives frames of {image.shape} {image.dtype}, expected (H, W, 3) uint8; end the pipeline with "
        "videoconvert ! video/x-raw,format=BGR ! appsink"
    )
