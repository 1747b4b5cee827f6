"""The golden record: two pictures that anyone can compute again, and what an engine must answer to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["GoldenCheck", "GoldenPictures", "golden_check", "golden_frames", "golden_record"]

_GRID = 8  # the answer is kept as the means of 8 x 8 tiles


def golden_frames(height: int, width: int) -> np.ndarray:
    """(2, H, W, 3) uint8, from integers alone, so every machine and library version gives the same bytes.

    Waves of different lengths in the three channels: they exercise every channel, edges and flat parts. Then flat
    gray, which a network finds nothing in: it shows a map that is stretched to black and white, as the first, whose
    answer often goes from one to the other anyhow, does not.
    """
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * a + y * b + (x * y) // c) % 256 for a, b, c in ((1, 2, 7), (3, 1, 11), (2, 5, 13))]
    waves = np.stack(planes, axis=-1).astype(np.uint8)
    return np.stack([waves, np.full_like(waves, 128)])


def golden_record(frame_hw: tuple[int, int], saliency: np.ndarray, tolerance: float) -> dict[str, Any]:
    """What goes into the manifest: the frames' size and SHA-256, the mean of each of 8 x 8 tiles of each answer, and
    how far they may be off.

    Args:
        saliency: (2, H, W) uint8, the reference's answers to `golden_frames(*frame_hw)`.
        tolerance: maximum allowed difference of a tile's mean, in gray levels.
    """
    return {
        "frame_hw": list(frame_hw),
        "frame_sha256": _sha256(golden_frames(*frame_hw)),
        "tile_means": [_tile_means(each).round(3).tolist() for each in saliency],
        "tolerance": tolerance,
    }


@dataclass(frozen=True)
class GoldenCheck:
    """How an answer compares with a record, in gray levels."""

    difference: float  # maximum of a tile's mean
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


@dataclass(frozen=True, eq=False)
class GoldenPictures:
    """A record that was read: the pictures, and what an engine must answer to them.

    Attributes:
        frames: (N, H, W, 3) uint8 BGR.
        tile_means: (N, 8, 8) float64.
    """

    frames: np.ndarray
    tile_means: np.ndarray
    tolerance: float

    @staticmethod
    def of(record: dict[str, Any]) -> GoldenPictures:
        """Raises: KeyError, TypeError, ValueError: it is damaged, or its pictures are drawn by another rule."""
        height, width = record["frame_hw"]
        # Older manifests have the first picture's answer alone, and the first of them no digest.
        means = np.asarray(record["tile_means"], np.float64).reshape(-1, _GRID, _GRID)
        if len(means) not in (1, 2):
            raise ValueError(f"it has answers to {len(means)} pictures, expected 2")
        frames = golden_frames(int(height), int(width))[: len(means)]
        if record.get("frame_sha256", digest := _sha256(frames)) != digest:
            raise ValueError("the pictures it was made from are not the ones that this sdi draws")
        return GoldenPictures(frames, means, float(record["tolerance"]))

    def compare(self, answers: np.ndarray) -> GoldenCheck:
        """Args: answers: (N, H, W) uint8."""
        found = np.stack([_tile_means(each) for each in answers])
        return GoldenCheck(float(np.abs(found - self.tile_means).max()), self.tolerance)


def golden_check(record: dict[str, Any], answers: Callable[[np.ndarray], np.ndarray]) -> GoldenCheck:
    """Ask for the answers to a record's pictures, and compare.

    Args:
        answers: (N, H, W, 3) uint8 BGR, the pictures -> (N, H, W) uint8.
    Raises:
        KeyError, TypeError, ValueError: see `GoldenPictures.of`.
    """
    pictures = GoldenPictures.of(record)
    return pictures.compare(answers(pictures.frames))


def _sha256(frames: np.ndarray) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()


def _tile_means(saliency: np.ndarray) -> np.ndarray:
    rows = np.array_split(saliency.astype(np.float64), _GRID, axis=0)
    return np.array([[tile.mean() for tile in np.array_split(row, _GRID, axis=1)] for row in rows])
