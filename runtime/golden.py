"""The golden pair: a picture anyone can compute again, and what an engine must answer to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["GoldenCheck", "golden_check", "golden_frame", "golden_record"]

_GRID = 8  # the answer is kept as the means of 8 x 8 tiles


def golden_frame(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8, from integers alone, so every machine and library version gives the same bytes.

    Waves of different lengths in the three channels: it exercises every channel, edges and flat parts.
    """
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * a + y * b + (x * y) // c) % 256 for a, b, c in ((1, 2, 7), (3, 1, 11), (2, 5, 13))]
    return np.stack(planes, axis=-1).astype(np.uint8)


def golden_record(frame_hw: tuple[int, int], saliency: np.ndarray, tolerance: float) -> dict[str, Any]:
    """What goes into the manifest: the frame's size and SHA-256, the mean of each of 8 x 8 tiles of the answer, and
    how far they may be off.

    Args:
        saliency: (H, W) uint8, the reference's answer to `golden_frame(*frame_hw)`.
        tolerance: greatest allowed difference of a tile's mean, in gray levels.
    """
    return {
        "frame_hw": list(frame_hw),
        "frame_sha256": _sha256(golden_frame(*frame_hw)),
        "tile_means": _tile_means(saliency).round(3).tolist(),
        "tolerance": tolerance,
    }


@dataclass(frozen=True)
class GoldenCheck:
    """How an answer compares with a record, in gray levels."""

    difference: float  # greatest of a tile's mean
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


def golden_check(record: dict[str, Any], answer: Callable[[np.ndarray], np.ndarray]) -> GoldenCheck:
    """Ask for the answer to a record's picture, and compare.

    Args:
        answer: (H, W, 3) uint8 BGR -> (H, W) uint8.
    Raises:
        KeyError, TypeError, ValueError: the record is damaged, or its picture is drawn by another rule.
    """
    height, width = record["frame_hw"]
    frame = golden_frame(int(height), int(width))
    if record.get("frame_sha256", digest := _sha256(frame)) != digest:  # the first manifests had none
        raise ValueError("the picture it was made from is not the one that this sdi draws")
    means = np.asarray(record["tile_means"], np.float64)
    return GoldenCheck(float(np.abs(_tile_means(answer(frame)) - means).max()), float(record["tolerance"]))


def _sha256(frame: np.ndarray) -> str:
    return hashlib.sha256(frame.tobytes()).hexdigest()


def _tile_means(saliency: np.ndarray) -> np.ndarray:
    rows = np.array_split(saliency.astype(np.float64), _GRID, axis=0)
    return np.array([[tile.mean() for tile in np.array_split(row, _GRID, axis=1)] for row in rows])
