"""A network that computes in training as its INT8 form does when deployed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sdi.train.models import SaliencyNetwork
from sdi.train.qat.fake import fake_quantised, half_steps, quantised_weight
from sdi.train.qat.places import Int8Places, fused_addition, traced

__all__ = ["train_for_int8"]


def train_for_int8(network: SaliencyNetwork, places: Int8Places) -> None:
    """Quantise, in place, what the network computes with, exactly where an export does.

    Its modules, weights and their names stay as they are, so checkpoints are ordinary ones. Batch norm answers as in
    eval mode in training too, since that is what is deployed. The ranges are constants.

    Args:
        network: its batch norms absorbed.
    """
    network.maps = _QuantisedMaps(network, places)  # type: ignore[method-assign]


class _QuantisedMaps:
    """Stands in for a network's `maps`."""

    def __init__(self, network: SaliencyNetwork, places: Int8Places) -> None:
        self._network = network
        self._layers = frozenset(places.inputs)
        self._graphs = {every: _quantised_graph(network, every, places) for every in (False, True)}

    def __call__(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        return _Quantised(self._network, self._graphs[every], self._layers).run(x)


def _quantised_graph(network: SaliencyNetwork, training: bool, places: Int8Places) -> fx.Graph:
    """The network's graph with fake quantisation on the inputs of layers and on skip inputs."""
    graph = traced(network, training)
    made: dict[fx.Node, fx.Node] = {}

    def quantised(tensor: Any, limit: float) -> fx.Node:
        """Made once, whoever reads it."""
        if tensor not in made:
            step = float(half_steps(torch.tensor(limit, dtype=torch.float64)))
            with graph.inserting_after(tensor):
                made[tensor] = graph.call_function(fake_quantised, (tensor, step))
        return made[tensor]

    for node in list(graph.nodes):
        skips = {
            layer: skip for layer, skip in fused_addition(network, node, alone=False).items() if layer in places.skips
        }
        for layer, skip in skips.items():
            node.args = tuple(quantised(a, places.skips[layer]) if a is skip else a for a in node.args)
        if node.op == "call_module" and node.target in places.inputs:
            node.args = (quantised(node.args[0], places.inputs[node.target]),)
    return graph


class _Quantised(fx.Interpreter):
    """Runs a graph over the network's own modules, with quantised weights and constant batch norms."""

    def __init__(self, network: nn.Module, graph: fx.Graph, layers: frozenset[str]) -> None:
        super().__init__(network, graph=graph)
        self._layers = layers

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.submodules[target]
        if isinstance(module, _BatchNorm):
            constants = module.running_mean, module.running_var, module.weight, module.bias
            return F.batch_norm(args[0], *constants, eps=module.eps)
        if target in self._layers:
            weight = quantised_weight(module.weight, _output_axis(module))
            return torch.func.functional_call(module, {"weight": weight}, args)
        return super().call_module(target, args, kwargs)


def _output_axis(module: nn.Module) -> int | None:
    """Of a convolution's weights: the axis of the channels that come out; None where it counts those of one group."""
    if not isinstance(module, nn.ConvTranspose2d):
        return 0
    return 1 if module.groups == 1 else None
