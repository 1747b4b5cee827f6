"""Cameras and network streams: live, so that only the newest frame counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import cv2

from sdi.runtime.errors import DeviceError
from sdi.runtime.frame import Frame, Skipped
from sdi.runtime.sources import Source

__all__ = ["CameraSource"]

_OPEN_TIMEOUT_MS = 10_000
_READ_TIMEOUT_MS = 5_000


class CameraSource(Source):
    """A camera by its index, or a stream by its URL.

    Raises:
        DeviceError: it does not open; the text says what to try.
    """

    live = True
    length = None

    def __init__(self, target: int | str) -> None:
        self.name = f"camera:{target}" if isinstance(target, int) else _without_login(target)
        self._reading = threading.Lock()
        if isinstance(target, int):
            try:
                self._capture = cv2.VideoCapture(target)
            except cv2.error as error:  # an index beyond a C int
                raise DeviceError(_what_to_try(target)) from error
        else:
            limits = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                _OPEN_TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                _READ_TIMEOUT_MS,
            ]
            self._capture = cv2.VideoCapture(target, cv2.CAP_FFMPEG, limits)
        if not self._capture.isOpened():
            raise DeviceError(_what_to_try(target))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        if 0 < rate < 1000:  # some drivers answer nonsense
            self.fps = rate

    def frames(self) -> Iterator[Frame | Skipped]:
        index = 0
        while True:
            with self._reading:
                there, image = self._capture.read()
            captured, wall_time = time.monotonic(), time.time()
            if not there:
                raise DeviceError(f"{self.name} was lost after {index} frames: no frame came")
            # Named by the moment, so that a restarted run never writes over an earlier one's files.
            moment = datetime.fromtimestamp(wall_time, timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3]
            yield Frame(index, f"{moment}_{index:06d}", self.name, image, captured, wall_time)
            index += 1

    def close(self) -> None:
        # Released under a read that hangs in the driver, it would crash: that one ends with the process.
        if self._reading.acquire(blocking=False):
            self._capture.release()
            self._reading.release()


def _without_login(url: str) -> str:
    """The URL without user and password: it goes into logs and results."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _what_to_try(target: int | str) -> str:
    if isinstance(target, str):
        return (
            f"stream {_without_login(target)} does not open; check the address with ffplay, the network and the "
            "camera's login"
        )
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    if not found:
        return (
            f"camera {target} does not open: there is no /dev/video* on this machine; plug the camera in, load its "
            "driver, or in a container pass --device /dev/video0"
        )
    return (
        f"camera {target} does not open; there are {', '.join(found)}: try another index, close the program that "
        "holds it, or join the group 'video'"
    )
