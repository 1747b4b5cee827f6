"""Random narrow variants of every network, whose batch norms have seen pictures."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from sdi.train.models import SaliencyNetwork, model_spec

__all__ = ["RATHER_NARROW", "mirrored", "random_variant", "transposed", "with_kernels"]

Network = TypeVar("Network", bound=nn.Module)

# Factors on a network's channel counts to draw from, by family.
RATHER_NARROW = {
    "csepnet": (1 / 12, 1 / 10, 1 / 8),
    "minet": (1 / 8, 1 / 4, 1 / 2),
    "tsernet": (1 / 32, 1 / 24, 1 / 16),
    "tsernet-lite": (1 / 4, 1 / 3, 1 / 2),
}


def random_variant(model: str, seed: int, build: Callable[..., SaliencyNetwork] | None = None) -> SaliencyNetwork:
    """A network in eval mode, some channels wide, with random weights.

    Statistics of its batch norms are those of a random picture, then moved: so every layer is alive, and none of
    them is the identity that a fresh batch norm is.

    Args:
        build: other than the registered one; takes `width`.
    """
    torch.manual_seed(seed)
    spec = model_spec(model)
    network = (build or spec.build)(width=random.Random(seed).choice(RATHER_NARROW[spec.family]))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, 0, 0.6)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
        for norm in norms:
            norm.momentum = 0.1
            assert norm.running_mean is not None
            assert norm.running_var is not None
            # A channel that hardly moved there would blow up what it makes of another picture.
            norm.running_var.clamp_(min=0.05)
            norm.running_mean += torch.empty_like(norm.running_mean).uniform_(-0.1, 0.1) * norm.running_var.sqrt()
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(1, 2)
    return network.eval()


def with_kernels(network: Network, change: Callable[[Tensor], Tensor]) -> Network:
    """A copy with every convolution's kernels, (O, I, k, k), changed."""
    changed = copy.deepcopy(network)
    weights = changed.state_dict()
    changed.load_state_dict({name: change(w).clone() if w.ndim == 4 else w for name, w in weights.items()})
    return changed


def mirrored(network: Network, axis: int) -> Network:
    """A copy with every kernel mirrored; axis -1 is left to right, -2 upside down."""
    return with_kernels(network, lambda kernels: kernels.flip(axis))


def transposed(network: Network) -> Network:
    """A copy with height and width of every kernel exchanged."""
    return with_kernels(network, lambda kernels: kernels.transpose(-1, -2))
