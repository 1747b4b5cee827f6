"""A network at another size than it was trained at: more steel at once, at the scale of its training."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import numpy_helper

from sdi.runtime.common.errors import InputError
from sdi.train.checkpoint import Checkpoint

__all__ = ["at_network_size", "refuse_global_layers"]

_POOLS = ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")


def at_network_size(checkpoint: Checkpoint, network_hw: tuple[int, int]) -> Checkpoint:
    """The checkpoint with its network at another size, which shows it more steel or less at the scale of its training.

    Raises:
        InputError: something in it looks at the whole picture at once, so that its answer would change with the size.
    """
    if checkpoint.preprocessing.divide_by_max:
        raise InputError(
            f"{checkpoint.model} divides a picture by its brightest pixel, so that --network changes its answers; use "
            "--tile instead"
        )
    native = checkpoint.native_hw
    if native is not None:
        down, across = (new / old for new, old in zip(network_hw, checkpoint.input_hw, strict=True))
        native = (round(native[0] * down), round(native[1] * across))
    return replace(checkpoint, input_hw=network_hw, native_hw=native)


def refuse_global_layers(model: onnx.ModelProto, name: str) -> None:
    """Refuse a network that looks at its whole picture at once: another size would change its answers.

    Args:
        model: float32, traced.
    Raises:
        InputError: a layer averages or compares over height and width.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        axes = constants.get(node.input[1]) if len(node.input) > 1 else None
        over = None if axes is None else {int(axis) % 4 for axis in axes.ravel()}
        if node.op_type in _POOLS and (over is None or {2, 3} <= over):
            raise InputError(
                f"{name} cannot run at another size: {node.name} ({node.op_type}) looks at the whole picture; use "
                "--tile instead of --network"
            )
