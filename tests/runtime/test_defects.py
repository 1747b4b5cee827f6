"""Regions over a threshold; scipy is the oracle where it is there."""

from __future__ import annotations

import numpy as np
import pytest

from sdi.runtime.defects import Region, find_regions
from sdi.runtime.errors import InputError


def test_a_known_answer() -> None:
    saliency = np.zeros((10, 12), np.uint8)
    saliency[1:3, 2:6] = 200
    saliency[2, 5] = 255
    saliency[7:9, 9:10] = 128
    saliency[0, 11] = 127  # just under one half
    assert find_regions(saliency) == [
        Region(2, 1, 4, 2, 8, 1.0, round((7 * 200 + 255) / 8 / 255, 4)),
        Region(9, 7, 1, 2, 2, round(128 / 255, 4), round(128 / 255, 4)),
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
    assert find_regions(np.full((4, 5), 255, np.uint8), 1.0) == [Region(0, 0, 5, 4, 20, 1.0, 1.0)]


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
        expected.append(Region(columns.start, rows.start, width, height, inside.size, peak, mean))
    found = find_regions(saliency, 0.8)
    assert len(found) == count
    assert set(found) == set(expected)
    assert [region.area for region in found] == sorted((region.area for region in expected), reverse=True)
