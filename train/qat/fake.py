"""Fake quantisation: values rounded to the grid of symmetric int8, gradients as if they had not been.

Source: the straight-through estimator of Bengio et al. 2013, as Jacob et al., CVPR 2018, train with; clipped values
have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fake_quantised", "half_steps", "quantised_weight"]

_LEVELS = 127


def half_steps(limits: Tensor) -> Tensor:
    """Steps of symmetric int8 for these limits, each a value that half holds too, so that one grid serves both.

    Rounded up: rounding down would cut the limit off. Zero limits get a step of one.

    Args:
        limits: of any shape, at least 0.
    Returns:
        float32 of the same shape.
    """
    exact = torch.where(limits > 0, limits.double() / _LEVELS, 1.0)
    rounded = exact.half()
    above = (rounded.view(torch.int16) + 1).view(torch.float16)  # the next half, of one that is not negative
    return torch.where(rounded.double() < exact, above, rounded).float()


def fake_quantised(x: Tensor, step: Tensor | float, minimum: int = -128) -> Tensor:
    """`x` on the grid of QuantizeLinear and DequantizeLinear, in float32.

    Args:
        x: any shape.
        step: broadcasts with `x`.
        minimum: of the levels; the maximum is 127.
    """
    levels = (x.float() / step).clamp(minimum, _LEVELS)
    return (levels + (levels.round() - levels).detach()) * step  # the sum is exact


def quantised_weight(weight: Tensor, axis: int | None) -> Tensor:
    """A layer's weights as INT8 stores them: a step for each index of `axis`, or one for all; levels -127..127."""
    others = [i for i in range(weight.ndim) if i != axis]
    step = half_steps(weight.detach().abs().amax(dim=others, keepdim=True))
    return fake_quantised(weight, step, -_LEVELS)
