"""The recipes of the three papers, TSERNet-lite's, and one for CPUs and small networks.

Where a paper is silent, the value is named here. None of them gives the share of noisy pixels: ours is up to one in
a hundred, in half of the pictures. Validation and its rhythm are ours everywhere, since the papers train on all 540
pictures: add `--val none` to do as they did.
"""

from __future__ import annotations

from sdi.runtime.common.errors import InputError
from sdi.train.augment import Augmentation
from sdi.train.recipe import Recipe

__all__ = ["CSEPNET_PAPER", "MINET_PAPER", "RECIPES", "TSERNET_LITE", "TSERNET_PAPER", "choose_recipe"]

RECIPES = ("paper", "quick")

_STILL = Augmentation(flips=False, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.0)

# TSERNet, IEEE TIM 2022: Adam without decay, a constant rate, 26,000 iterations; tested on whole pictures of 256x256.
TSERNET_PAPER = Recipe(
    learning_rate=1e-3,
    input_hw=(256, 256),
    crop_hw=(224, 224),
    epochs=None,
    steps=26_000,
    batch_size=4,
    optimiser="adam",
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    augmentation=Augmentation(flips=False, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.01),
)

# CSEPNet, Measurement 2022.
CSEPNET_PAPER = Recipe(
    learning_rate=1e-3,
    input_hw=(256, 256),
    epochs=100,
    batch_size=4,
    optimiser="sgd",
    weight_decay=5e-4,
    decay_all=False,
    schedule="poly",
    warmup=0.0,
    augmentation=Augmentation(
        flips=False,
        mirror=True,
        rotation=10.0,
        min_crop=1.0,
        gain=0.1,
        offset=0.0,
        contrast=0.1,
        saturation=0.1,
        salt_pepper=0.01,
    ),
)

# MINet, IEEE TII 2024: a constant rate; tested on whole pictures of 368x368.
MINET_PAPER = Recipe(
    learning_rate=4e-3,
    input_hw=(368, 368),
    crop_hw=(336, 336),
    epochs=1803,
    batch_size=32,
    optimiser="adam",
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    evaluate_every=50,  # 16 steps an epoch
    augmentation=_STILL,
)

# TSERNet-lite is this project's own, and meant to be trained on a CPU: seven steps in ten at 192x192. The rate
# ends above zero and the average is long, so that it is one of networks that differ.
TSERNET_LITE = Recipe(
    learning_rate=3e-3,
    input_hw=(256, 256),
    early_hw=(192, 192),
    early=0.7,
    whole=0.1,
    epochs=80,
    weight_decay=1e-2,
    decay_all=False,
    backbone_lr=0.25,
    ema=0.999,
    floor=0.1,
    paste=0.3,
    clean=0.1,
    augmentation=Augmentation(min_crop=0.6, rotation=10.0, gain=0.25, offset=25.0, contrast=0.25),
)


def choose_recipe(name: str | None, paper: Recipe, learning_rate: float, input_hw: tuple[int, int]) -> Recipe:
    """A model's recipe by name.

    Args:
        name: "paper", the default; or "quick".
        paper: how the network's authors train it.
        learning_rate, input_hw: the model's, for the quick recipe.
    Raises:
        InputError: unknown name.
    """
    if name not in (None, *RECIPES):
        raise InputError(f"unknown recipe '{name}'; known: {', '.join(RECIPES)}")
    return quick_recipe(learning_rate, input_hw) if name == "quick" else paper


def quick_recipe(learning_rate: float, input_hw: tuple[int, int]) -> Recipe:
    """For a CPU, and for networks that start from random weights.

    Most steps at 5/8 of the size, where one costs less than half; the last on whole pictures, because random crops
    show defects larger than they are (Touvron et al., NeurIPS 2019). IoU counts a small defect as much as a large
    one, which BCE and SSIM do not.
    """
    early_hw = tuple(max(32, round(side * 5 / 8 / 16) * 16) for side in input_hw)
    small = early_hw != input_hw
    return Recipe(
        learning_rate=learning_rate,
        input_hw=input_hw,
        early_hw=early_hw if small else None,  # type: ignore[arg-type]
        early=0.7 if small else 0.0,
        whole=0.1,
        weight_decay=1e-2,
        decay_all=False,
        ema=0.999,
        floor=0.05,
        clean=0.1,
        iou=1.0,
    )
