"""What people look at of a wide frame: the page's views, close-ups of defects, and lines that can be seen."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.runtime.common.images import read_gray, read_image
from sdi.runtime.frame import Event, Frame, Result
from sdi.runtime.inspection.defects import DefectRule, find_regions
from sdi.runtime.inspection.roi import parse_roi
from sdi.runtime.sinks.board import Board
from sdi.runtime.sinks.evidence import EvidenceSink
from sdi.runtime.sinks.overlay import draw_overlay
from sdi.runtime.sinks.view import WHOLE, View, closeup

RED = (40, 40, 255)


def _result(size_hw: tuple[int, int], box: tuple[int, int, int, int] | None) -> Result:
    """Rough gray with a defect at x, y, of width and height."""
    image = np.random.default_rng(1).integers(60, 120, (*size_hw, 3), dtype=np.uint8)
    saliency = np.zeros(size_hw, np.uint8)
    if box is not None:
        x, y, width, height = box
        saliency[y : y + height, x : x + width] = 250
    frame = Frame(0, "f0", "strip", image, time.monotonic(), time.time())
    return Result(frame, saliency, find_regions(saliency), 1.0, 2.0, 0, alarm=True)


@pytest.mark.parametrize(
    ("view", "part"),
    [
        (WHOLE, np.s_[0:100, 0:400]),
        (View(0.5, 0.25, 0.25, 0.5), np.s_[25:75, 200:300]),
        (View(0.9, 0.9, 1, 1), np.s_[90:100, 360:400]),
        (View(0.9999, 0.9999, 0.0001, 0.0001), np.s_[99:100, 399:400]),
    ],
)
def test_a_view_is_a_part_of_the_frame(view: View, part: tuple[slice, slice]) -> None:
    assert view.part((100, 400)) == part


@pytest.mark.parametrize(
    "text", ["", "0,0,1", "0,0,1,1,1", "a,0,1,1", "-0.1,0,1,1", "0,1,1,1", "0,0,0,1", "nan,0,1,1", "0,0,2,1"]
)
def test_what_is_no_view(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        View.parse(text)


def test_a_closeup_holds_the_largest_defect_and_lies_within_the_frame() -> None:
    for box in ((0, 0, 5, 5), (2040, 790, 8, 10), (900, 300, 600, 20)):
        rows, columns = closeup(_result((800, 2048), box)) or (slice(0), slice(0))
        assert 0 <= rows.start <= box[1] < box[1] + box[3] <= rows.stop <= 800
        assert 0 <= columns.start <= box[0] < box[0] + box[2] <= columns.stop <= 2048
        side = max(320, box[2] * 3 // 2)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(side, 800), side)
    assert closeup(_result((800, 2048), None)) is None
    assert closeup(_result((200, 640), (1, 1, 9, 9))) is None


def test_a_part_is_drawn_as_in_the_whole_frame() -> None:
    result = _result((100, 400), (210, 40, 30, 20))
    rule = DefectRule(roi=parse_roi("205,10,100,80"))
    part = np.s_[20:90, 200:300]
    assert np.array_equal(draw_overlay(result, rule, part), draw_overlay(result, rule)[part])


@pytest.mark.parametrize(("size_hw", "line"), [((200, 200), 1), ((1000, 1400), 1), ((800, 2048), 2), ((500, 8192), 8)])
def test_lines_grow_with_the_frame(size_hw: tuple[int, int], line: int) -> None:
    result = _result(size_hw, (100, 60, 60, 60))
    drawn = draw_overlay(result, DefectRule())
    column = drawn[90, 100 - line : 100 + line + 2]  # across the box's left edge, away from label and corner
    assert abs(int((column == RED).all(axis=1).sum()) - line) <= 1


def test_a_reader_of_the_page_sees_its_part_at_full_resolution() -> None:
    board = Board(["strip"], DefectRule(), "mill 3")
    result = _result((800, 4096), (3000, 400, 9, 9))
    board.write(result)
    sizes = []
    for view in (WHOLE, View(0.7, 0.4, 0.1, 0.4), WHOLE):
        answer = board.live("strip", 0, 1.0, view)
        assert answer is not None
        assert answer[0] == 1
        sizes.append(cv2.imdecode(np.frombuffer(answer[1], np.uint8), cv2.IMREAD_COLOR).shape[:2])
    assert sizes == [(250, 1280), (320, 410), (250, 1280)]


def test_evidence_of_a_wide_frame_keeps_the_defects_surroundings(tmp_path: Path) -> None:
    result = _result((700, 2000), (1500, 300, 40, 30))
    event = Event("alarm", "strip", "1 defect", 1e9, {"frame": 0, "name": "f0"}, result)
    with EvidenceSink(tmp_path / "e", 100_000_000) as sink:
        sink.event(event)
    (folder,) = (path for path in (tmp_path / "e").iterdir() if path.is_dir())
    box = json.loads((folder / "alarm.json").read_text())["closeup"]
    part = np.s_[box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]]
    assert np.array_equal(read_image(folder / "closeup.png"), result.frame.image[part])
    mask = read_gray(folder / "closeup_mask.png")
    assert np.array_equal(mask, result.saliency[part])
    assert (mask > 0).sum() == 40 * 30
