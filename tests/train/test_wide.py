"""Wide strip made of small pictures: its truth, its seams, and the windows that a training is given."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.strip import draw_strip
from sdi.train.batches import Batches
from sdi.train.data import Sample
from sdi.train.paper_recipes import quick_recipe
from sdi.train.wide.quilting import Quilt, quilt
from sdi.train.wide.strip import StripMaker, StripPlan
from sdi.train.wide.windows import WideWindows

SIZE = (300, 900)


def samples() -> list[Sample]:
    kinds = ("inclusion", "scratch")
    return [Sample(f"{kind}_{n}", *draw_strip(kind, n, (200, 200))) for kind in kinds for n in range(3)]


@pytest.fixture(scope="module")
def maker() -> StripMaker:
    return StripMaker(samples())


def test_equal_seeds_give_equal_strip(maker: StripMaker) -> None:
    one, same, other = (maker.draw(StripPlan(SIZE, 6, seed)) for seed in (1, 1, 2))
    assert (one.image == same.image).all()
    assert (one.mask == same.mask).all()
    assert (one.image != other.image).any()


def test_strip_has_its_size_and_defects_that_differ_from_the_steel_around_them(maker: StripMaker) -> None:
    strip = maker.draw(StripPlan(SIZE, 8, seed=3))
    assert strip.image.shape == (*SIZE, 3)
    assert strip.mask.shape == SIZE
    assert set(np.unique(strip.mask)) == {0, 255}
    gray = strip.image[..., 0].astype(np.float32)
    around = cv2.dilate(strip.mask, np.ones((25, 25), np.uint8)) & ~cv2.dilate(strip.mask, np.ones((9, 9), np.uint8))
    count, labels = cv2.connectedComponents(strip.mask)
    assert count > 1
    spread = gray[around > 0].std()
    contrasts = [abs(gray[labels == n].mean() - np.median(gray[around > 0])) for n in range(1, count)]
    assert np.median(contrasts) > spread / 2


def test_clean_strip_has_no_defect(maker: StripMaker) -> None:
    assert not maker.draw(StripPlan(SIZE, 0, seed=4)).mask.any()


def test_pictures_without_free_steel_are_refused() -> None:
    full = Sample("all", np.full((200, 200, 3), 90, np.uint8), np.full((200, 200), 255, np.uint8))
    with pytest.raises(InputError, match="wide strip is made of steel without defects: none of 1 pictures"):
        StripMaker([full])


def test_seams_are_no_steeper_than_the_texture() -> None:
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.normal(0, 1, (200, 200)).astype(np.float32), (0, 0), 2)
    corners = np.argwhere(np.ones((136, 136)))
    how = Quilt()
    made = quilt([texture], [corners], (400, 600), rng, how)
    steps = np.abs(np.diff(made, axis=1))
    usual = np.quantile(np.abs(np.diff(texture, axis=1)), 0.999)
    assert np.quantile(steps, 0.99) < usual


def test_windows_are_of_the_pictures_own_size_and_mostly_clean() -> None:
    windows = WideWindows(samples(), seed=0)
    rng = np.random.default_rng(0)
    drawn = [windows.draw(rng) for _ in range(24)]
    sides = {side for window in drawn for side in window.mask.shape}
    assert all(180 <= side <= 220 for side in sides)
    assert all(window.image.shape == (*window.mask.shape, 3) for window in drawn)
    assert 0 < sum(bool(window.mask.any()) for window in drawn) < 24


def test_a_training_is_given_them_as_its_recipe_says_and_alike_when_it_resumes() -> None:
    recipe = replace(quick_recipe(1e-3, (64, 64)), early_hw=None, early=0.0, wide=0.5, batch_size=2)
    plain = replace(recipe, wide=0.0)
    first, again, without = (next(Batches(samples(), each).epoch(0, 0))[0] for each in (recipe, recipe, plain))
    assert (first.frames == again.frames).all()
    assert (first.masks == again.masks).all()
    assert (first.frames != without.frames).any()
