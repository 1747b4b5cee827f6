"""Synthetic strip."""

from __future__ import annotations

import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.strip import DEFECTS, draw_strip


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("seed", range(6))
def test_a_defect_stands_out_where_the_truth_says(kind: str, seed: int) -> None:
    image, truth = draw_strip(kind, seed)
    assert image.shape == (200, 200, 3)
    assert image.dtype == truth.dtype == np.uint8
    assert truth.shape == (200, 200)
    assert set(np.unique(truth)) == {0, 255}
    assert np.array_equal(image[..., 0], image[..., 2])  # gray
    inside, outside = image[truth == 255], image[truth == 0]
    spread = np.abs(inside.astype(float) - np.median(outside)).mean()
    assert spread > 2 * np.abs(outside.astype(float) - np.median(outside)).mean()


def test_clean_strip_has_an_empty_truth() -> None:
    _, truth = draw_strip("clean", 1)
    assert not truth.any()


def test_equal_seeds_give_equal_pictures_and_others_others() -> None:
    first, again, other = (draw_strip("patch", seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, draw_strip("scratch", 3)[0])


@pytest.mark.parametrize("size_hw", [(64, 64), (100, 300), (480, 640)])
def test_any_size(size_hw: tuple[int, int]) -> None:
    for kind in (*DEFECTS, "clean"):
        image, truth = draw_strip(kind, 1, size_hw)
        assert image.shape == (*size_hw, 3)
        assert truth.shape == size_hw


def test_unknown_kind() -> None:
    with pytest.raises(InputError, match="unknown kind of strip 'rust'; known: inclusion, patch, scratch, clean"):
        draw_strip("rust")
