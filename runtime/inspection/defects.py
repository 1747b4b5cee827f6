"""Defects: connected regions of a saliency map over a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError
from sdi.runtime.inspection.roi import Roi
from sdi.runtime.region import Region

__all__ = ["Blob", "DefectRule", "find_blobs", "find_regions", "gray_level"]


@dataclass(frozen=True)
class Blob:
    """A region and its pixels: `inside` is (height, width) bool, the region within its box."""

    region: Region
    inside: np.ndarray


@dataclass(frozen=True)
class DefectRule:
    """What counts as a defect.

    Args:
        threshold: probability from which a pixel counts, above 0, up to 1.
        min_area: smaller regions do not count, pixels.
        roi: only pixels within it count.
        mm_per_pixel: scale for millimetres in records.
    Raises:
        InputError: a value is out of range.
    """

    threshold: float = 0.5
    min_area: int = 1
    roi: Roi | None = None
    mm_per_pixel: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold must be above 0 and at most 1, got {self.threshold}")
        if self.min_area < 1:
            raise InputError(f"min-area must be at least 1 pixel, got {self.min_area}")
        if self.mm_per_pixel is not None and not 0 < self.mm_per_pixel < math.inf:
            raise InputError(f"mm-per-pixel must be above 0, e.g. 0.25, got {self.mm_per_pixel}")


def gray_level(threshold: float) -> int:
    """The lowest gray level, 0..255, whose probability reaches `threshold`."""
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
    return [blob.region for blob in find_blobs(saliency, DefectRule(threshold, min_area))]


def find_blobs(saliency: np.ndarray, rule: DefectRule) -> list[Blob]:
    """Regions (8-connected) by `rule` with their pixels, largest first.

    Args:
        saliency: (H, W) uint8, probability x 255.
    Raises:
        InputError: nothing of the picture lies within the rule's region of interest.
    """
    left, top = 0, 0
    within: np.ndarray | None = None
    if rule.roi is not None:
        left, top, right, bottom, within = rule.roi.within(saliency.shape[:2])
        saliency = saliency[top:bottom, left:right]
    _, over = cv2.threshold(saliency, gray_level(rule.threshold) - 1, 1, cv2.THRESH_BINARY)
    if within is not None:
        over &= within
    # Labelling costs as much on clean strip as on any other, so an empty map skips it.
    x0, y0, across, down = cv2.boundingRect(over)
    if not across:
        return []
    left, top = left + x0, top + y0
    over, saliency = over[y0 : y0 + down, x0 : x0 + across], saliency[y0 : y0 + down, x0 : x0 + across]
    _, labels, boxes, centroids = cv2.connectedComponentsWithStats(over, connectivity=8)
    blobs = []
    for label, (x, y, width, height, area) in enumerate(boxes.tolist()):
        if label == 0 or area < rule.min_area:  # label 0 is what lies under the threshold
            continue
        window = np.s_[y : y + height, x : x + width]
        inside = labels[window] == label
        values = saliency[window][inside]
        region = Region(
            x=left + x,
            y=top + y,
            width=width,
            height=height,
            area=area,
            peak=round(int(values.max()) / 255, 4),
            mean=round(float(values.mean()) / 255, 4),
            cx=round(left + float(centroids[label][0]), 2),
            cy=round(top + float(centroids[label][1]), 2),
            elongation=_elongation(inside),
            mm_per_pixel=rule.mm_per_pixel,
        )
        blobs.append(Blob(region, inside))
    return sorted(blobs, key=lambda blob: (-blob.region.area, blob.region.y, blob.region.x))


def _elongation(inside: np.ndarray) -> float:
    """Length over breadth of the rectangle with the same second moments, at least 1.

    A pixel is a square of variance 1/12 along each side, not a point: so a rectangle of a x b pixels gives a / b
    exactly, and a line one pixel wide its length.
    """
    moments = cv2.moments(inside.astype(np.uint8), binaryImage=True)
    xx, yy, xy = (moments[name] / moments["m00"] for name in ("mu20", "mu02", "mu11"))
    middle, spread = (xx + yy) / 2 + 1 / 12, math.hypot((xx - yy) / 2, xy)
    return round(math.sqrt((middle + spread) / max(middle - spread, 1 / 12)), 2)
