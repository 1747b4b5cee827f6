"""The region of interest: where in the picture defects count."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError

__all__ = ["Roi", "parse_roi"]

_FARTHEST = 1 << 20  # pixels; no picture is larger


@dataclass(frozen=True)
class Roi:
    """A rectangle or a polygon in pixels of the frame. Parts beyond the frame are ignored.

    Args:
        points: corners (x, y); the pixels on the edges belong to it.
    """

    points: tuple[tuple[int, int], ...]

    def within(self, size_hw: tuple[int, int]) -> tuple[int, int, int, int, np.ndarray]:
        """The part of a picture that counts: left, top, right, bottom, and (bottom - top, right - left) uint8, 0 or 1.

        Raises:
            InputError: nothing of a picture of this size lies within.
        """
        return _within(self.points, size_hw)


def parse_roi(text: str) -> Roi:
    """Read `x,y,w,h`, or a polygon `x,y;x,y;x,y`.

    Raises:
        InputError: it is neither.
    """
    try:
        corners = [tuple(int(number) for number in corner.split(",")) for corner in text.split(";")]
    except ValueError:
        corners = []
    if any(abs(number) >= _FARTHEST for corner in corners for number in corner):
        corners = []
    if len(corners) == 1 and len(corners[0]) == 4:
        x, y, width, height = corners[0]
        if min(x, y) >= 0 and min(width, height) >= 1:
            right, bottom = x + width - 1, y + height - 1
            return Roi(((x, y), (right, y), (right, bottom), (x, bottom)))
    if len(corners) >= 3 and all(len(corner) == 2 for corner in corners):
        return Roi(tuple((x, y) for x, y in corners))
    raise InputError(f"--roi '{text}' is neither x,y,w,h nor a polygon x,y;x,y;x,y of whole pixels, e.g. 0,40,640,400")


@functools.lru_cache(maxsize=16)  # a few sources, each with one size
def _within(points: tuple[tuple[int, int], ...], size_hw: tuple[int, int]) -> tuple[int, int, int, int, np.ndarray]:
    height, width = size_hw
    filled = np.zeros(size_hw, np.uint8)
    cv2.fillPoly(filled, [np.array(points, np.int32)], 1)
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    if not rows.size:
        raise InputError(f"nothing of a {width}x{height} picture lies within --roi; give it in pixels of the picture")
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    part = filled[top:bottom, left:right]
    part.flags.writeable = False
    return left, top, right, bottom, part
