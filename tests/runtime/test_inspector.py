"""Verdicts over frames: hysteresis, and defects that are linked from frame to frame."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.frame import Event, Frame, Verdict
from sdi.runtime.inspection.defects import DefectRule
from sdi.runtime.inspection.inspector import Inspector

SIZE_HW = (40, 60)
Box = tuple[int, int, int, int]  # x, y, width, height


class Strip:
    """A source whose maps are drawn box by box, one frame a second."""

    def __init__(self, inspector: Inspector, source: str = "strip") -> None:
        self.inspector, self.source, self.index = inspector, source, 0

    def show(self, *boxes: Box, size_hw: tuple[int, int] = SIZE_HW) -> Verdict:
        saliency = np.zeros(size_hw, np.uint8)
        for x, y, width, height in boxes:
            saliency[y : y + height, x : x + width] = 255
        image = np.zeros((*size_hw, 3), np.uint8)
        frame = Frame(self.index, f"f{self.index}", self.source, image, float(self.index), 1e9 + self.index)
        self.index += 1
        return self.inspector.inspect(frame, saliency)


def _kinds(events: Iterable[Event]) -> list[str]:
    return [event.kind for event in events]


DEFECT: Box = (10, 10, 5, 5)


@pytest.mark.parametrize(
    ("frames", "seen", "alarms"),
    [
        (1, "0110100", "0110100"),
        (2, "0100110", "0000011"),  # one noisy frame raises nothing
        (2, "1101100", "0111110"),  # nor does one clean frame clear it
        (3, "1101110111000111", "0000011111110001"),
        (3, "1110110", "0011111"),
    ],
)
def test_an_alarm_needs_frames_in_a_row_and_so_does_its_end(frames: int, seen: str, alarms: str) -> None:
    strip = Strip(Inspector(alarm_frames=frames))
    verdicts = [strip.show(*[DEFECT] * (letter == "1")) for letter in seen]
    assert "".join(str(int(verdict.alarm)) for verdict in verdicts) == alarms
    assert [len(verdict.regions) for verdict in verdicts] == [int(letter) for letter in seen]
    events = [event for verdict in verdicts for event in verdict.events]
    turns = [kind for before, now in zip("0" + alarms, alarms, strict=False) if before != now
             for kind in (["alarm"] if now == "1" else ["cleared"])]  # fmt: skip
    assert _kinds(events) == turns


def test_what_alarm_and_cleared_tell() -> None:
    strip = Strip(Inspector(DefectRule(mm_per_pixel=0.5), alarm_frames=2))
    strip.show(DEFECT)
    (alarm,) = strip.show(DEFECT, (30, 20, 8, 4)).events
    assert (alarm.kind, alarm.source, alarm.wall_time) == ("alarm", "strip", 1e9 + 1)
    assert alarm.text == "2 defects in f1, the largest 4.0x2.0 mm"
    assert (alarm.details["frame"], alarm.details["name"]) == (1, "f1")
    assert [defect["area"] for defect in alarm.details["defects"]] == [32, 25]
    strip.show()
    (cleared,) = strip.show().events
    assert cleared.details == {"frame": 3, "name": "f3", "alarm_frame": 1, "seconds": 2.0}
    for event in (alarm, cleared):
        assert json.loads(json.dumps(event.details)) == event.details


def test_sources_do_not_mix() -> None:
    inspector = Inspector(alarm_frames=2, link=True)
    left, right = Strip(inspector, "left"), Strip(inspector, "right")
    left.show(DEFECT)
    right.show()
    assert left.show(DEFECT).alarm
    verdict = right.show(DEFECT)
    assert not verdict.alarm
    assert verdict.regions[0].id == 2  # one defect in the left, another in the right
    assert [event.source for event in inspector.finish("left")] == ["left"]
    assert inspector.finish() == []  # the right one's was seen too short to count


def test_a_defect_that_passes_is_one_event() -> None:
    """It moves down by 4 of its 10 pixels a frame, beside one that stays."""
    strip = Strip(Inspector(link=True))
    verdicts = [strip.show((5, 4 * i, 6, 10 - 2 * (i == 0)), (40, 15, 8, 8)) for i in range(8)]
    ids = [{region.x: region.id for region in verdict.regions} for verdict in verdicts]
    assert ids == [ids[0]] * 8
    assert set(ids[0].values()) == {1, 2}
    assert [event for verdict in verdicts for event in verdict.events if event.kind == "defect"] == []
    (passed,) = [event for event in strip.show((40, 15, 8, 8)).events if event.kind == "defect"]
    assert passed.details == {
        "id": ids[0][5],
        "first_frame": 0,
        "last_frame": 7,
        "first_time": "2001-09-09T01:46:40.000+00:00",
        "last_time": "2001-09-09T01:46:47.000+00:00",
        "frames": 8,
        "joined": [],
        "name": "f1",
        "largest": verdicts[1].regions[1].to_dict(),
    }
    (stayed,) = strip.inspector.finish()
    assert (stayed.details["id"], stayed.details["frames"], stayed.details["last_frame"]) == (ids[0][40], 9, 8)
    assert strip.inspector.finish() == []


def test_regions_that_touch_only_in_their_boxes_are_two() -> None:
    """Two L shapes, one within the box of the other: pixels count, not boxes."""
    strip = Strip(Inspector(link=True))
    first = strip.show((0, 0, 3, 30), (0, 27, 30, 3))
    second = strip.show((10, 5, 10, 10))
    assert first.regions[0].id != second.regions[0].id


def test_a_defect_that_falls_apart_stays_one() -> None:
    strip = Strip(Inspector(link=True))
    strip.show((10, 10, 20, 4))
    verdict = strip.show((10, 10, 8, 4), (22, 10, 8, 4))
    assert [region.id for region in verdict.regions] == [1, 1]
    (event,) = strip.inspector.finish()
    assert (event.details["frames"], event.details["largest"]["area"]) == (2, 80)


def test_defects_that_grow_together_become_the_older_one() -> None:
    strip = Strip(Inspector(link=True))
    strip.show((30, 10, 8, 4))
    strip.show((30, 10, 8, 4), (10, 10, 8, 4))
    joined = strip.show((10, 10, 28, 4))
    assert [region.id for region in joined.regions] == [1]
    assert "defect" not in _kinds(joined.events)
    (event,) = strip.inspector.finish()
    assert (event.details["id"], event.details["joined"]) == (1, [2])
    assert (event.details["first_frame"], event.details["last_frame"], event.details["frames"]) == (0, 2, 3)


def test_a_gap_shorter_than_the_hysteresis_does_not_end_a_defect_and_noise_is_none() -> None:
    strip = Strip(Inspector(alarm_frames=3, link=True))
    events = []
    for letter in "1101100100010":  # five frames of one defect, then one, then one alone
        events += [event for event in strip.show(*[DEFECT] * (letter == "1")).events if event.kind == "defect"]
    events += strip.inspector.finish()
    assert [
        (event.details["first_frame"], event.details["last_frame"], event.details["frames"]) for event in events
    ] == [(0, 7, 5)]


def test_another_frame_size_ends_what_was_linked() -> None:
    strip = Strip(Inspector(link=True))
    strip.show(DEFECT)
    verdict = strip.show(DEFECT, size_hw=(80, 90))
    assert _kinds(verdict.events) == ["defect"]
    assert verdict.regions[0].id == 2


@pytest.mark.parametrize("seed", range(4))
def test_linking_against_components_in_time(seed: int) -> None:
    """scipy labels the same noise as one volume of time, height and width."""
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(seed)
    volume = ndimage.gaussian_filter(rng.normal(0, 1, (12, *SIZE_HW)), (0.8, 2, 2)) > 0.1
    within, through = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    through[1, 1] = True
    truth, count = ndimage.label(volume, np.stack([through, within, through]))
    inspector = Inspector(link=True)
    last_id: dict[int, int] = {}
    for index, frame in enumerate(volume):
        image = np.zeros((*SIZE_HW, 3), np.uint8)
        regions = inspector.inspect(
            Frame(index, f"f{index}", "s", image, 0.0, 0.0), frame.astype(np.uint8) * 255
        ).regions
        for region in regions:
            window = truth[index, region.y : region.y + region.height, region.x : region.x + region.width]
            for label in np.unique(window[window > 0]):
                inside = window == label
                if np.count_nonzero(inside) == region.area:
                    last_id[int(label)] = region.id or 0
    assert set(last_id) == set(range(1, count + 1))
    assert len(set(last_id.values())) == count  # as many defects as components, each with an id of its own


def test_alarm_frames_out_of_range() -> None:
    with pytest.raises(InputError, match="alarm-frames must be at least 1, got 0"):
        Inspector(alarm_frames=0)
