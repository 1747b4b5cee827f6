"""The golden pair: a picture anyone can compute again, and what an engine must answer to it."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["golden_difference", "golden_frame", "golden_record"]

_GRID = 8  # the answer is kept as the means of 8 x 8 tiles


def golden_frame(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8, from integers alone, so every machine and library version gives the same bytes.

    Waves of different lengths in the three channels: it exercises every channel, edges and flat parts.
    """
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * a + y * b + (x * y) // c) % 256 for a, b, c in ((1, 2, 7), (3, 1, 11), (2, 5, 13))]
    return np.stack(planes, axis=-1).astype(np.uint8)


def golden_record(frame_hw: tuple[int, int], saliency: np.ndarray, tolerance: float) -> dict[str, Any]:
    """What goes into the manifest: the frame's size, the mean of each of 8 x 8 tiles, and how far they may be off.

    Args:
        saliency: (H, W) uint8, the reference's answer to `golden_frame(*frame_hw)`.
        tolerance: greatest allowed difference of a tile's mean, in gray levels.
    """
    return {"frame_hw": list(frame_hw), "tile_means": _tile_means(saliency).round(3).tolist(), "tolerance": tolerance}


def golden_difference(record: dict[str, Any], saliency: np.ndarray) -> float:
    """Greatest difference of a tile's mean between a record and an answer to the same frame, in gray levels."""
    return float(np.abs(_tile_means(saliency) - np.asarray(record["tile_means"])).max())


def _tile_means(saliency: np.ndarray) -> np.ndarray:
    rows = np.array_split(saliency.astype(np.float64), _GRID, axis=0)
    return np.array([[tile.mean() for tile in np.array_split(row, _GRID, axis=1)] for row in rows])
