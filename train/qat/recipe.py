"""How long and how fast a trained network is trained for INT8."""

from __future__ import annotations

from dataclasses import replace

from sdi.train.recipe import Recipe

__all__ = ["qat_recipe"]

_EPOCHS = 5
_SLOWER = 40  # times, than what the network was trained with


def qat_recipe(recipe: Recipe) -> Recipe:
    """A few epochs at a low rate that falls to zero; batches, losses and augmentation as the network knows them."""
    return replace(
        recipe,
        learning_rate=recipe.learning_rate / _SLOWER,
        epochs=_EPOCHS,
        steps=None,
        early_hw=None,
        early=0.0,
        whole=1.0 if recipe.whole else 0.0,  # as it saw them last
        schedule="cosine",
        warmup=0.05,
        floor=0.0,
        evaluate_every=1,
    )
