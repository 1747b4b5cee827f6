"""Windows cut anywhere from wide strip of the training pictures: what a network sees of a strip camera's frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdi.train.data import Sample
from sdi.train.wide.strip import StripMaker, StripPlan

__all__ = ["WideWindows"]

_STRIPS = 128  # different ones; each is drawn when it is first needed, and serves many windows
_STRIP_WINDOWS = (2, 5)  # size of a strip, in windows
_GROUPS = 12  # of defects in a strip, at the most
_CLEAN = 0.2  # share of the strips without a defect
_SCALES = (0.9, 1.1)  # of a window's side: lenses and strip thickness differ


class WideWindows:
    """Square windows of about the pictures' own size, so that defects keep their scale.

    Args:
        samples: what strip is made of.
        seed: equal seeds give equal strips.
    Raises:
        InputError: no picture shows enough steel without a defect.
    """

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self.side = int(np.median([min(sample.mask.shape) for sample in samples]))
        self._seed = seed
        self._maker = StripMaker(samples)
        self._strips: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # gray and mask, by number

    def draw(self, rng: np.random.Generator) -> Sample:
        """One window with its mask, which is often empty."""
        gray, mask = self._strip(int(rng.integers(_STRIPS)))
        side = min(round(self.side * rng.uniform(*_SCALES)), *mask.shape)
        top, left = (int(rng.integers(length - side + 1)) for length in mask.shape)
        window = np.s_[top : top + side, left : left + side]
        return Sample("wide strip", np.repeat(gray[window][..., None], 3, axis=2), mask[window])

    def _strip(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if number not in self._strips:
            rng = np.random.default_rng([self._seed, number])
            groups = 0 if rng.random() < _CLEAN else int(rng.integers(3, _GROUPS + 1))
            height, width = (self.side * windows for windows in _STRIP_WINDOWS)
            plan = StripPlan((height, width), groups, seed=int(rng.integers(2**31)))
            strip = self._maker.draw(plan)
            self._strips[number] = (strip.image[..., 0].copy(), strip.mask)
        return self._strips[number]
