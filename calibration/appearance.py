"""How a picture looks, in a few numbers: to spread a choice over appearance, and to find copies and noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Appearance", "appearance_of", "descriptors", "near_copies"]

_SIDE = 16
_RANDOM = 0.4  # steel's minimum is .88 (SD-saliency-900); independent pixels have 0 +- 1 / side
_COARSE = 4  # pixels a side: their means keep a surface, and a quarter of a sensor's noise
# Pairs of different pictures of SD-saliency-900 reach a correlation of .990, or differ by 2.0 levels; never both.
_SAME_CORRELATION = 0.995
_SAME_LEVELS = 4.0


@dataclass(frozen=True)
class Appearance:
    """What is kept of a picture once it was read; gray levels are 0..255."""

    mean: float
    contrast: float  # standard deviation of the gray levels
    gradient: float  # mean absolute step between neighbouring pixels, gray levels
    correlation: float  # of neighbouring pixels, or of neighbouring means of 4x4, whichever is greater; -1..1
    thumbnail: np.ndarray  # (16, 16) float32, gray levels

    @property
    def is_random(self) -> bool:
        """Whether neighbouring pixels do not correlate: noise, never a photograph.

        Pixels of clean steel under a noisy sensor may correlate as little; what 4x4 of them have in common does.
        """
        return self.correlation < _RANDOM


def appearance_of(image: np.ndarray) -> Appearance:
    """Look at (H, W, 3) uint8 BGR of at least 2x2 that is not of one gray level."""
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    steps = [float(np.abs(np.diff(gray, axis=axis)).mean()) for axis in (0, 1)]
    correlation = _neighbours_correlation(gray)
    if min(gray.shape) >= 8 * _COARSE:
        coarse = cv2.resize(gray, None, fx=1 / _COARSE, fy=1 / _COARSE, interpolation=cv2.INTER_AREA)
        correlation = max(correlation, _neighbours_correlation(coarse))
    return Appearance(
        mean=float(gray.mean()),
        contrast=float(gray.std()),
        gradient=sum(steps) / 2,
        correlation=correlation,
        thumbnail=cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA),
    )


def _neighbours_correlation(gray: np.ndarray) -> float:
    """Along the axis where it is greater."""
    centred = gray - gray.mean()
    found = []
    for axis in (0, 1):
        ahead, behind = np.moveaxis(centred, axis, 0)[1:], np.moveaxis(centred, axis, 0)[:-1]
        power = float((ahead * ahead).mean() + (behind * behind).mean()) / 2
        found.append(float((ahead * behind).mean()) / power if power else 1.0)
    return max(found)


def descriptors(appearances: list[Appearance]) -> np.ndarray:
    """(N, D) float64: distances between rows measure how different two pictures look.

    Mean, contrast, gradient and the thumbnail's layout weigh alike, each in units of its spread over the pictures.
    """
    layout = np.stack([(a.thumbnail - a.mean).ravel() for a in appearances]).astype(np.float64)
    parts = [np.array([[getattr(a, name)] for a in appearances]) for name in ("mean", "contrast", "gradient")]
    scaled = []
    for part in (*parts, layout):
        centred = part - part.mean(axis=0)
        spread = np.sqrt((centred**2).sum(axis=1).mean())
        scaled.append(centred / spread if spread else centred)
    return np.hstack(scaled)


def near_copies(appearances: list[Appearance], others: list[Appearance] | None = None) -> list[tuple[int, int]]:
    """Pairs of pictures that look the same: stored again in another format, or a frame with hardly any movement.

    Args:
        others: compare with these instead of among themselves.
    Returns:
        (index, index of the one it equals); among themselves each index comes after the one it equals.
    """
    if not appearances or (others is not None and not others):
        return []
    thumbnails = np.stack([a.thumbnail.ravel() for a in appearances])
    against = thumbnails if others is None else np.stack([a.thumbnail.ravel() for a in others])
    unit, unit_against = _unit_rows(thumbnails), _unit_rows(against)
    pairs = []
    for i in range(len(thumbnails)):
        last = i if others is None else len(against)
        alike = np.flatnonzero(unit_against[:last] @ unit[i] >= _SAME_CORRELATION)
        pairs += [(i, int(j)) for j in alike if np.abs(against[j] - thumbnails[i]).mean() <= _SAME_LEVELS]
    return pairs


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of zero mean and length 1, so that a product of two is their correlation."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
