"""The limit of an INT8 range by the smallest squared error: the one rule of calibration and of training for INT8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["LEVELS", "least_error_limit"]

LEVELS = 127  # of int8 on each side of zero


def least_error_limit(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    maximum: float | None = None,
    candidates: int = 200,
    steps: Callable[[np.ndarray], np.ndarray] = lambda limits: limits / LEVELS,
) -> float:
    """The limit t that minimises sum(weights * (x - q(x))^2), q being symmetric int8 up to t.

    Args:
        values: (N,) absolute values; the arithmetic is of their type.
        weights: (N,) how often each occurs; None: once.
        maximum: the limit that nothing exceeds; None: the maximum of the values.
        candidates: limits tried, evenly from a hundredth of the maximum up to it.
        steps: limits -> the step of the grid for each.
    Returns:
        0 where all values are 0.
    """
    if not values.size or not values.max():
        return 0.0
    maximum = float(values.max()) if maximum is None else maximum
    tried = np.linspace(maximum / 100, maximum, candidates)
    errors = []
    for step in steps(tried).tolist():
        rounded = np.minimum(np.rint(values / step), LEVELS) * step
        errors.append(np.average(np.square(values - rounded), weights=weights))
    return float(tried[int(np.argmin(errors))])
