"""Video files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from sdi.runtime.errors import InputError
from sdi.runtime.frame import Frame, Skipped
from sdi.runtime.sources import Source

__all__ = ["VideoSource"]


class VideoSource(Source):
    """Every frame of a video file, none dropped.

    Raises:
        InputError: OpenCV cannot open it as a video.
    """

    live = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.inputs = [path]
        self._stem = path.stem
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"{path} cannot be opened as a video; it is damaged or no format that OpenCV reads here")
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = count if count > 0 else None
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 25.0

    def frames(self) -> Iterator[Frame | Skipped]:
        index = 0
        while True:
            there, image = self._capture.read()
            if not there:
                break
            yield Frame(index, f"{self._stem}_{index:06d}", self.name, image, time.monotonic(), time.time())
            index += 1
        expected = self.length or 1
        if index < expected - expected // 50:  # containers without an index only estimate their length
            reason = f"{self.name} ended after {index} of {self.length or 'some'} frames; it is truncated or damaged"
            yield Skipped(f"{self._stem}_{index:06d}", self.name, reason, time.time())

    def close(self) -> None:
        self._capture.release()
