"""Where windows lie: every pixel is kept once, whatever the sizes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdi.runtime.common.errors import InputError
from sdi.runtime.engine.windows import Span, WindowGrid

_LARGEST = 8192


@st.composite
def _grids(draw: st.DrawFn, largest: int = _LARGEST) -> WindowGrid:
    window_hw = draw(st.integers(32, 400)), draw(st.integers(32, 400))
    frame_hw = tuple(draw(st.integers(side, max(side, largest))) for side in window_hw)
    return WindowGrid((frame_hw[0], frame_hw[1]), window_hw, draw(st.integers(0, min(window_hw) // 2)))


@given(_grids())
def test_kept_parts_follow_each_other_from_edge_to_edge(grid: WindowGrid) -> None:
    for spans, length in ((grid.rows, grid.frame_hw[0]), (grid.columns, grid.frame_hw[1])):
        ends = [end for span in spans for end in (span.kept_start, span.kept_end)]
        assert ends[0] == 0
        assert ends[-1] == length
        assert ends[1:-1:2] == ends[2::2]
        assert all(span.kept_start < span.kept_end for span in spans)


@given(_grids())
def test_windows_lie_within_the_frame_and_see_what_they_are_kept_for(grid: WindowGrid) -> None:
    for spans, length, window in zip((grid.rows, grid.columns), grid.frame_hw, grid.window_hw, strict=True):
        assert spans[0].start == 0
        assert spans[-1].start + window == length  # the last is flush with the edge
        for span in spans:
            assert span.length == window
            assert span.start <= span.kept_start
            assert span.kept_end <= span.start + window


@given(_grids())
def test_neighbours_overlap_by_what_was_asked_and_part_it_in_the_middle(grid: WindowGrid) -> None:
    for spans in (grid.rows, grid.columns):
        for before, after in pairwise(spans):
            shared = before.start + before.length - after.start
            assert shared >= grid.overlap
            assert abs((before.start + before.length - before.kept_end) - (after.kept_start - after.start)) <= 1


@given(_grids())
def test_there_are_as_few_windows_as_can_be(grid: WindowGrid) -> None:
    for spans, length, window in zip((grid.rows, grid.columns), grid.frame_hw, grid.window_hw, strict=True):
        fewer = len(spans) - 1
        assert fewer * window - max(fewer - 1, 0) * grid.overlap < length


@given(_grids(largest=700))
def test_every_pixel_is_painted_once(grid: WindowGrid) -> None:
    times = np.zeros(grid.frame_hw, np.uint8)
    where = np.arange(times.size, dtype=np.int64).reshape(grid.frame_hw)
    for window in grid:
        times[window.kept] += 1
        assert np.array_equal(where[window.seen][window.inside], where[window.kept])
    assert len(list(grid)) == len(grid)
    assert (times == 1).all()


def test_a_known_grid() -> None:
    grid = WindowGrid((200, 499), (200, 200), 50)
    assert grid.rows == (Span(0, 200, 0, 200),)
    assert grid.columns == (Span(0, 200, 0, 174), Span(149, 200, 174, 324), Span(299, 200, 324, 499))
    assert len(WindowGrid((800, 2048), (200, 200), 50)) == 70
    assert len(WindowGrid((8192, 8192), (200, 200), 50)) == 55 * 55


@pytest.mark.parametrize(
    ("frame_hw", "window_hw", "overlap", "text"),
    [
        ((400, 400), (31, 200), 0, "needs 32 pixels a side at least, got 31x200"),
        ((400, 400), (200, 0), 0, "needs 32 pixels a side at least, got 200x0"),
        ((400, 400), (200, 100), 100, "windows of 200x100 cannot overlap by 100 pixels; .* less than 100, e.g. 12"),
        ((400, 400), (200, 200), -1, "cannot overlap by -1 pixels"),
        ((199, 400), (200, 200), 50, r"a frame of 199x400 \(height x width\) is smaller than a window of 200x200"),
        ((400, 199), (200, 200), 50, "a frame of 400x199 .* is smaller than a window of 200x200; give --tile"),
    ],
)
def test_what_cannot_be(frame_hw: tuple[int, int], window_hw: tuple[int, int], overlap: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        WindowGrid(frame_hw, window_hw, overlap)
