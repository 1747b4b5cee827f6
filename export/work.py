"""How much of a network's work is done in which precision, counted in its ONNX graph."""

from __future__ import annotations

from collections import defaultdict
from math import prod

import onnx
from onnx import TensorProto

__all__ = ["work_by_precision"]

_NAMES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
_KINDS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def work_by_precision(model: onnx.ModelProto) -> dict[str, dict[str, float]]:
    """Layers that multiply and add, by the precision they compute in.

    A layer whose inputs come from DequantizeLinear computes in int8. A free batch counts as one frame.

    Returns:
        precision -> {"layers": how many, "macs": their share of all multiply-accumulates, 0..1}.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    weights = {tensor.name: tensor for tensor in inferred.initializer}
    values = {v.name: v.type.tensor_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    makers = {output: node for node in inferred.node for output in node.output}

    def shape(name: str) -> list[int]:
        if name in weights:
            return list(weights[name].dims)
        return [dim.dim_value or 1 for dim in values[name].shape.dim] if name in values else []

    layers: dict[str, int] = defaultdict(int)
    macs: dict[str, int] = defaultdict(int)
    for node in inferred.node:
        if node.op_type not in _KINDS:
            continue
        weight = node.input[1]
        source = makers.get(weight)
        if source is not None and source.op_type == "DequantizeLinear":
            kind, weight = "int8", source.input[0]
        else:
            kind = _NAMES.get(values[node.output[0]].elem_type, "other") if node.output[0] in values else "other"
        layers[kind] += 1
        macs[kind] += _macs(node.op_type, shape(weight), shape(node.input[0]), shape(node.output[0]))
    total = sum(macs.values()) or 1
    return {kind: {"layers": layers[kind], "macs": macs[kind] / total} for kind in layers}


def _macs(kind: str, weight: list[int], given: list[int], made: list[int]) -> int:
    if not weight or not given or not made:
        return 0
    if kind == "Conv":  # weight [out, in / groups, kh, kw]: each output sums over in / groups x kh x kw
        return prod(made) * prod(weight[1:])
    if kind == "ConvTranspose":  # weight [in, out / groups, kh, kw]: each input goes to out / groups x kh x kw
        return prod(given) * prod(weight[1:])
    return prod(made) * given[-1]
