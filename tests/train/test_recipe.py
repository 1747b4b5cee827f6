from __future__ import annotations

import pytest

from sdi.runtime.errors import InputError
from sdi.train.augment import Augmentation
from sdi.train.recipe import Recipe


def test_survives_a_checkpoint() -> None:
    recipe = Recipe(0.01, (64, 96), epochs=7, seed=3, augmentation=Augmentation(flips=False, gain=0.5))
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_refuses_an_unknown_field() -> None:
    with pytest.raises(InputError, match=r"unknown recipe field \['momentum'\]; known: \['augmentation'"):
        Recipe.from_dict({**Recipe(0.01, (64, 64)).to_dict(), "momentum": 0.9})


@pytest.mark.parametrize("size_hw", [(0, 32), (33, 64), (64, 40), (16, 16)])
def test_refuses_a_size_that_the_networks_cannot_halve(size_hw: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"multiple of 32, got {size_hw[0]}x{size_hw[1]}"):
        Recipe(0.01, size_hw)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}])
def test_refuses_what_must_be_positive(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(change))} must be greater than 0"):
        Recipe(**{"learning_rate": 0.01, "input_hw": (64, 64), **change})
