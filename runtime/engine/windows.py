"""Windows over a frame: where they lie, and which part of the frame each answers for. Pure geometry.

Windows are spread evenly, so that neighbours share what was asked for at least, and the last lie flush with the frame's
far edges. Two neighbours part their overlap in the middle: what a window answers near its own border, where it sees
steel on one side alone, is the other's to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from sdi.runtime.common.errors import InputError

__all__ = ["SMALLEST_WINDOW", "Span", "Window", "WindowGrid", "by"]

SMALLEST_WINDOW = 32  # pixels a side, as of frames: networks halve their input five times


@dataclass(frozen=True)
class Span:
    """One window along one axis of the frame: pixels `start` to `start + length`, kept from `kept_start` to `kept_end`
    (exclusive)."""

    start: int
    length: int
    kept_start: int
    kept_end: int

    @property
    def seen(self) -> slice:
        """Of the frame: what the network is shown."""
        return slice(self.start, self.start + self.length)

    @property
    def kept(self) -> slice:
        """Of the frame: what the answer is kept for."""
        return slice(self.kept_start, self.kept_end)

    @property
    def inside(self) -> slice:
        """The kept part, counted from the window's own first pixel."""
        return slice(self.kept_start - self.start, self.kept_end - self.start)


@dataclass(frozen=True)
class Window:
    """One window of a frame: its span of rows and its span of columns."""

    row: Span
    column: Span

    @property
    def seen(self) -> tuple[slice, slice]:
        return self.row.seen, self.column.seen

    @property
    def kept(self) -> tuple[slice, slice]:
        return self.row.kept, self.column.kept

    @property
    def inside(self) -> tuple[slice, slice]:
        return self.row.inside, self.column.inside


@dataclass(frozen=True)
class WindowGrid:
    """All windows of a frame, row by row. Their kept parts cover every pixel of the frame exactly once.

    Args:
        frame_hw: height and width of the frame.
        window_hw: height and width of every window.
        overlap: pixels that neighbours share at least, in both directions.
    Raises:
        InputError: a window of less than 32 pixels or larger than the frame, or an overlap that leaves no step.
    """

    frame_hw: tuple[int, int]
    window_hw: tuple[int, int]
    overlap: int

    def __post_init__(self) -> None:
        shorter = min(self.window_hw)
        if shorter < SMALLEST_WINDOW:
            raise InputError(
                f"a window needs {SMALLEST_WINDOW} pixels a side at least, got {by(self.window_hw)}; give --tile a "
                "larger one"
            )
        if not 0 <= self.overlap < shorter:
            raise InputError(
                f"windows of {by(self.window_hw)} cannot overlap by {self.overlap} pixels; give --overlap at least 0 "
                f"and less than {shorter}, e.g. {shorter // 8}"
            )
        if self.window_hw[0] > self.frame_hw[0] or self.window_hw[1] > self.frame_hw[1]:
            raise InputError(
                f"a frame of {by(self.frame_hw)} (height x width) is smaller than a window of {by(self.window_hw)}; "
                "give --tile a smaller one, or auto, or none to run frames whole"
            )

    @cached_property
    def rows(self) -> tuple[Span, ...]:
        """Spans down the frame."""
        return _spans(self.frame_hw[0], self.window_hw[0], self.overlap)

    @cached_property
    def columns(self) -> tuple[Span, ...]:
        """Spans across the frame."""
        return _spans(self.frame_hw[1], self.window_hw[1], self.overlap)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Window]:
        return (Window(row, column) for row in self.rows for column in self.columns)


def by(size_hw: tuple[int, int]) -> str:
    """A size as it is spelt everywhere here: height x width."""
    return f"{size_hw[0]}x{size_hw[1]}"


def _spans(frame: int, window: int, overlap: int) -> tuple[Span, ...]:
    steps = -(-(frame - window) // (window - overlap))  # windows after the first
    starts = [index * (frame - window) // max(steps, 1) for index in range(steps + 1)]
    cuts = [0, *((before + window + after) // 2 for before, after in pairwise(starts)), frame]
    return tuple(Span(start, window, *kept) for start, kept in zip(starts, pairwise(cuts), strict=True))
