"""Videos: files, and recordings behind a URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2

from sdi.runtime.common.errors import InputError
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources.base import Source
from sdi.runtime.sources.capture import open_video
from sdi.runtime.sources.patient import PatientCapture

__all__ = ["VideoSource"]


class VideoSource(Source):
    """Every frame of a video, none dropped.

    Args:
        video: the file, or a URL that `capture` was opened with.
        capture: an opened video; by default the file is opened here.
    Raises:
        InputError: OpenCV cannot open it as a video.
    """

    live = False

    def __init__(self, video: Path | str, capture: cv2.VideoCapture | PatientCapture | None = None) -> None:
        self.name = str(video)
        self.inputs = [video] if isinstance(video, Path) else []
        self._stem = PurePosixPath(video).stem
        self._capture = open_video(Path(video)) if capture is None else capture
        if not self._capture.isOpened():
            raise InputError(f"{video} cannot be opened as a video; it is damaged or no format that OpenCV reads here")
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = count if count > 0 else None
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 25.0

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        index = 0
        while True:
            there, image = self._capture.read()
            if not there or image is None:
                break
            yield self.frame(index, f"{self._stem}_{index:06d}", image)
            index += 1
        expected = self.length or 1
        if index < expected - expected // 50:  # containers without an index only estimate their length
            reason = f"{self.name} ended after {index} of {self.length or 'some'} frames; it is truncated or damaged"
            yield self.skipped(f"{self._stem}_{index:06d}", reason)

    def close(self) -> None:
        self._capture.release()
