from __future__ import annotations

import numpy as np
import pytest

from sdi.train.clean import CleanSteel
from sdi.train.data import Sample


def test_windows_hold_no_defect_and_lie_in_the_picture() -> None:
    rows = np.arange(160 * 200).reshape(160, 200)  # no two places alike, but for the channel's 256 levels
    image = np.stack([rows % 251, rows // 251, np.full_like(rows, 7)], axis=2).astype(np.uint8)
    mask = np.zeros((160, 200), np.uint8)
    mask[:, 90:100] = 255  # leaves 90 columns on the left, 100 on the right
    clean = CleanSteel([Sample("Sc_1", image, mask)])
    sides, lefts = set(), set()
    for seed in range(60):
        drawn = clean.draw(np.random.default_rng(seed))
        assert not drawn.mask.any()
        assert drawn.image.shape == (*drawn.mask.shape, 3)
        if drawn.name != "clean strip":
            assert drawn.name == "background of Sc_1"
            place = int(drawn.image[0, 0, 1]) * 251 + int(drawn.image[0, 0, 0])
            top, left = divmod(place, 200)
            side = len(drawn.mask)
            assert np.array_equal(drawn.image, image[top : top + side, left : left + side])
            assert left + side <= 90 or left >= 100
            sides.add(side)
            lefts.add(left >= 100)
    assert sides == {64, 96}
    assert lefts == {False, True}


def test_without_background_all_is_synthetic(samples: list[Sample]) -> None:
    clean = CleanSteel(samples)  # of 40x40
    assert {clean.draw(np.random.default_rng(seed)).name for seed in range(5)} == {"clean strip"}


@pytest.mark.parametrize("seed", range(3))
def test_equal_seeds_draw_equal_pictures(seed: int) -> None:
    empty = Sample(
        "In_1", np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8), np.zeros((80, 80), np.uint8)
    )
    one, other = (CleanSteel([empty]).draw(np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one.image, other.image)
