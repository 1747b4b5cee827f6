"""Where networks of this kind fail, by rules on the mask: tiny defects, close defects, fine scratches.

The papers show these cases and name no rule, so the rules are ours. Lengths are shares of the picture's shorter side,
so that they mean the same at any resolution; the pixels in brackets are those of SD-saliency-900's 200x200 pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["FAILURE_CLASSES", "FailureClass", "failure_classes"]

_TINY_AREA = 0.02  # of the picture: 800 of 40,000 pixels
_CLOSE_GAP = 0.04  # 8 pixels
_FINE_WIDTH = 0.04  # 8 pixels
_FINE_LENGTH = 0.25  # 50 pixels


@dataclass(frozen=True)
class FailureClass:
    """A kind of hard picture. `holds` judges a mask of booleans, (H, W), with at least one defect."""

    name: str
    rule: str
    holds: Callable[[np.ndarray], bool]


def failure_classes(mask: np.ndarray) -> tuple[str, ...]:
    """Names of the failure classes that a mask, (H, W) uint8, 0 or 255, belongs to: none, one or more."""
    defect = mask >= 128
    return tuple(kind.name for kind in FAILURE_CLASSES if kind.holds(defect)) if defect.any() else ()


def _tiny(defect: np.ndarray) -> bool:
    return bool(defect.mean() <= _TINY_AREA)


def _close(defect: np.ndarray) -> bool:
    """Grown by half the gap, defects that lie closer than the gap melt into one."""
    to_defect = cv2.distanceTransform((~defect).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Of n pixels of steel between two defects, the middle one is n / 2 away.
    grown = to_defect <= _CLOSE_GAP / 2 * min(defect.shape)
    return _count(grown) < _count(defect)


def _fine(defect: np.ndarray) -> bool:
    side = min(defect.shape)
    # Beyond the picture there is no defect: one cut off by the edge is as wide as what is seen of it.
    inside = np.pad(defect, 1).astype(np.uint8)
    to_edge = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if 2 * to_edge.max() > _FINE_WIDTH * side:
        return False
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # The rectangle, of floating-point sides, runs from pixel centre to pixel centre.
    return max(round(max(cv2.minAreaRect(contour)[1])) + 1 for contour in contours) >= _FINE_LENGTH * side


def _count(regions: np.ndarray) -> int:
    return cv2.connectedComponents(regions.astype(np.uint8), connectivity=8)[0] - 1


FAILURE_CLASSES = (
    FailureClass("tiny defects", f"defects cover at most {_TINY_AREA:.0%} of the picture", _tiny),
    FailureClass(
        "close defects", f"two defects lie no further apart than {_CLOSE_GAP:.0%} of the picture's shorter side", _close
    ),
    FailureClass(
        "fine scratches",
        f"no defect is wider than {_FINE_WIDTH:.0%} of the shorter side, and the longest is at least "
        f"{_FINE_LENGTH:.0%} of it long",
        _fine,
    ),
)
