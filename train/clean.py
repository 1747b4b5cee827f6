"""Defect-free pictures to train on, so that clean steel stays dark."""

from __future__ import annotations

import cv2
import numpy as np

from sdi.runtime.common.strip import draw_strip
from sdi.train.data import Sample

__all__ = ["CleanSteel"]

_SIDES = range(64, 513, 32)  # pixels; less than 64 shows too little of a surface


class CleanSteel:
    """Square windows of at least 64x64 of the samples' background, and synthetic clean strip, half of each.

    Samples without such a window give none; where no sample has one, all is synthetic.
    """

    def __init__(self, samples: list[Sample]) -> None:
        self._windows = [
            (sample, side)
            for sample in samples
            for side in _SIDES
            if side <= min(sample.mask.shape) and len(_empty_corners(sample.mask, side))
        ]

    def draw(self, rng: np.random.Generator) -> Sample:
        """One picture, square, with its mask, which is empty."""
        if not self._windows or rng.random() < 0.5:
            image, mask = draw_strip("clean", int(rng.integers(2**31)))
            return Sample("clean strip", image, mask)
        return self.window(rng)

    @property
    def has_windows(self) -> bool:
        """Whether any sample has a window without a defect."""
        return bool(self._windows)

    def window(self, rng: np.random.Generator) -> Sample:
        """One window of a sample's background; there has to be one."""
        sample, side = self._windows[rng.integers(len(self._windows))]
        corners = _empty_corners(sample.mask, side)
        top, left = corners[rng.integers(len(corners))]
        window = np.s_[top : top + side, left : left + side]
        return Sample(f"background of {sample.name}", sample.image[window], sample.mask[window])


def _empty_corners(mask: np.ndarray, side: int) -> np.ndarray:
    """(n, 2) rows and columns where a square window of `side` without any defect begins."""
    total = cv2.integral((mask > 0).astype(np.uint8))
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return np.argwhere(inside == 0)
