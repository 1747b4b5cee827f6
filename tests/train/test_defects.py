"""Scores by defect against a count done region by region."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sdi.train.evaluation.defects import DefectScores, OperatingPoints, defect_regions, match_defects

POINTS = OperatingPoints((0.3, 0.5, 0.8), (1, 9, 30))
CONNECTED = np.ones((3, 3))


def pictures(seed: int, size_hw: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """A map and a truth of random blobs, which partly agree."""
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.random(size_hw), 3)
    noise = ndimage.gaussian_filter(rng.random(size_hw), 2)
    mask = np.where(truth > np.quantile(truth, 0.9), np.uint8(255), np.uint8(0))
    mixed = truth / truth.max() * 0.7 + noise / noise.max() * 0.3
    stretched = (mixed - mixed.min()) / (mixed.max() - mixed.min())
    return (stretched**2 * 255).astype(np.uint8), mask


@pytest.mark.parametrize("seed", range(6))
def test_every_point_agrees_with_a_count_region_by_region(seed: int) -> None:
    saliency, truth = pictures(seed)
    matched = match_defects("In_1", saliency, truth, POINTS)
    defects, count = ndimage.label(truth > 0, CONNECTED)
    assert len(matched.sizes) == count > 1
    assert sorted(matched.sizes) == sorted(int((defects == n).sum()) for n in range(1, count + 1))
    for t, threshold in enumerate(POINTS.thresholds):
        regions, number = ndimage.label(saliency >= np.ceil(threshold * 255), CONNECTED)
        for a, least in enumerate(POINTS.min_areas):
            kept = [regions == n for n in range(1, number + 1) if (regions == n).sum() >= least]
            marked = np.any(kept, axis=0) if kept else np.zeros(truth.shape, bool)
            assert matched.false[t, a] == sum(not (region & (truth > 0)).any() for region in kept)
            assert matched.marked[t, a] == marked.sum()
            covered = sorted(int((marked & (defects == n)).sum()) for n in range(1, count + 1))
            assert sorted(matched.covered[:, t, a]) == covered


def test_known_counts() -> None:
    truth = np.zeros((100, 100), np.uint8)
    truth[10:20, 10:20] = 255  # 100 pixels, found whole
    truth[40:60, 40:60] = 255  # 400 pixels, a quarter of which is found
    saliency = np.zeros((100, 100), np.uint8)
    saliency[10:20, 10:20] = 200
    saliency[40:50, 40:50] = 200
    saliency[80:83, 80:83] = 200  # false, 9 pixels
    clean = np.zeros((100, 100), np.uint8)
    points = OperatingPoints((0.5,), (1, 10))
    matched = [
        match_defects("In_1", saliency, truth, points),
        match_defects("In_2", clean, clean, points),
    ]
    scores = DefectScores(points, matched, 0.5, 1, mm_per_pixel=2.0)
    found = scores.found()
    assert found["all"] == {"defects": 2, "found_10": 2, "found_50": 1}
    assert found["100 to 399 px"]["found_50"] == 1
    assert found["400 to 1599 px"]["found_50"] == 0
    false = scores.false_regions()
    assert (false["all"]["regions"], false["with defects"]["regions"], false["clean"]["regions"]) == (1, 1, 0)
    assert false["all"]["a_megapixel"] == pytest.approx(50)
    assert false["all"]["a_square_metre"] == pytest.approx(12.5)  # two pictures of .04 square metres
    assert scores.iou() == pytest.approx(200 / 509)
    held = scores.holding(1.0)
    assert held is not None
    assert held["min_area"] == 10
    assert held["false_a_megapixel"] == 0


def test_defects_that_touch_at_a_corner_are_one() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[0:2, 0:2] = truth[2:4, 2:4] = 255
    assert defect_regions(truth)[0] == 1
