"""Faults to plant in an exported graph: what goes wrong between training and the camera, one function each.

All change the ONNX model in place. `share` is how much of the fault is planted: 1 all of it, 0 nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

__all__ = [
    "compress",
    "drop_bias",
    "keep_batch_statistics",
    "move_corners",
    "norm_of",
    "overflow",
    "quantise_otherwise",
    "stretch",
    "swap_channels",
    "swap_mean_and_std",
    "transpose_picture",
]

MAP = "probability"


def swap_channels(model: onnx.ModelProto) -> None:
    """BGR is taken for RGB."""
    gather = next(node for node in model.graph.node if node.op_type == "Gather")
    _change(model, gather.input[1], lambda order: order[::-1])


def swap_mean_and_std(model: onnx.ModelProto, mean: float, std: float, share: float = 1) -> None:
    """x = (p - std) / mean instead of (p - mean) / std."""
    mean, std = mean + share * (std - mean), std + share * (mean - std)
    _change(model, "normalise.scale", lambda scale: np.full_like(scale, 1 / (255 * std)))
    _change(model, "normalise.shift", lambda shift: np.full_like(shift, -mean / std))


def move_corners(model: onnx.ModelProto, part: Literal["all", "first", "last"] = "all") -> None:
    """Bilinear resizing with the corners' centres aligned where it was half-pixel, and the other way round.

    Args:
        part: which of the resizing nodes; of an engine that resizes, the first is the frame's and the last the map's.
    """
    other = {b"align_corners": "half_pixel", b"half_pixel": "align_corners", b"pytorch_half_pixel": "align_corners"}
    nodes = [node for node in model.graph.node if node.op_type == "Resize"]
    for node in {"all": nodes, "first": nodes[:1], "last": nodes[-1:]}[part]:
        mode = next(a for a in node.attribute if a.name == "coordinate_transformation_mode")
        mode.CopyFrom(helper.make_attribute(mode.name, other[mode.s]))


def drop_bias(model: onnx.ModelProto, layer: str, share: float = 1) -> None:
    """A layer computes without its bias."""
    _change(model, f"network.{layer}.bias", lambda bias: bias * (1 - share))


def keep_batch_statistics(model: onnx.ModelProto, weights: Mapping[str, Tensor], layers: list[str]) -> None:
    """The batch norms after these convolutions (`encoder.0.0` for `encoder.0.1`) stay in training mode.

    They were folded into them, so the convolutions get back the weights they were trained with. With one picture a
    batch, training mode is instance norm.
    """
    nodes = list(model.graph.node)
    for layer in layers:
        conv = next(node for node in nodes if f"network.{layer}.weight" in node.input)
        _change(model, f"network.{layer}.weight", lambda folded, layer=layer: weights[f"{layer}.weight"].numpy())
        _change(model, f"network.{layer}.bias", np.zeros_like)
        norm = norm_of(layer)
        constants = [
            _constant(model, f"{norm}.{part}", weights[f"{norm}.{part}"].numpy()) for part in ("weight", "bias")
        ]
        after, conv.output[0] = conv.output[0], f"{conv.output[0]}.raw"
        made = helper.make_node("InstanceNormalization", [conv.output[0], *constants], [after], name=norm, epsilon=1e-5)
        nodes.insert(nodes.index(conv) + 1, made)
    _set_nodes(model, nodes)


def norm_of(layer: str) -> str:
    """The batch norm that follows a convolution: `encoder.0.1` that of `encoder.0.0`."""
    path, index = layer.rsplit(".", 1)
    return f"{path}.{int(index) + 1}"


def compress(model: onnx.ModelProto, share: float = 1) -> None:
    """Every probability is a fifth too small."""
    _before_map(model, lambda name: [("Mul", [name, _constant(model, "fault.factor", np.float32(1 - share / 5))])])


def stretch(model: onnx.ModelProto, share: float = 1, *, of: Literal["map", "levels"] = "map") -> None:
    """Each map is stretched to 0..1, as many programs do before they show or score it.

    Args:
        of: the map of probabilities, or the gray levels that are made of it.
    """
    tensor = MAP if of == "map" else next(node for node in model.graph.node if MAP in node.input).output[0]
    top = _constant(model, "fault.top", np.float32(1 if of == "map" else 255))
    keep = _constant(model, "fault.keep", np.float32(1 - share))
    part = _constant(model, "fault.part", np.float32(share))

    def nodes(name: str) -> list[tuple[str, list[str]]]:
        return [
            ("ReduceMin", [name]),
            ("ReduceMax", [name]),
            ("Sub", [name, "fault.0"]),
            ("Sub", ["fault.1", "fault.0"]),
            ("Div", ["fault.2", "fault.3"]),
            ("Mul", ["fault.4", top]),
            ("Mul", ["fault.5", part]),
            ("Mul", [name, keep]),
            ("Add", ["fault.6", "fault.7"]),
        ]

    _before_map(model, nodes, tensor)


def transpose_picture(model: onnx.ModelProto) -> None:
    """Height is taken for width: the frame goes in turned, and so comes the map."""
    node = next(node for node in model.graph.node if node.op_type == "Transpose")
    perm = next(a for a in node.attribute if a.name == "perm")
    perm.ints[:] = [perm.ints[0], perm.ints[1], perm.ints[3], perm.ints[2]]


def overflow(model: onnx.ModelProto, first: str, second: str, factor: float) -> None:
    """Between two layers with a ReLU between them values are `factor` times what they were; the map is the same."""
    for name, by in ((f"{first}.weight", factor), (f"{first}.bias", factor), (f"{second}.weight", 1 / factor)):
        _change(model, f"network.{name}", lambda own, by=by: own * by)


def quantise_otherwise(model: onnx.ModelProto, factor: float) -> None:
    """Activations are quantised by steps `factor` times those that were calibrated."""
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            _change(model, node.input[1], lambda step: step * step.dtype.type(factor))


def _change(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    constant = next(c for c in model.graph.initializer if c.name == name)
    before = numpy_helper.to_array(constant)
    constant.CopyFrom(numpy_helper.from_array(np.asarray(change(before)).astype(before.dtype), name))


def _constant(model: onnx.ModelProto, name: str, value: object) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _before_map(model: onnx.ModelProto, make: Callable[[str], list[tuple[str, list[str]]]], name: str = MAP) -> None:
    """Put nodes between what made a tensor and the tensor: outputs are fault.0, fault.1 ...; the last is the tensor."""
    nodes = list(model.graph.node)
    at = next(i for i, node in enumerate(nodes) if name in node.output)
    sound = f"{name}.sound"
    nodes[at].output[0] = sound
    wanted = make(sound)
    for i, (kind, inputs) in enumerate(wanted):
        output = name if i == len(wanted) - 1 else f"fault.{i}"
        nodes.insert(at + 1 + i, helper.make_node(kind, inputs, [output], name=f"fault.{i}"))
    _set_nodes(model, nodes)


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copies.append(onnx.NodeProto())
        copies[-1].CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)
