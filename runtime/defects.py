"""Defects: connected regions of a saliency map over a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from sdi.runtime.errors import InputError

__all__ = ["Region", "find_regions", "gray_level"]


@dataclass(frozen=True)
class Region:
    """One connected region, in pixels of the frame; probabilities 0..1."""

    x: int  # left edge of the box
    y: int  # top edge
    width: int
    height: int
    area: int  # pixels over the threshold
    peak: float  # greatest probability inside
    mean: float  # mean probability inside


def gray_level(threshold: float) -> int:
    """The least gray level, 0..255, whose probability reaches `threshold`."""
    return math.ceil(threshold * 255)


def find_regions(saliency: np.ndarray, threshold: float = 0.5, min_area: int = 1) -> list[Region]:
    """Regions (8-connected) where the probability reaches `threshold`, largest first.

    Args:
        saliency: (H, W) uint8, probability x 255.
        threshold: above 0, up to 1.
        min_area: smaller regions do not count, pixels.
    Raises:
        InputError: the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, got {threshold}")
    over = (saliency >= gray_level(threshold)).astype(np.uint8)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(over, connectivity=8)
    regions = []
    for label, (x, y, width, height, area) in enumerate(boxes.tolist()):
        if label == 0 or area < min_area:  # label 0 is what lies under the threshold
            continue
        window = np.s_[y : y + height, x : x + width]
        inside = saliency[window][labels[window] == label]
        regions.append(
            Region(x, y, width, height, area, round(int(inside.max()) / 255, 4), round(float(inside.mean()) / 255, 4))
        )
    return sorted(regions, key=lambda region: (-region.area, region.y, region.x))
