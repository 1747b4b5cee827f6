"""Training batches, drawn and augmented."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdi.runtime.common.errors import InputError
from sdi.train.augment import augment, paste_window
from sdi.train.clean import CleanSteel
from sdi.train.data import Sample
from sdi.train.recipe import Recipe, View
from sdi.train.wide.windows import WideWindows

__all__ = ["Batches", "Share"]


@dataclass(frozen=True)
class Share:
    """What is computed at once of a batch: frames (n, h, w, 3) uint8 BGR, masks (n, 1, h, w) float32, 0 or 1.

    `seed` is for what the network itself draws while it computes this share.
    """

    frames: Tensor
    masks: Tensor
    seed: int


class Batches:
    """Every batch is a pure function of (seed, epoch, position in the epoch), so resuming needs no state.

    A batch is cut into equal shares: `accumulate` in a row for each of `processes` processes. Which pictures a
    share holds and what is drawn for it depends on the number of shares, not on who computes them.

    Args:
        rank: which of the processes this is.
    Raises:
        InputError: no picture, a batch that cannot be cut into equal shares, or shares too small for batch norm.
    """

    def __init__(self, samples: list[Sample], recipe: Recipe, *, rank: int = 0, processes: int = 1) -> None:
        if not samples:
            raise InputError("no picture to train on")
        self.samples = samples
        self.recipe = recipe
        self.size = min(recipe.batch_size, len(samples))
        self.per_epoch = len(samples) // self.size
        self.steps = recipe.steps or (recipe.epochs or 0) * self.per_epoch
        self._clean = CleanSteel(samples) if recipe.clean else None
        self._wide = WideWindows(samples, recipe.seed) if recipe.wide else None
        self._rank = rank
        self._shares = recipe.accumulate * processes
        height, width = (math.ceil(side / 32) for side in recipe.train_hw)  # of the networks' deepest level
        if self.size * height * width == self._shares:
            raise InputError(
                f"one picture of {recipe.train_hw[0]}x{recipe.train_hw[1]} at once is too little for batch norm; "
                "choose a greater --batch or --size, or fewer parts"
            )
        if self.size % self._shares:
            raise InputError(
                f"a batch of {self.size} cannot be cut into {self._shares} equal shares ({processes} devices, "
                f"accumulate {recipe.accumulate}); choose a --batch that {self._shares} divides"
            )

    def epoch(self, epoch: int, done: int) -> Iterator[list[Share]]:
        """This process's shares of the epoch's batches after the first `done`."""
        recipe = self.recipe
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(self.samples))
        own = range(self._rank * recipe.accumulate, (self._rank + 1) * recipe.accumulate)
        part = self.size // self._shares
        for n in range(done, self.per_epoch):
            starts = [n * self.size + share * part for share in own]
            yield [self._share(epoch, order[start : start + part], start) for start in starts]

    def _share(self, epoch: int, indices: np.ndarray, start: int) -> Share:
        recipe = self.recipe
        step = epoch * self.per_epoch + start // self.size
        view = recipe.view_at(step / self.steps)
        drawn = []
        for i in indices:
            rng = np.random.default_rng([recipe.seed, epoch, int(i)])
            image, mask = self._picture(int(i), view, rng)
            if view.paste and rng.random() < view.paste:
                donor = self._picture(int(rng.integers(len(self.samples))), view, rng)
                paste_window(image, mask, *donor, rng)
            drawn.append((image, mask))
        seed = np.random.SeedSequence([recipe.seed, epoch, start]).generate_state(1, np.uint64)
        return Share(
            torch.from_numpy(np.stack([image for image, _ in drawn])),
            torch.from_numpy(np.stack([mask for _, mask in drawn]))[:, None].float() / 255,
            int(seed[0] >> np.uint64(1)),
        )

    def _picture(self, i: int, view: View, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A variant of sample i, or a window of wide strip or defect-free steel in its place."""
        sample = self.samples[i]
        if self._wide is not None and rng.random() < self.recipe.wide:
            sample = self._wide.draw(rng)
        elif self._clean is not None and rng.random() < self.recipe.clean:
            sample = self._clean.draw(rng)
        return augment(sample.image, sample.mask, view.size_hw, view.augmentation, rng, view.crop_hw)
