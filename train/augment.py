"""Augmentation: one picture and its mask, moved and disturbed together.

Steel has no up or down, so flips and quarter turns are free; light and sensor noise vary along a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError

__all__ = ["Augmentation", "augment", "paste_window"]

_SHARES = ("gain", "contrast", "saturation", "salt_pepper")


@dataclass(frozen=True)
class Augmentation:
    """How far a picture may be changed. `flips=False, min_crop=1.0` and zeros leave it as it is, resized."""

    flips: bool = True  # both axes and the diagonal, each with probability 1/2
    mirror: bool = False  # left and right alone, with probability 1/2
    rotation: float = 0.0  # degrees, +-; edges are filled by reflection
    min_crop: float = 0.7  # side of the random window that is resized, as a share of the picture's side
    gain: float = 0.2  # brightness is multiplied by 1 +- gain
    offset: float = 20.0  # gray levels added, +- offset
    contrast: float = 0.0  # distance from the picture's mean gray level is multiplied by 1 +- contrast
    saturation: float = 0.0  # distance from gray is multiplied by 1 +- saturation
    salt_pepper: float = 0.01  # maximum share of pixels set to black or white; in half of the pictures

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"augmentation.{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 < self.min_crop <= 1:
            raise InputError(f"augmentation.min_crop must be greater than 0 and at most 1, got {self.min_crop}")
        if not 0 <= self.rotation <= 180:
            raise InputError(f"augmentation.rotation must be between 0 and 180 degrees, got {self.rotation}")
        if not 0 <= self.offset <= 255:
            raise InputError(f"augmentation.offset must be between 0 and 255 gray levels, got {self.offset}")


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    size_hw: tuple[int, int],
    how: Augmentation,
    rng: np.random.Generator,
    crop_hw: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one variant of a sample.

    Args:
        image: (H, W, 3) uint8 BGR. Not modified.
        mask: (H, W) uint8, 0 or 255. Not modified.
        size_hw: what both are resized to.
        crop_hw: size of the random window taken from that; None takes all.
    Returns:
        (h, w, 3) uint8 and (h, w) uint8, 0 or 255: the mask moves as its picture does, interpolated, and is cut at
        one half in the end.
    """
    image, mask = _moved(image, mask, size_hw, how, rng)
    if crop_hw is not None:
        window = _window(size_hw, crop_hw, rng)
        image, mask = image[window], mask[window]
    image = _lit(image, how, rng)
    if how.salt_pepper > 0 and rng.random() < 0.5:
        noise = rng.random(mask.shape)
        share = rng.uniform(0, how.salt_pepper)
        image[noise < share / 2] = 0
        image[noise > 1 - share / 2] = 255
    return np.ascontiguousarray(image), np.where(mask >= 128, np.uint8(255), np.uint8(0))


def paste_window(
    image: np.ndarray, mask: np.ndarray, donor: np.ndarray, donor_mask: np.ndarray, rng: np.random.Generator
) -> None:
    """Put a window of the donor, a quarter to three quarters of each side, at the same position of the picture.

    Args:
        image, donor: (H, W, 3) uint8 of the same size. `image` is modified.
        mask, donor_mask: (H, W) uint8. `mask` is modified.
    Source: Yun et al., CutMix, ICCV 2019; for dense prediction, where each pixel keeps its own label.
    """
    part = tuple(max(1, round(rng.uniform(0.25, 0.75) * side)) for side in mask.shape)
    window = _window(mask.shape, part, rng)
    image[window] = donor[window]
    mask[window] = donor_mask[window]


def _moved(
    image: np.ndarray, mask: np.ndarray, size_hw: tuple[int, int], how: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of the picture, resized, flipped and turned; the mask still soft at its edges."""
    height, width = mask.shape
    share = rng.uniform(how.min_crop, 1.0)
    window = _window(mask.shape, (max(1, round(share * height)), max(1, round(share * width))), rng)
    image, mask = (cv2.resize(part[window], size_hw[::-1], interpolation=cv2.INTER_LINEAR) for part in (image, mask))
    if how.flips:
        across, along, diagonal = rng.random(3) < 0.5
        if across:
            image, mask = image[:, ::-1], mask[:, ::-1]
        if along:
            image, mask = image[::-1], mask[::-1]
        if diagonal and size_hw[0] == size_hw[1]:
            image, mask = image.transpose(1, 0, 2), mask.T
    if how.mirror and rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if how.rotation > 0:
        centre = ((size_hw[1] - 1) / 2, (size_hw[0] - 1) / 2)
        turn = cv2.getRotationMatrix2D(centre, rng.uniform(-how.rotation, how.rotation), 1.0)
        image, mask = (
            cv2.warpAffine(np.ascontiguousarray(part), turn, size_hw[::-1], borderMode=cv2.BORDER_REFLECT_101)
            for part in (image, mask)
        )
    return image, mask


def _lit(image: np.ndarray, how: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Other light: a new array."""
    gain, offset = 1 + rng.uniform(-how.gain, how.gain), rng.uniform(-how.offset, how.offset)
    levels = np.arange(256) * gain + offset
    if how.contrast > 0:
        mean = np.average(levels, weights=np.bincount(image.ravel(), minlength=256))
        levels = mean + (levels - mean) * (1 + rng.uniform(-how.contrast, how.contrast))
    image = cv2.LUT(np.ascontiguousarray(image), np.clip(levels, 0, 255).astype(np.uint8))
    if how.saturation > 0:
        gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        factor = 1 + rng.uniform(-how.saturation, how.saturation)
        image = cv2.addWeighted(image, factor, gray, 1 - factor, 0)
    return image


def _window(size_hw: tuple[int, ...], part_hw: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    """Where a random window of `part_hw` lies in a picture of `size_hw`."""
    top, left = (int(rng.integers(0, size - part + 1)) for size, part in zip(size_hw, part_hw, strict=True))
    return np.s_[top : top + part_hw[0], left : left + part_hw[1]]
