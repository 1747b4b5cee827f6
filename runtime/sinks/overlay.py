"""Frames with their defects drawn in: pictures in a folder, a video, or a window."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import create_beside, ensure_folder
from sdi.runtime.common.images import write_image
from sdi.runtime.common.output_folder import claim_folder, remove_stale, safe_name
from sdi.runtime.frame import Result, Skipped
from sdi.runtime.inspection.defects import DefectRule, gray_level
from sdi.runtime.sinks.base import Sink
from sdi.runtime.sinks.view import WHOLE, Part

__all__ = ["OverlayFolderSink", "OverlayVideoSink", "WindowSink", "draw_overlay", "is_video_path"]

_TITLE = "sdi-run"
_VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv"}
_RED = (40, 40, 255)  # BGR
_GRAY = (190, 190, 190)
_PIXELS_A_LINE = 1000  # of the longer side: above 1500, lines are two pixels wide
_ROOM_FOR_LABELS = 128  # pixels; on a smaller picture the labels would cover the defects


def is_video_path(path: Path) -> bool:
    """Whether an overlay goes into one video file rather than into a folder."""
    return path.suffix.lower() in _VIDEO_SUFFIXES


def draw_overlay(result: Result, rule: DefectRule, part: Part | None = None) -> np.ndarray:
    """The frame with its defects in red, boxes around them and the ROI: (H, W, 3) uint8 BGR.

    Lines and labels grow with what is drawn, so that they can be seen where it is shown smaller.

    Args:
        part: rows and columns to draw; None: all.
    """
    rows, columns = part or WHOLE.part((result.saliency.shape[0], result.saliency.shape[1]))
    shift = np.array((columns.start, rows.start))
    image = result.frame.image[rows, columns].copy()
    line = max(1, round(max(image.shape) / _PIXELS_A_LINE))
    over = result.saliency[rows, columns] >= gray_level(rule.threshold)
    if rule.roi is not None:
        left, top, right, bottom, within = rule.roi.within(result.saliency.shape)
        counts = np.zeros(result.saliency.shape, bool)
        counts[top:bottom, left:right] = within
        over &= counts[rows, columns]
        cv2.polylines(image, [np.array(rule.roi.points, np.int32) - shift], True, _GRAY, line)
    image[over] = (0.55 * image[over] + 0.45 * np.array(_RED)).astype(np.uint8)
    for region in result.regions:
        x, y = region.x - shift[0], region.y - shift[1]
        corner = (int(x + region.width - 1), int(y + region.height - 1))
        cv2.rectangle(image, (int(x), int(y)), corner, _RED, line)
        if min(image.shape[:2]) >= _ROOM_FOR_LABELS:
            where = (int(x), int(y - 3 * line if y > 12 * line else corner[1] + 11 * line))
            label = f"{region.peak:.2f}" if region.id is None else f"#{region.id} {region.peak:.2f}"
            cv2.putText(image, label, where, cv2.FONT_HERSHEY_SIMPLEX, 0.35 * line, _RED, line, cv2.LINE_AA)
    return image


class OverlayFolderSink(Sink):
    """`FOLDER/NAME.png` for every frame."""

    def __init__(self, folder: Path, rule: DefectRule, *, overwrite: bool = False) -> None:
        self._folder = claim_folder(folder, "overlay", overwrite)
        self._rule = rule

    def write(self, result: Result) -> None:
        write_image(self._folder / f"{result.frame.name}.png", draw_overlay(result, self._rule))

    def note(self, skipped: Skipped) -> None:
        remove_stale(self._folder, skipped.name)


class OverlayVideoSink(Sink):
    """One video of all frames of each source: `path`; with several sources NAME-SOURCE in the same folder.

    A video gets its name when it is finished. Frames of another size are resized.

    Args:
        fps: of each source, by its name.
    Raises:
        InputError: a file exists and `overwrite` is not set, or cannot be written.
    """

    def __init__(self, path: Path, rule: DefectRule, fps: Mapping[str, float], *, overwrite: bool = False) -> None:
        self._rule = rule
        self._videos: dict[str, _Video] = {}
        try:
            for source, rate in fps.items():
                target = path if len(fps) == 1 else path.with_stem(f"{path.stem}-{safe_name(source)}")
                self._videos[source] = _Video(target, rate, overwrite)
        except BaseException:
            self.close(complete=False)
            raise

    def write(self, result: Result) -> None:
        self._videos[result.frame.source].write(draw_overlay(result, self._rule))

    def close(self, *, complete: bool) -> None:
        with ExitStack() as stack:  # each is closed, whatever happens to the others
            for video in self._videos.values():
                stack.callback(video.close)


class _Video:
    def __init__(self, path: Path, fps: float, overwrite: bool) -> None:
        ensure_folder(path.parent)
        self._path = path
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)
        try:
            if path.is_dir():
                raise InputError(f"{path} is a folder; choose another name for the video")
            if path.exists() and not overwrite:
                raise InputError(f"{path} exists; choose another name or pass --overwrite")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; choose another name") from error
        self._beside = create_beside(path)

    def write(self, image: np.ndarray) -> None:
        if self._writer is None:
            # Encoders want even sides.
            self._size_wh = (image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2)
            code = cv2.VideoWriter.fourcc(*("MJPG" if self._path.suffix.lower() == ".avi" else "mp4v"))
            self._writer = cv2.VideoWriter(str(self._beside), code, self._fps, self._size_wh)
            if not self._writer.isOpened():
                raise InputError(f"OpenCV cannot write video {self._path} here; use --overlay FOLDER or a .avi name")
        if (image.shape[1], image.shape[0]) != self._size_wh:
            image = cv2.resize(image, self._size_wh, interpolation=cv2.INTER_AREA)
        self._writer.write(image)

    def close(self) -> None:
        if self._writer is None:
            with suppress(OSError):
                self._beside.unlink()
            return
        self._writer.release()
        # What was recorded before a failure is evidence: keep it.
        try:
            self._beside.replace(self._path)
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}; the video is {self._beside}") from error


class WindowSink(Sink):
    """A window on the desktop for each source. `q`, Escape or closing a window ends the run.

    Raises:
        InputError: this OpenCV has no windows, or there is no display.
    """

    def __init__(self, rule: DefectRule) -> None:
        self._rule = rule
        self._titles: dict[str, str] = {}
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise InputError(
                "--show needs a display and an OpenCV with windows: pip uninstall opencv-python-headless && "
                "pip install opencv-python; without a display use --overlay"
            ) from error

    def write(self, result: Result) -> None:
        source = result.frame.source
        if source not in self._titles:
            self._titles[source] = f"{_TITLE} {source}" if self._titles else _TITLE
            cv2.namedWindow(self._titles[source], cv2.WINDOW_NORMAL)
        cv2.imshow(self._titles[source], draw_overlay(result, self._rule))
        key = cv2.waitKey(1) & 0xFF
        gone = cv2.getWindowProperty(self._titles[source], cv2.WND_PROP_VISIBLE) < 1
        self.closed |= key in (ord("q"), 27) or gone

    def close(self, *, complete: bool) -> None:
        for title in {_TITLE, *self._titles.values()}:
            cv2.destroyWindow(title)
