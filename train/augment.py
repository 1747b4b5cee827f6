"""Augmentation: one picture and its mask, moved and disturbed together.

Steel has no up or down, so flips and quarter turns are free; light and sensor noise vary along a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Augmentation", "augment"]


@dataclass(frozen=True)
class Augmentation:
    """How far a picture may be changed. Zeros and `flips=False` leave it as it is, resized."""

    flips: bool = True  # both axes and the diagonal, each with probability 1/2
    min_crop: float = 0.7  # side of the random crop, as a share of the picture's side
    gain: float = 0.2  # brightness is multiplied by 1 +- gain
    offset: float = 20.0  # gray levels added, +- offset
    salt_pepper: float = 0.01  # greatest share of pixels set to black or white; in half of the pictures


def augment(
    image: np.ndarray, mask: np.ndarray, size_hw: tuple[int, int], how: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one variant of a sample.

    Args:
        image: (H, W, 3) uint8 BGR. Not modified.
        mask: (H, W) uint8, 0 or 255. Not modified.
        size_hw: wanted size of both.
    Returns:
        (h, w, 3) uint8 and (h, w) uint8, 0 or 255: the mask is interpolated, then cut at one half.
    """
    height, width = mask.shape
    share = rng.uniform(how.min_crop, 1.0)
    crop_h, crop_w = max(1, round(share * height)), max(1, round(share * width))
    top, left = rng.integers(0, height - crop_h + 1), rng.integers(0, width - crop_w + 1)
    window = np.s_[top : top + crop_h, left : left + crop_w]
    image, mask = (cv2.resize(part[window], size_hw[::-1], interpolation=cv2.INTER_LINEAR) for part in (image, mask))
    if how.flips:
        across, along, diagonal = rng.random(3) < 0.5
        if across:
            image, mask = image[:, ::-1], mask[:, ::-1]
        if along:
            image, mask = image[::-1], mask[::-1]
        if diagonal and size_hw[0] == size_hw[1]:
            image, mask = image.transpose(1, 0, 2), mask.T
    gain, offset = 1 + rng.uniform(-how.gain, how.gain), rng.uniform(-how.offset, how.offset)
    levels = np.clip(np.arange(256) * gain + offset, 0, 255).astype(np.uint8)
    image = levels[image]
    if how.salt_pepper > 0 and rng.random() < 0.5:
        noise = rng.random(mask.shape)
        share = rng.uniform(0, how.salt_pepper)
        image[noise < share / 2] = 0
        image[noise > 1 - share / 2] = 255
    return np.ascontiguousarray(image), np.where(mask >= 128, np.uint8(255), np.uint8(0))
