"""Synthetic pictures of strip steel with their truth: for the demo, tests and self-checks. No photograph is used.

The kinds are those of SD-saliency-900: inclusions (dark, compact or drawn out along the rolling direction), patches
(large, irregular, dark) and scratches (long, thin, bright or dark).
"""

from __future__ import annotations

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError

__all__ = ["DEFECTS", "draw_strip"]

DEFECTS = ("inclusion", "patch", "scratch")


def draw_strip(kind: str, seed: int = 0, size_hw: tuple[int, int] = (200, 200)) -> tuple[np.ndarray, np.ndarray]:
    """One picture of strip with one kind of defect.

    Args:
        kind: one of `DEFECTS`, or "clean".
        seed: equal seeds give equal pictures.
    Returns:
        (H, W, 3) uint8 BGR, gray, and its truth (H, W) uint8, 0 or 255.
    Raises:
        InputError: unknown kind.
    """
    if kind not in (*DEFECTS, "clean"):
        raise InputError(f"unknown kind of strip '{kind}'; known: {', '.join((*DEFECTS, 'clean'))}")
    rng = np.random.default_rng([seed, *kind.encode()])
    gray = _surface(size_hw, rng)
    mask = np.zeros(size_hw, np.float32)
    if kind == "inclusion":
        _add_inclusions(gray, mask, rng)
    elif kind == "patch":
        _add_patches(gray, mask, rng)
    elif kind == "scratch":
        _add_scratches(gray, mask, rng)
    gray += rng.normal(0, 2.5, size_hw)
    image = np.clip(cv2.GaussianBlur(gray, (3, 3), 0.6), 0, 255).astype(np.uint8)
    truth = np.where(mask > 0.5, np.uint8(255), np.uint8(0))
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), truth


def _surface(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Rolled steel: uneven light, streaks along the rolling direction (vertical), fine grain."""
    light = _smooth_noise(size_hw, 80, rng) * 9
    streaks = np.repeat(cv2.GaussianBlur(rng.normal(0, 1, (1, size_hw[1])), (0, 0), 1.2), size_hw[0], axis=0) * 5
    grain = _smooth_noise(size_hw, 1.2, rng) * 5
    return rng.uniform(90, 160) + light + streaks + grain


def _add_inclusions(gray: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    height, width = mask.shape
    for _ in range(rng.integers(2, 5)):
        shape = np.zeros_like(mask)
        x, y = rng.uniform(0.15, 0.85) * width, rng.uniform(0.2, 0.8) * height
        for _ in range(rng.integers(3, 7)):  # a chain of blobs along the rolling direction
            centre = (int(x + rng.normal(0, 2.5)), int(y + rng.normal(0, 12)))
            axes = (int(rng.uniform(2.5, 6)), int(rng.uniform(6, 16)))
            cv2.ellipse(shape, centre, axes, float(rng.normal(0, 8)), 0, 360, 1.0, -1, cv2.LINE_AA)
        _stamp(gray, mask, shape, -rng.uniform(50, 75), rng)


def _add_patches(gray: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    for _ in range(rng.integers(1, 3)):
        cx, cy = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height
        rx, ry = rng.uniform(0.12, 0.22) * width, rng.uniform(0.18, 0.32) * height
        distance = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
        ragged = distance + 0.35 * _smooth_noise(mask.shape, 9, rng)
        _stamp(gray, mask, (ragged < 1).astype(np.float32), -rng.uniform(40, 60), rng)


def _add_scratches(gray: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    height, width = mask.shape
    tilt = rng.normal(0, 0.08)  # scratches of one cause run side by side
    for _ in range(rng.integers(1, 4)):
        shape = np.zeros_like(mask)
        x, top, bottom = rng.uniform(0.2, 0.8) * width, rng.uniform(0, 0.25) * height, rng.uniform(0.6, 1) * height
        start, end = (int(x), int(top)), (int(x + tilt * (bottom - top)), int(bottom))
        cv2.line(shape, start, end, 1.0, int(rng.integers(3, 7)), cv2.LINE_AA)
        _stamp(gray, mask, shape, rng.choice([-1, 1]) * rng.uniform(55, 80), rng)


def _stamp(gray: np.ndarray, mask: np.ndarray, shape: np.ndarray, levels: float, rng: np.random.Generator) -> None:
    """Darken or brighten `gray` where `shape` is, unevenly, with soft edges; join it to the truth."""
    soft = cv2.GaussianBlur(shape, (0, 0), 1.0)
    gray += soft * levels * (1 + 0.25 * _smooth_noise(mask.shape, 4, rng))
    np.maximum(mask, shape, out=mask)


def _smooth_noise(size_hw: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of zero mean and unit variance, correlated over about `sigma` pixels."""
    noise = cv2.GaussianBlur(rng.normal(0, 1, size_hw), (0, 0), sigma)
    return (noise - noise.mean()) / noise.std()
