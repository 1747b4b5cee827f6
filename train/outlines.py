"""Regions drawn into a picture as outlines."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

__all__ = ["FOUND_BGR", "TRUTH_BGR", "outlined"]

TRUTH_BGR = (255, 200, 0)  # cyan
FOUND_BGR = (0, 120, 255)  # orange
_ENLARGED = 2  # times, so that an outline covers little


def outlined(
    image: np.ndarray, regions: Iterable[tuple[np.ndarray, tuple[int, int, int]]], thickness: int = 1
) -> np.ndarray:
    """The picture at twice its size with the outline of each region, the later over the earlier.

    Args:
        image: (H, W, 3) uint8 BGR.
        regions: (H, W) bool each, with the colour of its outline, BGR.
        thickness: of the outlines, in pixels of the answer.
    Returns:
        (2 H, 2 W, 3) uint8 BGR.
    """
    large = cv2.resize(image, None, fx=_ENLARGED, fy=_ENLARGED, interpolation=cv2.INTER_LINEAR)
    for region, colour in regions:
        mask = cv2.resize(region.astype(np.uint8), None, fx=_ENLARGED, fy=_ENLARGED, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(large, contours, -1, colour, thickness)
    return large
