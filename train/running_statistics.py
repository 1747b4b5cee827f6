"""Batch norm's running statistics, where a batch is computed in shares."""

from __future__ import annotations

from lightning_fabric import Fabric
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["RunningStatistics", "average_statistics"]


class RunningStatistics:
    """Keeps the statistics what they would be with the shares' mean taken once a step, whoever computes them.

    Args:
        parts: shares that this process computes one after the other.
    """

    def __init__(self, network: nn.Module, parts: int) -> None:
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        self._momenta = [(norm, norm.momentum) for norm in norms if norm.momentum is not None]
        self._parts = parts

    def begin_part(self, n: int) -> None:
        """Set how far part `n` of a step moves them.

        With momentum m and p parts that is (m / p) / (1 - m (p - 1 - n) / p): in the end each part weighs m / p.
        """
        if self._parts > 1:
            for norm, momentum in self._momenta:
                norm.momentum = momentum / self._parts / (1 - momentum * (self._parts - 1 - n) / self._parts)


def average_statistics(fabric: Fabric, *networks: nn.Module) -> None:
    """Give all processes the mean of the statistics that each of them gathered from its shares."""
    if fabric.world_size > 1:
        for network in networks:
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(fabric.all_reduce(buffer, reduce_op="mean"))  # type: ignore[arg-type]
