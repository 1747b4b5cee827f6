"""ONNX models that keep the I/O contract, from PyTorch."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import onnx
import torch
from onnx import TensorProto, helper

from sdi.runtime.common.errors import InputError, SdiError
from sdi.train.engine_module import EngineModule

__all__ = [
    "OPSET",
    "PROBABILITY",
    "FrameShape",
    "float32_nodes",
    "onnx_from_module",
    "program_from_module",
    "rounding_part",
    "with_probability_output",
]

OPSET = 20  # the newest that TensorRT 10.3's parser (JetPack 6) reads
_IR_VERSION = 10
PROBABILITY = "probability"  # the float32 tensor before scaling and rounding


@dataclass(frozen=True)
class FrameShape:
    """What `frame` may be: a fixed batch, height and width, or all three free."""

    height: int
    width: int
    batch: int = 1
    dynamic: bool = False  # batch, height and width are free; the numbers above are then an example
    free_batch: bool = False  # the batch alone is free


def onnx_from_module(module: EngineModule, shape: FrameShape) -> onnx.ModelProto:
    """Trace an engine module in eval mode into one self-contained ONNX model.

    The tensor before scaling and rounding is named `probability`, so that parity can look at it.

    Raises:
        InputError: the model is too large for one file (2 GB).
        SdiError: PyTorch's exporter failed; its reason is quoted.
    """
    program = program_from_module(module, shape)
    model: onnx.ModelProto = program.model_proto
    model.ir_version = min(model.ir_version, _IR_VERSION)
    model.producer_name = "sdi"
    _strip_traces(model)
    if not module.raw and not module.planar:
        _name_probability(model)
    if model.ByteSize() > 2**31 - 1:
        raise InputError("the ONNX model is over 2 GB, too large for one file; use --fp16 or a narrower variant")
    return model


def program_from_module(module: EngineModule, shape: FrameShape) -> torch.onnx.ONNXProgram:
    """What PyTorch's exporter makes of an engine module in eval mode: the ONNX graph, and the program behind it.

    Tensors have one name in both.

    Raises:
        SdiError: PyTorch's exporter failed; its reason is quoted.
    """
    free_batch = shape.dynamic or shape.free_batch
    batch = max(shape.batch, 2) if free_batch else shape.batch  # an example of 1 would be taken for a constant
    size = (shape.height, shape.width)
    example = torch.zeros(batch, 3, *size) if module.planar else torch.zeros(batch, *size, 3, dtype=torch.uint8)
    dim = torch.export.Dim
    free_axes = {0: dim("batch")} if free_batch else {}
    if shape.dynamic:
        height, width = (2, 3) if module.planar else (1, 2)
        free_axes |= {height: dim("height", min=32), width: dim("width", min=32)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its warnings are about its own internals
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                input_names=["frame"],
                output_names=[PROBABILITY if module.raw else "saliency"],
                opset_version=OPSET,
                dynamic_shapes=(free_axes,) if free_axes else None,
                verbose=False,
            )
    except Exception as error:
        raise SdiError(f"PyTorch {torch.__version__} could not export the network: {error}") from error
    assert program is not None
    return program


def with_probability_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """The raw twin: the same graph, its one output now `probability` (N, H, W) float32. Changes `model` itself.

    Raises:
        InputError: the graph has no tensor of that name, so it was not exported by sdi.
    """
    if not any(PROBABILITY in node.output for node in model.graph.node):
        raise InputError("the ONNX graph has no 'probability' tensor; export it with sdi-export")
    shape = [dim.dim_param or dim.dim_value or None for dim in model.graph.output[0].type.tensor_type.shape.dim]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, shape))
    return model


def rounding_part(model: onnx.ModelProto) -> onnx.ModelProto:
    """What turns `probability` into `saliency`, as a model of its own; `model` is left as it was.

    Raises:
        InputError: the graph has no `probability`, or `saliency` does not come from it alone.
    """
    producer = {output: node for node in model.graph.node for output in node.output}
    constants = {value.name: value for value in model.graph.initializer}
    wanted, reached = [model.graph.output[0].name], set()
    while wanted:
        name = wanted.pop()
        if name in reached or name == PROBABILITY or not name:
            continue
        if name not in producer and name not in constants:
            raise InputError(f"the ONNX graph's answer does not come from '{PROBABILITY}' alone; export it again")
        reached.add(name)
        wanted += producer[name].input if name in producer else []
    if not any(PROBABILITY in node.input for node in model.graph.node if reached.intersection(node.output)):
        raise InputError(f"the ONNX graph's answer does not come from '{PROBABILITY}'; export it again")
    graph = helper.make_graph(
        [node for node in model.graph.node if reached.intersection(node.output)],
        "rounding",
        [helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, [None, None, None])],
        [helper.make_tensor_value_info(model.graph.output[0].name, TensorProto.UINT8, [None, None, None])],
        [value for name, value in constants.items() if name in reached],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def float32_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the computing nodes that answer in float32: in a half model, those left in high precision."""
    floats = {
        value.name
        for value in (*model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    plain = {"Cast", "Transpose", "Identity", "Reshape", "Squeeze", "Gather"}
    return tuple(
        node.name for node in model.graph.node if node.op_type not in plain and floats.intersection(node.output)
    )


def _name_probability(model: onnx.ModelProto) -> None:
    """Rename the tensor that Mul(255) -> Clip -> Round -> Cast turn into `saliency`."""
    producer = {output: node for node in model.graph.node for output in node.output}
    name = model.graph.output[0].name
    for wanted in ("Cast", "Round", "Clip", "Mul"):
        node = producer.get(name)
        if node is None or node.op_type != wanted:
            found = node.op_type if node else "nothing"
            raise SdiError(
                f"exported graph ends in an unexpected way: {wanted} expected before '{name}', {found} there"
            )
        constants = {value.name for value in model.graph.initializer}
        name = next(i for i in node.input if i and i not in constants and not _is_constant(producer.get(i)))
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, other in enumerate(names):
                if other == name:
                    names[i] = PROBABILITY
    for value in model.graph.value_info:
        if value.name == name:
            value.name = PROBABILITY


def _is_constant(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type == "Constant"


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of its own work: stack traces with the paths of this machine."""
    del model.metadata_props[:]
    for part in (
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ):
        del part.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
