"""Frames in windows: cut, run in batches, stitched in place. Beside frame and map, memory is that of one batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.images import resize_image
from sdi.runtime.engine.tiling import Grids, Tiling, TrainedScale
from sdi.runtime.engine.windows import WindowGrid, by

if TYPE_CHECKING:
    from sdi.runtime.engine.base import Engine, Token

__all__ = ["Answers", "Tiler", "run_in_windows"]

Answers = Callable[[Iterator[list[np.ndarray]]], Iterator[np.ndarray]]
"""Calls of some windows each, (H, W, 3) uint8 BGR, not contiguous -> the map of each window, (H, W), in their order."""

_WINDOWS_A_CALL = 8  # of engines that take any number
_TIMED_CALLS = 3
_LOOKED_AT = 64  # windows at once, so that memory stays bounded
_SUSPICION = 26  # gray levels, a probability of 0.1: from here on a first look has found something


def run_in_windows(frame: np.ndarray, grid: WindowGrid, answers: Answers, batch: int) -> np.ndarray:
    """The map of a frame whose windows are answered each by itself.

    Args:
        frame: (H, W, 3) uint8 BGR. Where it is smaller than the grid's frame, steel goes on as in a mirror.
        batch: windows a call.
    Returns:
        (H, W) of the answers' type; a new array.
    """
    height, width = frame.shape[:2]
    down, across = grid.frame_hw[0] - height, grid.frame_hw[1] - width
    if down or across:
        frame = cv2.copyMakeBorder(frame, 0, down, 0, across, cv2.BORDER_REFLECT_101)
    seen = (frame[window.seen] for window in grid)
    calls = iter(lambda: list(islice(seen, batch)), [])
    saliency: np.ndarray | None = None
    for window, answer in zip(grid, answers(calls), strict=True):
        if saliency is None:
            saliency = np.empty(grid.frame_hw, answer.dtype)
        saliency[window.kept] = answer[window.inside]
    assert saliency is not None  # a grid has a window
    return saliency[:height, :width]


class Tiler:
    """Runs one engine's frames in windows, and says so once.

    Args:
        first: another engine that looks at every window before: where it finds nothing, its answer stands.
    Raises:
        InputError: the engine cannot take the windows asked for.
    """

    def __init__(self, engine: Engine, tiling: Tiling, first: Tiler | None = None) -> None:
        scale = TrainedScale.of_engine(engine.manifest, engine.frame_hw)
        self._engine = engine
        self._first = first
        profile = engine.manifest.profile if engine.manifest is not None else None
        self._batch = engine.batch or min(profile[2][0] if profile else _WINDOWS_A_CALL, _WINDOWS_A_CALL)
        self._grids = Grids(tiling, scale, self._expectation)
        window_hw = tiling.window_hw(scale)
        if profile and window_hw is not None and engine.frame_hw is None:
            smallest, largest = profile[0][1:], profile[2][1:]
            if not all(a <= n <= b for a, n, b in zip(smallest, window_hw, largest, strict=True)):
                raise InputError(
                    f"{engine.path.name} takes frames from {by(smallest)} to {by(largest)}, no window of "
                    f"{by(window_hw)}; give --tile another size, or none, or build the plan for it"
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
        return run_in_windows(frame, grid, self._answers if self._first is None else self._looked, self._batch)

    def close(self) -> None:
        """Close the engine that looks first; the other belongs to whoever opened it."""
        if self._first is not None:
            self._first._engine.close()

    def _looked(self, calls: Iterator[list[np.ndarray]]) -> Iterator[np.ndarray]:
        """As `_answers`, of those windows alone in which the first look finds something."""
        assert self._first is not None
        stream = (window for call in calls for window in call)
        while windows := list(islice(stream, _LOOKED_AT)):
            maps = list(self._first._answers(_in_calls(windows, self._first._batch)))
            doubtful = [place for place, found in enumerate(maps) if int(found.max()) >= _SUSPICION]
            again = self._answers(_in_calls([windows[place] for place in doubtful], self._batch))
            for place, answer in zip(doubtful, again, strict=True):
                maps[place] = answer
            yield from maps

    def _answers(self, calls: Iterator[list[np.ndarray]]) -> Iterator[np.ndarray]:
        """A call is made ready while the device works on the one before, where the engine can do both."""
        engine = self._engine
        under_way: deque[tuple[Token, tuple[int, ...], int, tuple[int, int]]] = deque()
        buffer = np.empty(0, np.uint8)
        for windows in calls:
            size_hw = windows[0].shape[0], windows[0].shape[1]
            height, width = engine.frame_hw or size_hw
            if not buffer.size:
                buffer = np.zeros((self._batch, height, width, 3), np.uint8)
            for row, window in enumerate(windows):
                if size_hw == (height, width):
                    buffer[row] = window
                else:
                    cv2.resize(window, (width, height), buffer[row], interpolation=cv2.INTER_LINEAR)
            # Rows of a fixed batch that no window fills keep what they held: their maps go nowhere.
            frames = buffer if engine.batch else buffer[: len(windows)]
            if len(under_way) == engine.slots:
                yield from self._collected(*under_way.popleft())
            under_way.append((engine.submit(frames), frames.shape[:3], len(windows), size_hw))
        while under_way:
            yield from self._collected(*under_way.popleft())

    def _collected(
        self, token: Token, shape: tuple[int, ...], count: int, size_hw: tuple[int, int]
    ) -> Iterator[np.ndarray]:
        """The maps of one call's windows, at the windows' size."""
        answers = self._engine.collect(token)
        if answers.shape != shape:
            raise DeviceError(f"{self._engine.path.name} answered {answers.shape} to frames {shape}; export it again")
        return (resize_image(answer, size_hw) for answer in answers[:count])

    def _expectation(self, grid: WindowGrid) -> str:
        """Frames a second, from a few calls."""
        windows, times = [np.full((*grid.window_hw, 3), 128, np.uint8)] * self._batch, []
        for _ in range(_TIMED_CALLS):
            started = time.perf_counter()
            list(self._answers(iter([windows])))
            times.append(time.perf_counter() - started)
        calls = -(-len(grid) // self._batch)
        return f"About {1 / (min(times) * calls):.2g} frames a second are to be expected here."


def _in_calls(windows: list[np.ndarray], batch: int) -> Iterator[list[np.ndarray]]:
    return (windows[start : start + batch] for start in range(0, len(windows), batch))
