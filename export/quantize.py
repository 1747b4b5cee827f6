"""INT8 as explicit QuantizeLinear and DequantizeLinear (Q/DQ) nodes around the layers that hold weights.

Symmetric; activations by one scale a tensor, weights by one a channel that comes out; biases stay float. A pair
stands on the input of a layer alone, never between a convolution and its activation or addition, so that a builder
can fuse those. A tensor that several layers read is quantised once. After a Concat the pair stands behind it: one
scale for all parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from sdi.train.qat import half_steps

__all__ = ["Layer", "QuantizedGraph", "half_scales", "quantizable_layers", "quantized_model", "skip_inputs"]

_LEVELS = 127
_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}  # of the weights: the channels that come out, as TensorRT wants it
_PASSED = frozenset({"Relu", "Clip"})  # what a convolution is fused with before an addition
_ZERO = "int8.zero"


@dataclass(frozen=True)
class Layer:
    """A convolution, plain, depthwise, pointwise or transposed, whose weights are constants."""

    name: str  # the module's, e.g. "encoder.0.0"
    node: str  # the ONNX node's
    tensor: str  # its input
    weight: str
    axis: int | None  # of the weights, with a scale of its own for each index; None: one scale for all
    macs: int  # multiply-adds for one frame; 0 where the size is free


def quantizable_layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers that INT8 is for, in the graph's order."""
    weights = {c.name: c for c in model.graph.initializer if c.data_type == TensorProto.FLOAT}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    layers = []
    for node in model.graph.node:
        if node.op_type not in _CHANNEL_AXIS or node.input[1] not in weights:
            continue
        shape = list(weights[node.input[1]].dims)
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        axis: int | None = _CHANNEL_AXIS[node.op_type]
        if node.op_type == "ConvTranspose" and groups > 1:
            axis = None  # the axis then counts the channels of one group only
        # Every weight is used once for each pixel that comes out (transposed: that goes in).
        pixels = shapes.get(node.output[0] if node.op_type == "Conv" else node.input[0], [0, 0])[2:]
        layers.append(
            Layer(
                node.input[1].removeprefix("network.").removesuffix(".weight"),
                node.name,
                node.input[0],
                node.input[1],
                axis,
                int(np.prod(shape) * np.prod(pixels)),
            )
        )
    return layers


