"""A network's graph for one window becomes a graph for a whole frame: cut, run in groups, stitched inside.

The window's graph is taken as it is, in whatever precision, so that the frame's answers to each window what the
window's own engine would. Cutting is two Gathers (rows, then columns) and a Reshape, stitching the same backwards.
The network stands in the graph once for each group of windows, one behind the other, so that a runtime needs memory for
one group at a time; weights are there once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdi.export.onnx_model import PROBABILITY
from sdi.runtime.common.errors import InputError, SdiError
from sdi.runtime.engine.windows import Span, WindowGrid

__all__ = ["GREATEST_GRID", "frame_model", "group_size"]

_GROUP = 16  # windows run at once: what keeps a GPU busy, in some 100 MB of activations a network's float32
_GROUPS = 16  # copies of the network, at most
GREATEST_GRID = _GROUP * _GROUPS
_SHAPES = {"Resize": 3, "Reshape": 1, "Expand": 1}  # operators, and which input is a shape with the number of pictures


def group_size(windows: int) -> int:
    """Windows that are run at once: at most 16, and about as many in each group.

    Raises:
        InputError: they would need more copies of the network than a graph can hold.
    """
    if windows > GREATEST_GRID:
        raise InputError(
            f"{windows} windows are too many for one graph, at most {GREATEST_GRID} go into it; give a smaller "
            "--frame, a larger --tile or less --overlap, or let sdi-run cut the frames (--tile auto)"
        )
    groups = -(-windows // _GROUP)
    return -(-windows // groups)


def frame_model(window_model: onnx.ModelProto, grid: WindowGrid) -> onnx.ModelProto:
    """`frame` (1, H, W, 3) uint8 -> `saliency` (1, H, W) uint8 of the grid's frame.

    Args:
        window_model: `frame` (1, h, w, 3) uint8 -> `saliency` (1, h, w) uint8 of one window; left as it was.
    Raises:
        InputError: too many windows.
        SdiError: the network's graph cannot be given several windows at once.
    """
    return _Composer(window_model, grid).model()


class _Composer:
    """Collects the nodes of the new graph."""

    def __init__(self, window_model: onnx.ModelProto, grid: WindowGrid) -> None:
        self._source = window_model
        self._grid = grid
        self._group = group_size(len(grid))
        self._nodes: list[onnx.NodeProto] = []
        graph = window_model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._feed = next(node.output[0] for node in graph.node if "frame" in node.input)  # float, still NHWC
        reached = {"frame"}
        self._body: list[onnx.NodeProto] = []  # from the feed to the probability, once for each group
        self._shared: list[onnx.NodeProto] = []  # what depends on weights alone
        self._rounding: list[onnx.NodeProto] = []  # from the probability on
        rounded = {PROBABILITY}
        for node in graph.node:
            if rounded.intersection(node.input):
                rounded.update(node.output)
                self._rounding.append(node)
            elif reached.intersection(node.input):
                reached.update(node.output)
                if node.output[0] != self._feed:
                    self._body.append(node)
            else:
                self._shared.append(node)
        self._own = {name for node in self._body for name in node.output}

    def model(self) -> onnx.ModelProto:
        grid, source = self._grid, self._source
        (height, width), (window_h, window_w) = grid.frame_hw, grid.window_hw
        rows, columns = len(grid.rows), len(grid.columns)
        self._nodes += self._shared
        x = self._add("Cast", "frame", name="to_float", to=TensorProto.FLOAT)
        x = self._gather(x, "cut.rows", _seen(grid.rows), axis=1)
        x = self._gather(x, "cut.columns", _seen(grid.columns), axis=2)
        shape = [rows, window_h, columns, window_w * 3]
        x = self._add("Reshape", x, self._constant("cut.shape", shape), name="cut.split")
        x = self._add("Transpose", x, name="cut.order", perm=[0, 2, 1, 3])
        x = self._add("Reshape", x, self._constant("windows.shape", [-1, window_h, window_w, 3]), name="cut.windows")
        count, group = len(grid), self._group
        answers = []
        for number, start in enumerate(range(0, count, group)):
            windows = [min(index, count - 1) for index in range(start, start + group)]
            chosen = x if group == count else self._gather(x, f"group{number}", windows, axis=0)
            answers.append(self._network(chosen, number))
        x = answers[0] if len(answers) == 1 else self._add("Concat", *answers, name="stitch.groups", axis=0)
        if len(answers) * group > count:
            x = self._gather(x, "stitch.all", range(count), axis=0)
        shape = [1, rows, columns, window_h, window_w]
        x = self._add("Reshape", x, self._constant("stitch.shape", shape), name="stitch.split")
        x = self._add("Transpose", x, name="stitch.order", perm=[0, 1, 3, 2, 4])
        shape = [1, rows * window_h, columns * window_w]
        x = self._add("Reshape", x, self._constant("strip.shape", shape), name="stitch.strip")
        x = self._gather(x, "stitch.rows", _kept(grid.rows), axis=1)
        self._gather(x, "stitch.columns", _kept(grid.columns), axis=2, output=PROBABILITY)
        self._nodes += self._rounding
        frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, height, width, 3])
        saliency = helper.make_tensor_value_info("saliency", TensorProto.UINT8, [1, height, width])
        used = {name for node in self._nodes for name in node.input}
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        graph = helper.make_graph(self._nodes, source.graph.name, [frame], [saliency], constants)
        made = helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
        made.producer_name = source.producer_name
        return _checked(made, (1, height, width))

    def _network(self, windows: str, number: int) -> str:
        """The network once more, for one group of windows; answers the name of its probability."""

        def named(name: str) -> str:
            if name == self._feed:
                return windows
            return f"group{number}.{name}" if name in self._own else name

        for node in self._body:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"group{number}.{node.name}"
            copy.input[:] = [named(name) for name in node.input]
            copy.output[:] = [named(name) for name in node.output]
            place = _SHAPES.get(node.op_type)
            if place is not None and len(copy.input) > place and copy.input[place] in self._constants:
                copy.input[place] = self._of_many(copy.input[place])
            self._nodes.append(copy)
        return named(PROBABILITY)

    def _of_many(self, name: str) -> str:
        """A shape for one picture, made one for a group of them."""
        shape = numpy_helper.to_array(self._constants[name]).copy()
        if not shape.size or shape[0] != 1:
            return name
        shape[0] = self._group
        many = f"{name}.many"
        self._constants[many] = numpy_helper.from_array(shape, many)
        return many

    def _gather(self, x: str, name: str, indices: Iterable[int], axis: int, output: str | None = None) -> str:
        return self._add(
            "Gather", x, self._constant(f"{name}.index", list(indices)), name=name, output=output, axis=axis
        )

    def _constant(self, name: str, values: list[int]) -> str:
        self._constants[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def _add(self, kind: str, *inputs: str, name: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{name}.out"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output


def _seen(spans: Iterable[Span]) -> list[int]:
    """For each pixel of each window in turn, which of the frame's it is."""
    return [pixel for span in spans for pixel in range(span.start, span.start + span.length)]


def _kept(spans: Iterable[Span]) -> list[int]:
    """For each pixel of the frame, which it is of all windows' pixels in turn."""
    return [
        number * span.length + pixel - span.start
        for number, span in enumerate(spans)
        for pixel in range(span.kept_start, span.kept_end)
    ]


def _checked(model: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.ModelProto:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise SdiError(f"the network's graph does not take several windows at once: {error}") from error
    found = {value.name: value.type.tensor_type.shape for value in inferred.graph.value_info}[PROBABILITY]
    if tuple(dim.dim_value for dim in found.dim) != shape:
        raise SdiError(f"the network's graph does not take several windows at once: it answers {found} to {shape}")
    return inferred
