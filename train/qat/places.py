"""Where INT8 stands in a network, and with which ranges: by the names of modules, found without any export.

The rules are those of `sdi.export.quantize`, which reads them off the ONNX graph: the input of every convolution, and
the skip input of an addition that a convolution is fused with. An export of what was trained here compares both.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.int8_limit import least_error_limit
from sdi.train.models import SaliencyNetwork
from sdi.train.models.deploy import foldable_norms
from sdi.train.qat.fake import half_steps

__all__ = ["Int8Places", "fused_addition", "measure_places", "traced"]

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
# What a convolution is fused with before an addition, and what is nothing when deployed.
_PASSED_MODULES = (nn.ReLU, nn.ReLU6, nn.Identity, nn.Dropout)
_PASSED_FUNCTIONS = (torch.relu, F.relu, F.relu6, "relu")
_SAMPLED = 1024  # values of a tensor, from each picture
_CANDIDATES = 100  # limits tried


@dataclass(frozen=True)
class Int8Places:
    """Maximum absolute values that are quantised, by the layer (a convolution's module name) they belong to."""

    inputs: dict[str, float]  # layer -> limit of what goes into it
    skips: dict[str, float]  # layer -> limit of what is added to its answer
    kept: tuple[str, ...]  # layers in high precision
    pictures: int  # that the limits were measured on

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {**asdict(self), "kept": list(self.kept)}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Int8Places:
        """The inverse of `to_dict`.

        Raises:
            InputError: not what this sdi writes.
        """
        try:
            return Int8Places(
                {str(name): float(limit) for name, limit in value["inputs"].items()},
                {str(name): float(limit) for name, limit in value["skips"].items()},
                tuple(str(name) for name in value["kept"]),
                int(value["pictures"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"what the checkpoint says of its training for INT8 cannot be read ({error!r}); train it again: "
                "sdi-train --qat CHECKPOINT"
            ) from error


def traced(network: SaliencyNetwork, training: bool) -> fx.Graph:
    """The network's operators, in training (every map) or as deployed (the primary one alone), nothing unused."""
    was_training = network.training
    network.train(training)
    graph = fx.symbolic_trace(network).graph
    network.train(was_training)
    graph.eliminate_dead_code()
    return graph


def fused_addition(network: SaliencyNetwork, node: fx.Node, alone: bool) -> dict[str, fx.Node]:
    """Layers whose answer, perhaps through an activation, goes into this addition: layer -> the addition's other input.

    Args:
        node: any; what is no addition of two tensors has none.
        alone: only layers whose answer goes nowhere else.
    """
    terms = [value for value in node.args if isinstance(value, fx.Node)]
    if node.target not in _ADDITIONS or len(terms) != 2:
        return {}
    absorbed = {norm for _, norm in foldable_norms(network)}
    found = {}
    for term, skip in (terms, terms[::-1]):
        value: Any = term
        while isinstance(value, fx.Node) and not (alone and _reads(value) > 1):
            module = _module(network, value)
            if isinstance(module, _CONVOLUTIONS):
                found[str(value.target)] = skip
            passed = isinstance(module, _PASSED_MODULES) or value.target in (*absorbed, *_PASSED_FUNCTIONS)
            value = value.args[0] if passed else None
    return found


@torch.inference_mode()
def measure_places(network: SaliencyNetwork, pictures: Iterable[Tensor], keep: Collection[str] = ()) -> Int8Places:
    """Find every place, with the limit whose eight-bit grid has the smallest squared error.

    Args:
        network: its batch norms absorbed.
        pictures: (N, 3, H, W) float32 as the network takes them.
        keep: layers that stay in high precision.
    Raises:
        InputError: the network has no such layer to keep.
    """
    graph = traced(network, training=False)
    layers = [node for node in graph.nodes if isinstance(_module(network, node), _CONVOLUTIONS)]
    inputs = {str(node.target): node.args[0] for node in layers}
    if unknown := [name for name in keep if name not in inputs]:
        raise InputError(f"there is no convolution named {some_of(unknown)} to keep; there are {', '.join(inputs)}")
    order = list(inputs)
    skips = {}
    for node in graph.nodes:
        if fused := fused_addition(network, node, alone=True):
            last = max(fused, key=order.index)  # of two convolutions the later one is fused
            skips[last] = fused[last]
    recorder = _Recorder(network, graph, {*inputs.values(), *skips.values()})
    was_training = network.training
    network.eval()
    count = 0
    for picture in pictures:
        recorder.run(picture)
        count += len(picture)
    network.train(was_training)
    limits = {node: _limit(torch.cat(values)) for node, values in recorder.values.items()}
    return Int8Places(
        {name: limits[node] for name, node in inputs.items() if name not in keep},
        {name: limits[node] for name, node in skips.items() if name not in keep},
        tuple(keep),
        count,
    )


class _Recorder(fx.Interpreter):
    """Samples the absolute values of some tensors, on the CPU."""

    def __init__(self, network: nn.Module, graph: fx.Graph, wanted: Collection[Any]) -> None:
        super().__init__(network, graph=graph)
        self.values: dict[fx.Node, list[Tensor]] = {node: [] for node in wanted}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.values:
            # The same positions for each tensor of a shape: an export may find two of them equal, and gives one range.
            chance = torch.Generator().manual_seed(len(self.values[n]))
            chosen = torch.randint(result.numel(), (_SAMPLED,), generator=chance)
            self.values[n].append(result.reshape(-1)[chosen.to(result.device)].abs().cpu())
        return result


def _limit(values: Tensor) -> float:
    """The limit of absolute values whose grid, in half's steps, has the smallest squared error."""
    return least_error_limit(
        values.numpy(), candidates=_CANDIDATES, steps=lambda limits: half_steps(torch.from_numpy(limits)).numpy()
    )


def _module(network: nn.Module, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _reads(node: fx.Node) -> int:
    """How many nodes use its values, not its shape alone."""
    return sum(user.target not in (getattr, "size") for user in node.users)
