"""Frames in windows: cut, run in batches, stitched in place. Beside frame and map, memory is that of one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.engine.tiling import Grids, Tiling, TrainedScale
from sdi.runtime.engine.windows import WindowGrid, by

if TYPE_CHECKING:
    from sdi.runtime.engine.base import Engine

__all__ = ["Answers", "Tiler", "run_in_windows"]

Answers = Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]
"""Some windows, (H, W, 3) uint8 BGR each and not contiguous, -> the map of each, (H, W), at its size, in order."""

_WINDOWS_A_CALL = 8  # of engines that take any number
_TIMED_CALLS = 3


def run_in_windows(frame: np.ndarray, grid: WindowGrid, answers: Answers, batch: int) -> np.ndarray:
    """The map of a frame whose windows are answered each by itself.

    Args:
        frame: (H, W, 3) uint8 BGR. Where it is smaller than the grid's frame, steel goes on as in a mirror.
        answers: answers at most `batch` windows.
    Returns:
        (H, W) of the answers' type; a new array.
    """
    height, width = frame.shape[:2]
    down, across = grid.frame_hw[0] - height, grid.frame_hw[1] - width
    if down or across:
        frame = cv2.copyMakeBorder(frame, 0, down, 0, across, cv2.BORDER_REFLECT_101)
    saliency: np.ndarray | None = None
    windows = iter(grid)
    while some := list(islice(windows, batch)):
        for window, answer in zip(some, answers([frame[window.seen] for window in some]), strict=True):
            if saliency is None:
                saliency = np.empty(grid.frame_hw, answer.dtype)
            saliency[window.kept] = answer[window.inside]
    assert saliency is not None  # a grid has a window
    return saliency[:height, :width]


class Tiler:
    """Runs one engine's frames in windows, and says so once. Not thread-safe, as the engine.

    Raises:
        InputError: the engine cannot take the windows asked for.
    """

    def __init__(self, engine: Engine, tiling: Tiling) -> None:
        scale = TrainedScale.of_engine(engine.manifest, engine.frame_hw)
        self._engine = engine
        profile = engine.manifest.profile if engine.manifest is not None else None
        self._batch = engine.batch or min(profile[2][0] if profile else _WINDOWS_A_CALL, _WINDOWS_A_CALL)
        self._grids = Grids(tiling, scale, self._expectation)
        self._frames = np.empty(0, np.uint8)  # what a call is given; kept between calls
        window_hw = tiling.window_hw(scale)
        if profile and window_hw is not None and engine.frame_hw is None:
            least, greatest = profile[0][1:], profile[2][1:]
            if not all(a <= n <= b for a, n, b in zip(least, window_hw, greatest, strict=True)):
                raise InputError(
                    f"{engine.path.name} takes frames from {by(least)} to {by(greatest)}, no window of {by(window_hw)}; "
                    "give --tile another size, or none, or build the plan for it"
                )

    def grid(self, frame_hw: tuple[int, int]) -> WindowGrid | None:
        """The windows of a frame; None where it runs whole.

        Raises:
            InputError: see `Tiling.grid`.
        """
        return self._grids.of(frame_hw)

    def __call__(self, frame: np.ndarray, grid: WindowGrid) -> np.ndarray:
        """Saliency of a frame, (H, W) uint8; each window is answered exactly as a picture of its own.

        Raises:
            DeviceError: the execution failed, or gave maps of another size.
        """
        return run_in_windows(frame, grid, self._answers, self._batch)

    def _answers(self, windows: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
        """One call of the engine."""
        engine = self._engine
        height, width = windows[0].shape[:2]
        shape = (self._batch, *(engine.frame_hw or (height, width)), 3)
        if self._frames.shape != shape:
            self._frames = np.zeros(shape, np.uint8)
        resizes = shape[1:3] != (height, width)
        for fitted, window in zip(self._frames, windows, strict=False):
            if resizes:
                cv2.resize(window, (shape[2], shape[1]), fitted, interpolation=cv2.INTER_LINEAR)
            else:
                fitted[:] = window
        # Rows of a fixed batch that no window fills keep what they held: their maps go nowhere.
        frames = self._frames if engine.batch else self._frames[: len(windows)]
        answers = engine.execute(frames)
        if answers.shape != frames.shape[:3]:
            raise DeviceError(f"{engine.path.name} answered {answers.shape} to frames {frames.shape}; export it again")
        for answer in answers[: len(windows)]:
            yield cv2.resize(answer, (width, height), interpolation=cv2.INTER_LINEAR) if resizes else answer

    def _expectation(self, grid: WindowGrid) -> str:
        """Frames a second, from a few calls."""
        windows, times = [np.full((*grid.window_hw, 3), 128, np.uint8)] * self._batch, []
        for _ in range(_TIMED_CALLS):
            started = time.perf_counter()
            list(self._answers(windows))
            times.append(time.perf_counter() - started)
        calls = -(-len(grid) // self._batch)
        return f"About {1 / (min(times) * calls):.2g} frames a second are to be expected here."
