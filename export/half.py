"""Half precision as a change of the ONNX graph, with float32 where half would lose what matters.

Float32 stay: all that comes before the first layer with weights (scaling of the frame), all from the last sigmoid to
the output, sums over many values, averages of neighbours, the scales of every Resize, and whatever real pictures drive
out of half's range.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdi.runtime.common.errors import SdiError

__all__ = ["HALF_MAX", "half_model", "out_of_half_range"]

HALF_MAX = 65504.0
_HEADROOM = 2.0  # other pictures may go higher than those that were measured
# Where the network begins: layers with weights, or what quantises for them.
_NETWORK = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "QuantizeLinear", "DequantizeLinear"})
# Their terms may be of any number; half has 11 bits.
_SUMS = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "GlobalAveragePool", "Softmax", "LayerNormalization"}
)
# ONNX Runtime moves half networks to NHWC on ARM, where it has no half kernel for them and refuses the whole file.
_NO_HALF_KERNEL = frozenset({"AveragePool"})
_ALWAYS_FLOAT = {"Resize": (1, 2)}  # region of interest and scales, by ONNX's own rule


def half_model(model: onnx.ModelProto, float32: Collection[str] = ()) -> onnx.ModelProto:
    """The same graph computed in half; `model` is left as it was.

    Args:
        model: float32, with types in its value_info, as `onnx_from_module` makes it; QuantizeLinear and
            DequantizeLinear become half with their scales.
        float32: names of nodes that stay in float32, besides those that always do.
    Raises:
        SdiError: a tensor of unknown type.
    """
    kept = _edges(model) | set(float32) | {n.name for n in model.graph.node if n.op_type in _SUMS | _NO_HALF_KERNEL}
    return _HalfGraph(model, kept).build()


def out_of_half_range(model: onnx.ModelProto, peaks: Mapping[str, float]) -> list[tuple[str, float]]:
    """Nodes that half cannot compute, in the graph's order, each with the value that is too great.

    A node is out of range when a tensor that it makes or takes, or one of its constants, comes within a factor of
    two of 65504 in the float32 run, or is not finite there.

    Args:
        peaks: maximum absolute value of each float tensor, measured in float32 on real pictures.
    """
    values = {name: peak for name, peak in peaks.items() if not peak * _HEADROOM <= HALF_MAX}
    for constant in model.graph.initializer:
        if constant.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(constant)
            peak = float(np.abs(array).max(initial=0.0))
            if not peak * _HEADROOM <= HALF_MAX:
                values[constant.name] = peak
    found = []
    for node in model.graph.node:
        worst = [values[name] for name in (*node.input, *node.output) if name in values]
        if worst:
            found.append((node.name, max(worst)))
    return found


def _edges(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes before the network's first layer, and of those after the last sigmoid."""
    inside: set[str] = set()  # tensors of the network
    kept = set()
    producer = {}
    for node in model.graph.node:
        producer.update(dict.fromkeys(node.output, node))
        if node.op_type in _NETWORK or inside.intersection(node.input):
            inside.update(node.output)
        else:
            kept.add(node.name)
    pending = [value.name for value in model.graph.output]
    while pending:
        node = producer.get(pending.pop())
        if node is None or node.name in kept or node.op_type in _NETWORK:
            continue
        kept.add(node.name)
        if node.op_type != "Sigmoid":
            pending += node.input
    return kept


class _HalfGraph:
    """Rebuilds a graph node by node, with a Cast wherever a tensor is wanted in the other type."""

    def __init__(self, model: onnx.ModelProto, kept: set[str]) -> None:
        self._model = model
        self._kept = kept
        self._constants = {c.name: c for c in model.graph.initializer if c.data_type == TensorProto.FLOAT}
        self._types = {
            v.name: v.type.tensor_type.elem_type
            for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        }
        self._types.update({c.name: c.data_type for c in model.graph.initializer})
        self._is_half: dict[str, bool] = {}  # of the float tensors met so far
        self._made: dict[tuple[str, bool], str] = {}  # (tensor, half) -> its name in that type
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []

    def build(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            self._add(node)
        graph = self._model.graph
        made = helper.make_graph(self._nodes, graph.name, graph.input, graph.output, self._initializers)
        made.initializer.extend(c for c in graph.initializer if c.data_type != TensorProto.FLOAT)
        for value in graph.value_info:
            if value.name in self._constants:
                continue
            made.value_info.append(value)
            if self._is_half.get(value.name):
                made.value_info[-1].type.tensor_type.elem_type = TensorProto.FLOAT16
        result = helper.make_model(made, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        result.producer_name = self._model.producer_name
        return result

    def _add(self, node: onnx.NodeProto) -> None:
        half = node.name not in self._kept
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for i, name in enumerate(node.input):
            if name and self._type(name) == TensorProto.FLOAT:
                copy.input[i] = self._as(name, half and i not in _ALWAYS_FLOAT.get(node.op_type, ()))
        for name in node.output:
            if name and self._type(name) == TensorProto.FLOAT:
                self._is_half[name] = half
        if half:
            _answer_in_half(copy)
        self._nodes.append(copy)

    def _type(self, name: str) -> int:
        try:
            return self._types[name]
        except KeyError:
            raise SdiError(f"the ONNX graph does not give the type of '{name}'; export it with sdi-export") from None

    def _as(self, name: str, half: bool) -> str:
        """The name under which a float tensor or constant is there in the wanted type; made if need be."""
        key = (name, half)
        if key not in self._made:
            wanted = f"{name}.{'half' if half else 'float'}"
            if name in self._constants:
                self._made[key] = self._constant(name, half)
            elif self._is_half.get(name, False) == half:  # graph inputs are not half
                self._made[key] = name
            else:
                to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                self._nodes.append(helper.make_node("Cast", [name], [wanted], name=f"cast.{wanted}", to=to))
                self._made[key] = wanted
        return self._made[key]

    def _constant(self, name: str, half: bool) -> str:
        """A constant in the wanted type; where both are wanted, the second one gets a name of its own."""
        own = f"{name}.{'half' if half else 'float'}" if (name, not half) in self._made else name
        array = numpy_helper.to_array(self._constants[name])
        if half:
            # Bounds of a Clip may be the largest floats.
            array = np.clip(array, -HALF_MAX, HALF_MAX).astype(np.float16)
        self._initializers.append(numpy_helper.from_array(array, own))
        return own


def _answer_in_half(node: onnx.NodeProto) -> None:
    """Attributes that name float32 as the type of what comes out."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
