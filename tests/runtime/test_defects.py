"""Regions over a threshold; scipy is the oracle where it is there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.strip import draw_strip
from sdi.runtime.inspection.defects import DefectRule, find_blobs, find_regions
from sdi.runtime.inspection.roi import parse_roi
from sdi.runtime.region import Region


def test_a_known_answer() -> None:
    saliency = np.zeros((10, 12), np.uint8)
    saliency[1:3, 2:6] = 200
    saliency[2, 5] = 255
    saliency[7:9, 9:10] = 128
    saliency[0, 11] = 127  # just under one half
    assert find_regions(saliency) == [
        Region(2, 1, 4, 2, 8, 1.0, round((7 * 200 + 255) / 8 / 255, 4), 3.5, 1.5, 2.0),
        Region(9, 7, 1, 2, 2, round(128 / 255, 4), round(128 / 255, 4), 9.0, 7.5, 2.0),
    ]


def test_diagonal_neighbours_are_one_region_and_small_ones_do_not_count() -> None:
    saliency = np.zeros((6, 6), np.uint8)
    saliency[0, 0] = saliency[1, 1] = saliency[2, 2] = saliency[5, 0] = 255
    assert [region.area for region in find_regions(saliency)] == [3, 1]
    assert [region.area for region in find_regions(saliency, min_area=3)] == [3]
    assert find_regions(saliency, min_area=4) == []


def test_the_threshold_itself_counts() -> None:
    for level in range(1, 256):
        pair = np.array([[level - 1, 0, level]], np.uint8)
        assert [region.x for region in find_regions(pair, level / 255)] == [2]


def test_nothing_and_everything() -> None:
    assert find_regions(np.zeros((4, 4), np.uint8), 0.001) == []
    assert find_regions(np.full((4, 5), 255, np.uint8), 1.0) == [Region(0, 0, 5, 4, 20, 1.0, 1.0, 2.0, 1.5, 1.25)]


@pytest.mark.parametrize("threshold", [0, -0.1, 1.001, 128, float("nan")])
def test_thresholds_out_of_range(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold must be above 0 and at most 1, got"):
        find_regions(np.zeros((4, 4), np.uint8), threshold)


@pytest.mark.parametrize("seed", range(5))
def test_against_scipy(seed: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    saliency = np.random.default_rng(seed).integers(0, 256, (40, 60)).astype(np.uint8)
    labels, count = ndimage.label(saliency >= 204, np.ones((3, 3)))
    expected = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        inside = saliency[labels == label]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        peak, mean = round(int(inside.max()) / 255, 4), round(float(inside.mean()) / 255, 4)
        cy, cx = ndimage.center_of_mass(labels == label)
        points = np.argwhere(labels == label)
        small, large = np.linalg.eigvalsh(np.cov(points.T, bias=True).reshape(2, 2) + np.eye(2) / 12)
        centre = (round(cx, 2), round(cy, 2), round(float(np.sqrt(large / small)), 2))
        expected.append(Region(columns.start, rows.start, width, height, inside.size, peak, mean, *centre))
    found = find_regions(saliency, 0.8)
    assert len(found) == count
    assert set(found) == set(expected)
    assert [region.area for region in found] == sorted((region.area for region in expected), reverse=True)


@pytest.mark.parametrize(("height", "width", "elongation"), [(1, 40, 40), (12, 3, 4), (7, 7, 1), (1, 1, 1)])
def test_the_elongation_of_rectangles_is_exact(height: int, width: int, elongation: float) -> None:
    saliency = np.zeros((60, 60), np.uint8)
    saliency[5 : 5 + height, 6 : 6 + width] = 255
    (region,) = find_regions(saliency)
    assert region.elongation == elongation


def test_a_tilted_scratch_is_long_and_a_disc_is_not() -> None:
    saliency = np.zeros((200, 200), np.uint8)
    cv2.line(saliency, (20, 20), (150, 90), 255, 3)
    cv2.circle(saliency, (60, 150), 25, 255, -1)
    disc, scratch = find_regions(saliency)
    assert disc.elongation == pytest.approx(1, abs=0.02)
    assert scratch.elongation > 25
    assert (disc.cx, disc.cy) == (60, 150)


def test_synthetic_scratches_are_longer_than_patches() -> None:
    """The truth of the drawn strip, as an engine would find it."""

    def largest(kind: str, seed: int) -> float:
        return find_regions(draw_strip(kind, seed)[1])[0].elongation

    assert min(largest("scratch", seed) for seed in range(8)) > 2 * max(largest("patch", seed) for seed in range(8))


def test_millimetres() -> None:
    saliency = np.zeros((20, 20), np.uint8)
    saliency[4:6, 3:13] = 255
    (blob,) = find_blobs(saliency, DefectRule(mm_per_pixel=0.25))
    record = blob.region.to_dict()
    assert record.pop("mm") == {
        "x": 0.75, "y": 1.0, "width": 2.5, "height": 0.5, "cx": 1.875, "cy": 1.125, "area": 1.25
    }  # fmt: skip
    assert record == find_regions(saliency)[0].to_dict()
    assert "id" not in record


def test_a_rectangle_of_interest_cuts_regions_and_keeps_the_frames_coordinates() -> None:
    saliency = np.zeros((20, 30), np.uint8)
    saliency[2:18, 10:12] = 255  # half in
    saliency[0:2, 0:5] = 255  # outside
    (blob,) = find_blobs(saliency, DefectRule(roi=parse_roi("5,5,20,10")))
    region = blob.region
    assert (region.x, region.y, region.width, region.height, region.area) == (10, 5, 2, 10, 20)
    assert (region.cx, region.cy) == (10.5, 9.5)
    assert blob.inside.shape == (10, 2)


def test_a_polygon_of_interest_counts_what_it_covers() -> None:
    saliency = np.full((40, 40), 255, np.uint8)
    (blob,) = find_blobs(saliency, DefectRule(roi=parse_roi("0,0;39,0;0,39")))
    inside = np.add(*np.mgrid[0:40, 0:40]) <= 39
    assert blob.region.area == np.count_nonzero(inside)
    assert np.array_equal(blob.inside, inside)


def test_what_of_the_region_of_interest_lies_beyond_the_frame_does_not_matter() -> None:
    saliency = np.full((10, 10), 255, np.uint8)
    (blob,) = find_blobs(saliency, DefectRule(roi=parse_roi("5,5,1000,1000")))
    assert blob.region.area == 25
    with pytest.raises(InputError, match="nothing of a 10x10 picture lies within --roi"):
        find_blobs(saliency, DefectRule(roi=parse_roi("10,0,5,5")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,2,3",
        "1,2,3,0",
        "-1,2,3,4",
        "1,2;3,4",
        "1,2;3,4;5",
        "a,b,c,d",
        "1.5,2,3,4",
        f"0,0;1,1;2,{1 << 40}",
        f"0,0,{1 << 40},9",
    ],
)
def test_regions_of_interest_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"--roi '.*' is neither x,y,w,h nor a polygon"):
        parse_roi(text)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min_area": 0}, "min-area must be at least 1"),
        ({"mm_per_pixel": 0}, "mm-per-pixel must be above 0"),
        ({"mm_per_pixel": float("nan")}, "mm-per-pixel must be above 0"),
        ({"threshold": 0}, "threshold must be above 0"),
    ],
)
def test_rules_out_of_range(options: dict[str, float], text: str) -> None:
    with pytest.raises(InputError, match=text):
        DefectRule(**options)  # type: ignore[arg-type]
