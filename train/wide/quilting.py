"""Texture of any size from small pieces: image quilting.

Source: Efros and Freeman, Image Quilting for Texture Synthesis and Transfer, SIGGRAPH 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Quilt", "quilt"]

_CHOICES = 40  # places that are compared for each patch
_TOLERANCE = 1.1  # of the least error: one of those within it is taken by chance, so that no place repeats too often


@dataclass(frozen=True)
class Quilt:
    """How patches overlap, pixels."""

    patch: int = 64
    overlap: int = 16


def quilt(
    textures: Sequence[np.ndarray],
    corners: Sequence[np.ndarray],
    size_hw: tuple[int, int],
    rng: np.random.Generator,
    how: Quilt = Quilt(),
) -> np.ndarray:
    """Patches side by side, each cut along the path where it differs least from what lies there.

    Args:
        textures: (H, W) float32 each, of equal mean.
        corners: for each texture, (n, 2) rows and columns where a patch may begin; not all empty.
        size_hw: of the result.
    Returns:
        (h, w) float32.
    """
    places = np.concatenate([np.column_stack([np.full(len(own), k), own]) for k, own in enumerate(corners)])
    side, step = how.patch, how.patch - how.overlap
    rows, columns = (-(-(length - how.overlap) // step) for length in size_hw)
    canvas = np.zeros((rows * step + how.overlap, columns * step + how.overlap), np.float32)
    for row in range(rows):
        for column in range(columns):
            there = canvas[row * step : row * step + side, column * step : column * step + side]
            chosen = places[rng.integers(len(places), size=_CHOICES)]
            pieces = np.stack([textures[k][y : y + side, x : x + side] for k, y, x in chosen])
            there[:] = _joined(there, pieces, how.overlap, (row > 0, column > 0), rng)
    return np.ascontiguousarray(canvas[: size_hw[0], : size_hw[1]])


def _joined(
    there: np.ndarray, pieces: np.ndarray, overlap: int, joins: tuple[bool, bool], rng: np.random.Generator
) -> np.ndarray:
    """One of the pieces, joined to what lies above and on the left (`joins`)."""
    above, left = joins
    errors = np.zeros(len(pieces), np.float32)
    if above:
        errors += np.square(pieces[:, :overlap] - there[:overlap]).sum((1, 2))
    if left:
        errors += np.square(pieces[:, :, :overlap] - there[:, :overlap]).sum((1, 2))
    fitting = np.flatnonzero(errors <= errors.min() * _TOLERANCE)
    piece: np.ndarray = pieces[fitting[rng.integers(len(fitting))]]
    keep = np.zeros(there.shape, bool)
    strips = []  # the overlaps, each from its outer edge inwards
    if above:
        strips.append(np.square(piece[:overlap] - there[:overlap]).T)
    if left:
        strips.append(np.square(piece[:, :overlap] - there[:, :overlap]))
    if strips:
        before = list(_before_cut(np.stack(strips)))
        if above:
            keep[:overlap] |= before.pop(0).T
        if left:
            keep[:, :overlap] |= before.pop(0)
    return np.where(keep, there, piece)


def _before_cut(error: np.ndarray) -> np.ndarray:
    """(n, h, w) bool: what lies left of each path from top to bottom along which the sum of errors is least.

    Args:
        error: (n, h, w) float32.
    """
    count, height, width = error.shape
    total = np.full((count, height, width + 2), np.inf, np.float32)
    total[:, :, 1:-1] = error
    for y in range(1, height):
        before = total[:, y - 1]
        total[:, y, 1:-1] += np.minimum(np.minimum(before[:, :-2], before[:, 1:-1]), before[:, 2:])
    path = np.empty((count, height), np.int64)
    path[:, -1] = total[:, -1].argmin(1)
    near = np.arange(-1, 2)
    each = np.arange(count)[:, None]
    for y in range(height - 2, -1, -1):
        around = path[:, y + 1, None] + near
        path[:, y] = path[:, y + 1] - 1 + total[each, y, around].argmin(1)
    return np.asarray(np.arange(1, width + 1) < path[:, :, None])