def skip_inputs(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """The skip inputs of residual additions: Add node -> (the tensor, node of the convolution that it is added to).

    Of an addition's two inputs the one that comes, perhaps through an activation, from the later convolution and
    goes nowhere else is what that convolution is fused with; the other is the skip.
    """
    producer = {name: (i, node) for i, node in enumerate(model.graph.node) for name in node.output}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1

    def convolution(name: str) -> tuple[int, str] | None:
        while name in producer and uses[name] == 1:
            i, node = producer[name]
            if node.op_type in _CHANNEL_AXIS:
                return i, node.name
            if node.op_type not in _PASSED:
                return None
            name = node.input[0]
        return None

    found = {}
    for node in model.graph.node:
        if node.op_type != "Add" or not all(name in producer for name in node.input):
            continue
        fused = [(c[0], c[1], name) for name in node.input if (c := convolution(name)) is not None]
        if fused:
            _, conv, main = max(fused)
            skip = node.input[1] if node.input[0] == main else node.input[0]
            found[node.name] = (skip, conv)
    return found


def quantized_model(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    *,
    keep: Collection[str] = (),
    float32: Collection[str] = (),
    skips: bool = False,
) -> onnx.ModelProto:
    """The model with Q/DQ, otherwise in float32; `model` is left as it was.

    Args:
        ranges: limit of each layer's input tensor, and of the skip inputs when `skips`.
        keep: names of layers (`Layer.name`) that stay in high precision.
        float32: names of nodes that Q/DQ keep away from, since half could not hold what is dequantised there.
        skips: quantise the skip input of an addition as well, where its convolution is quantised.
    """
    kept, islands = set(keep), set(float32)
    layers = [layer for layer in quantizable_layers(model) if layer.name not in kept and layer.node not in islands]
    graph = QuantizedGraph(model, ranges)
    for layer in layers:
        graph.redirect(layer.node, 0, graph.activation(layer.tensor))
        graph.redirect(layer.node, 1, graph.weight(layer))
    if skips:
        quantised = {layer.node for layer in layers}
        for add, (tensor, conv) in skip_inputs(model).items():
            if conv in quantised and add not in islands:
                graph.redirect(add, list(graph.nodes[add].input).index(tensor), graph.activation(tensor))
    return graph.build()


def half_scales(limits: np.ndarray) -> np.ndarray:
    """`half_steps` of an array, float32: the grid that networks are trained on for INT8."""
    return half_steps(torch.as_tensor(limits)).numpy()


class QuantizedGraph:
    """A copy of a float32 graph in which inputs of nodes are redirected to quantised forms of themselves."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, float]) -> None:
        self._source = model
        self._ranges = ranges
        self.nodes = {}
        for node in model.graph.node:
            self.nodes[node.name] = onnx.NodeProto()
            self.nodes[node.name].CopyFrom(node)
        self._after: dict[str, list[onnx.NodeProto]] = {}  # tensor -> nodes to stand right behind its producer
        self._first: list[onnx.NodeProto] = []  # nodes that need constants alone
        self._constants: dict[str, TensorProto] = {}
        self._infos: dict[str, onnx.ValueInfoProto] = {}

    @cached_property
    def _weights(self) -> dict[str, TensorProto]:
        return {c.name: c for c in self._source.graph.initializer}

    @cached_property
    def _shapes(self) -> dict[str, onnx.ValueInfoProto]:
        return {v.name: v for v in self._source.graph.value_info}

    def redirect(self, node: str, index: int, tensor: str) -> None:
        """Let a node's input read another tensor."""
        self.nodes[node].input[index] = tensor

    def activation(self, tensor: str) -> str:
        """The name of `tensor` after Q/DQ, made on the first call."""
        name = f"{tensor}.dequantized"
        if name not in self._infos:
            scale = half_scales(np.array(self._ranges[tensor]))
            self._constant(f"{tensor}.scale", scale)
            self._constant(_ZERO, np.int8(0))
            parameters = [f"{tensor}.scale", _ZERO]
            self._after.setdefault(tensor, []).extend(
                (
                    helper.make_node(
                        "QuantizeLinear", [tensor, *parameters], [f"{tensor}.quantized"], name=f"quantize.{tensor}"
                    ),
                    helper.make_node(
                        "DequantizeLinear", [f"{tensor}.quantized", *parameters], [name], name=f"dequantize.{tensor}"
                    ),
                )
            )
            self._info(f"{tensor}.quantized", TensorProto.INT8, tensor)
            self._info(name, TensorProto.FLOAT, tensor)
        return name

    def weight(self, layer: Layer) -> str:
        """The name of a layer's weights after DequantizeLinear; int8 is what is stored."""
        name = f"{layer.weight}.dequantized"
        if name not in self._infos:
            array = numpy_helper.to_array(self._weights[layer.weight])
            others = tuple(i for i in range(array.ndim) if i != layer.axis)
            scale = half_scales(np.abs(array).max(axis=others).astype(np.float64))
            shape = [-1 if i == layer.axis else 1 for i in range(array.ndim)]
            stored = np.clip(np.rint(array / scale.reshape(shape)), -_LEVELS, _LEVELS).astype(np.int8)
            self._constant(f"{layer.weight}.int8", stored)
            self._constant(f"{layer.weight}.scale", scale)
            self._constant(f"{layer.weight}.zero", np.zeros(scale.shape, np.int8))
            inputs = [f"{layer.weight}.{part}" for part in ("int8", "scale", "zero")]
            axis: dict[str, Any] = {} if layer.axis is None else {"axis": layer.axis}
            self._first.append(
                helper.make_node(
                    "DequantizeLinear",
                    inputs,
                    [name],
                    name=f"dequantize.{layer.weight}",
                    **axis,
                )
            )
            self._infos[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        return name

    def build(self) -> onnx.ModelProto:
        """The whole model; constants that nothing reads any more are left out."""
        source = self._source.graph
        nodes = list(self._first)
        for value in source.input:
            nodes += self._after.get(value.name, [])
        for node in source.node:
            nodes.append(self.nodes[node.name])
            for name in node.output:
                nodes += self._after.get(name, [])
        read = {name for node in nodes for name in node.input}
        constants = [c for c in source.initializer if c.name in read] + list(self._constants.values())
        infos = [v for v in source.value_info if v.name not in self._weights] + list(self._infos.values())
        graph = helper.make_graph(nodes, source.name, source.input, source.output, constants, value_info=infos)
        result = helper.make_model(graph, opset_imports=self._source.opset_import, ir_version=self._source.ir_version)
        result.producer_name = self._source.producer_name
        return result

    def _constant(self, name: str, value: np.ndarray | np.int8) -> None:
        self._constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))

    def _info(self, name: str, kind: int, like: str) -> None:
        info = onnx.ValueInfoProto()
        info.CopyFrom(self._shapes[like])
        info.name = name
        info.type.tensor_type.elem_type = kind
        self._infos[name] = info
