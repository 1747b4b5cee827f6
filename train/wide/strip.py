"""Wide strip: one kind of surface, light that varies over it, and real defects at their own size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError
from sdi.train.data import Sample
from sdi.train.wide.quilting import Quilt, quilt
from sdi.train.wide.surface import Cutout, surface_of

__all__ = ["Placed", "Strip", "StripMaker", "StripPlan"]

_QUILT = Quilt()
_TEXTURES = 12  # pictures that the background is made of
_PATCHES = 2000  # places in them to choose a patch from, at the least
_LOUDER = 1.15  # the most that a texture is made coarser to be like the others: its faults grow too
_DONORS = 40  # pictures like the surface, whose defects it gets
_CUT = 0.4  # share of the groups cut by a border that are taken
_GAP = 10  # pixels between the margins of two groups of defects
_TRIES = 40  # places that are tried for a group
_GRID = 200  # pixels: some defects lie across its lines
_DARKEST, _BRIGHTEST = 45.0, 215.0  # gray levels of the light


@dataclass(frozen=True)
class StripPlan:
    """What is drawn.

    Args:
        size_hw: of the strip, pixels.
        groups: of defects, at the most: what finds no place is left out.
        seed: equal seeds give equal strips.
        surface: index of the picture whose surface it has; None draws one.
    """

    size_hw: tuple[int, int]
    groups: int
    seed: int
    surface: int | None = None


@dataclass(frozen=True)
class Placed:
    """A group of defects in a strip: the picture it comes from, and its box with the margin, pixels."""

    source: str
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """What was drawn.

    Args:
        surface: name of the picture whose surface it has.
        image: (H, W, 3) uint8 BGR, gray.
        mask: (H, W) uint8, 0 or 255.
        placed: the groups of defects in it; their boxes do not overlap.
    """

    surface: str
    image: np.ndarray
    mask: np.ndarray
    placed: tuple[Placed, ...]


class StripMaker:
    """Draws wide strip from small pictures with masks.

    Args:
        samples: those with enough steel free of defects to be the background are used for it.
    Raises:
        InputError: no picture shows enough of it.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.surfaces = [surface for sample in samples if (surface := surface_of(sample)) is not None]
        patch = (_QUILT.patch, _QUILT.patch)
        self._corners = [surface.free_corners(patch) for surface in self.surfaces]
        self.grounds = [n for n, corners in enumerate(self._corners) if len(corners)]
        if not self.grounds:
            raise InputError(
                f"wide strip is made of steel without defects: none of {len(samples)} pictures shows a square of "
                f"{_QUILT.patch}x{_QUILT.patch} pixels of it"
            )
        looks = np.stack([surface.look for surface in self.surfaces])
        self._looks = (looks - looks.mean(0)) / (looks.std(0) + 1e-6)

    def draw(self, plan: StripPlan) -> Strip:
        """One strip with its truth."""
        rng = np.random.default_rng([plan.seed, 0x57121])
        ground = self.grounds[rng.integers(len(self.grounds))] if plan.surface is None else plan.surface
        surface = self.surfaces[ground]
        alike = np.argsort(np.square(self._looks - self._looks[ground]).sum(1), kind="stable")
        reflectance = self._background(alike, plan.size_hw, rng)
        mask = np.zeros(plan.size_hw, np.uint8)
        placed: list[Placed] = []
        if plan.groups:
            cutouts = [cutout for n in alike[:_DONORS] for cutout in self.surfaces[n].cutouts]
            placed = _add_defects(reflectance, mask, cutouts, plan.groups, rng)
        gray = np.clip(np.rint(reflectance * _light(surface.level, plan.size_hw, rng)), 0, 255).astype(np.uint8)
        return Strip(surface.name, cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), mask, tuple(placed))

    def _background(self, alike: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Texture of the pictures that are most alike and hold patches without defects."""
        chosen: list[int] = []
        patches = 0
        for n in alike:
            if len(self._corners[n]) and (len(chosen) < _TEXTURES or patches < _PATCHES):
                chosen.append(int(n))
                patches += len(self._corners[n])
        spread = [float(np.exp(self.surfaces[n].look[1])) for n in chosen]  # of the fine texture
        textures = [
            1 + (self.surfaces[n].reflectance - 1) * np.float32(min(spread[0] / own, _LOUDER))
            for n, own in zip(chosen, spread, strict=True)
        ]
        return quilt(textures, [self._corners[n] for n in chosen], size_hw, rng, _QUILT)


def _add_defects(
    reflectance: np.ndarray, mask: np.ndarray, cutouts: list[Cutout], groups: int, rng: np.random.Generator
) -> list[Placed]:
    """Blend defects in, both arrays in place; none overlaps another."""
    placed: list[Placed] = []
    # None twice, and of those that a picture's border cuts, which can lie at the frame's edge alone, not too many.
    order = [n for n in rng.permutation(len(cutouts)) if not any(cutouts[n].cut) or rng.random() < _CUT]
    taken = np.zeros(mask.shape, np.uint8)
    for n in order[:groups]:
        cutout = cutouts[n]
        for _ in range(_TRIES):
            place = _place(cutout, mask.shape, rng)
            if place is not None and not (taken[place] & (cutout.alpha > 0)).any():
                _blend(reflectance[place], cutout)
                np.maximum(mask[place], cutout.mask, out=mask[place])
                (top, left), (height, width) = (part.start for part in place), cutout.mask.shape
                cv2.rectangle(taken, (left - _GAP, top - _GAP), (left + width + _GAP, top + height + _GAP), 1, -1)
                placed.append(Placed(cutout.source, left, top, width, height))
                break
    return placed


def _place(cutout: Cutout, size_hw: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice] | None:
    """Somewhere it fits whole, or at the edge that cuts it as its picture did; None where there is no such place."""
    style = rng.random()
    starts = []
    for axis in (0, 1):
        room = size_hw[axis] - cutout.mask.shape[axis]
        if room < 0:
            return None
        first, last = cutout.cut[axis], cutout.cut[axis + 2]
        if first or last:
            starts.append(0 if first else room)
        elif style < 0.25 and size_hw[axis] > _GRID:  # across a line of the grid
            line = _GRID * int(rng.integers(1, size_hw[axis] // _GRID + 1))
            starts.append(int(np.clip(line - rng.integers(cutout.mask.shape[axis] + 1), 0, room)))
        elif style > 0.88:  # near an edge
            near = int(min(room, rng.integers(12)))
            starts.append(near if rng.random() < 0.5 else room - near)
        else:
            starts.append(int(rng.integers(room + 1)))
    return np.s_[
        starts[0] : starts[0] + cutout.mask.shape[0],
        starts[1] : starts[1] + cutout.mask.shape[1],
    ]


def _blend(there: np.ndarray, cutout: Cutout) -> None:
    """Fade from the strip's texture to the cutout's; where both count, their deviation stays that of one."""
    alpha = cutout.alpha
    spread = np.sqrt(alpha**2 + (1 - alpha) ** 2)
    there[:] = 1 + (alpha * (cutout.reflectance - 1) + (1 - alpha) * (there - 1)) / spread


def _light(level: float, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32: brighter and darker across the width by up to a quarter, along the strip by a few per cent."""
    height, width = size_hw
    x = np.linspace(-1, 1, width)
    phases = rng.uniform(0, 2 * math.pi, 3)
    across = sum(np.sin(math.pi * (n + 1) * x / 2 + phase) / (n + 1) for n, phase in enumerate(phases))
    across = 1 + rng.uniform(0.05, 0.2) * across / max(1e-6, float(np.abs(across).max())) - rng.uniform(0, 0.15) * x**2
    y = np.linspace(-1, 1, height)
    along = 1 + rng.uniform(0.0, 0.06) * np.sin(rng.uniform(1, 4) * y + rng.uniform(0, 2 * math.pi))
    light = level * along[:, None] * across[None]
    return np.clip(light, _DARKEST, _BRIGHTEST).astype(np.float32)
