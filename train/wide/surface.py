"""A picture of steel taken apart: its light, its texture where nothing is wrong, and its defects.

A gray level is light times reflectance. Light varies slowly and belongs to the camera's place; reflectance, 1 on
average, is the steel's. Texture and defects of one picture can stand in another's light, if only reflectance is moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from sdi.train.data import Sample

__all__ = ["Cutout", "Surface", "surface_of"]

_LIGHT = 20.0  # pixels, standard deviation of the blur that tells light from texture
_COARSE = 4  # times smaller the picture is in which light is sought
_SKIRT = 9  # pixels around a mask that may still belong to the defect
_CORE, _FEATHER = 3, 7  # pixels around a mask that go with it whole, and fading out
_FAULT = 3.0  # standard deviations of the smoothed texture, from which a fault is taken to be one that nobody drew
_BURNT = 0.1  # share of white pixels from which a place shows no texture any more
_SEEN = 0.3  # share of a mask that has to differ from the texture by two standard deviations
_LEAST_STEEL = 0.1  # share of a picture that has to be free of defects


@dataclass(frozen=True)
class Cutout:
    """Defects that lie close together, with a margin.

    Args:
        source: name of the picture.
        reflectance: (h, w) float32.
        mask: (h, w) uint8, 0 or 255.
        alpha: (h, w) float32, 0..1: 1 on the defects and next to them, fading to 0.
        cut: whether the picture's border cuts it at its top, left, bottom and right.
    """

    source: str
    reflectance: np.ndarray
    mask: np.ndarray
    alpha: np.ndarray
    cut: tuple[bool, bool, bool, bool]


@dataclass(frozen=True)
class Surface:
    """One picture's steel.

    Args:
        name: of the picture.
        level: mean gray level of the light.
        reflectance: (H, W) float32.
        free: (H, W) bool, where neither a defect is nor what looks like one.
        look: (4,) float32, what two surfaces are compared by: logarithms of the level, of the texture's fine and
            coarse deviation, and of its gradients' ratio.
        cutouts: its defects, each group whole.
    """

    name: str
    level: float
    reflectance: np.ndarray
    free: np.ndarray
    look: np.ndarray
    cutouts: tuple[Cutout, ...]

    @cached_property
    def _free_area(self) -> np.ndarray:
        return cv2.integral(self.free.astype(np.uint8))

    def free_corners(self, size_hw: tuple[int, int]) -> np.ndarray:
        """(n, 2) rows and columns where a patch of that size begins that is free everywhere."""
        height, width = size_hw
        total = self._free_area
        if height >= total.shape[0] or width >= total.shape[1]:
            return np.zeros((0, 2), np.int64)
        inside = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
        return np.argwhere(inside == height * width)


def surface_of(sample: Sample) -> Surface | None:
    """The picture taken apart; None where it shows too little steel without a defect to know its light."""
    gray = cv2.cvtColor(sample.image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    steel = _grown(sample.mask, _SKIRT) == 0
    if steel.mean() < _LEAST_STEEL:
        return None
    light = np.maximum(_light(gray, steel), 1)
    reflectance = gray / light
    smooth = cv2.GaussianBlur(reflectance, (0, 0), 2.0)
    deviation = 1.4826 * float(np.median(np.abs(smooth[steel] - 1))) + 1e-3
    odd = np.abs(smooth - 1) > _FAULT * deviation
    burnt = cv2.GaussianBlur((gray >= 254).astype(np.float32), (0, 0), 4.0) > _BURNT
    free = steel & ~burnt & (_grown(np.where(odd, np.uint8(255), np.uint8(0)), 3) == 0)
    texture = reflectance - cv2.GaussianBlur(reflectance, (0, 0), 1.5)
    across, along = (
        np.abs(np.diff(smooth, axis=axis))[steel[: gray.shape[0] - (1 - axis), : gray.shape[1] - axis]]
        for axis in (1, 0)
    )
    level = float(light[steel].mean())
    look = np.log([level, texture[steel].std() + 1e-3, deviation, (along.mean() + 1e-4) / (across.mean() + 1e-4)])
    cutouts = tuple(_cutouts(sample, reflectance, np.abs(smooth - 1) > 2 * deviation))
    return Surface(sample.name, level, reflectance, free, look.astype(np.float32), cutouts)


def _light(gray: np.ndarray, steel: np.ndarray) -> np.ndarray:
    """(H, W) float32: the gray level that steel without texture and defects would have."""
    height, width = gray.shape
    small = (-(-width // _COARSE), -(-height // _COARSE))  # light is smooth, so it is blurred where that is cheap
    weight = steel.astype(np.float32)
    seen, total = (cv2.resize(part, small, interpolation=cv2.INTER_AREA) for part in (gray * weight, weight))
    sums = [np.zeros_like(seen), np.zeros_like(total)]
    for sigma, share in ((_LIGHT, 1.0), (4 * _LIGHT, 1e-2)):  # the wide one counts deep inside large defects
        for n, part in enumerate((seen, total)):
            blurred = cv2.GaussianBlur(part, (0, 0), sigma / _COARSE, borderType=cv2.BORDER_REFLECT)
            sums[n] = sums[n] + share * blurred
    light = sums[0] / np.maximum(sums[1], 1e-6)
    return cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)


def _cutouts(sample: Sample, reflectance: np.ndarray, differs: np.ndarray) -> list[Cutout]:
    mask = sample.mask
    height, width = mask.shape
    reach = _CORE + _FEATHER
    count, labels = cv2.connectedComponents(_grown(mask, reach), connectivity=8)
    found = []
    for label in range(1, count):
        own = np.where(labels == label, mask, np.uint8(0))
        rows, columns = np.flatnonzero((labels == label).any(1)), np.flatnonzero((labels == label).any(0))
        cut = (bool(own[0].any()), bool(own[:, 0].any()), bool(own[-1].any()), bool(own[:, -1].any()))
        if differs[own > 0].mean() < _SEEN or (cut[0] and cut[2]) or (cut[1] and cut[3]):
            continue
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        distance = cv2.distanceTransform(np.where(own > 0, np.uint8(0), np.uint8(255)), cv2.DIST_L2, 5)
        alpha = np.clip((reach - distance) / _FEATHER, 0, 1).astype(np.float32)
        # A margin that the picture's border cuts short must not end abruptly.
        for side, axis, at in ((0, 0, 0), (1, 1, 0), (2, 0, height - 1), (3, 1, width - 1)):
            if not cut[side]:
                steps = np.abs(np.arange(alpha.shape[axis]) - at) / _FEATHER
                edge = np.clip(steps, 0, 1).astype(np.float32)
                edge = edge[:, None] if axis == 0 else edge[None]
                alpha = np.where(own > 0, alpha, np.minimum(alpha, edge))
        found.append(Cutout(sample.name, reflectance[box], own[box], alpha[box], cut))
    return found


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    size = (2 * pixels + 1, 2 * pixels + 1)
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, size))
