"""Small ONNX graphs that keep the I/O contract, made by hand so that a test knows every number in them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdi.export.runners import InputSpec
from sdi.export.traced_model import TracedModel

SIDE = 16


def traced(model: onnx.ModelProto, side: int = SIDE) -> TracedModel:
    """A graph as an export has it: the float32 form of a network called "tiny"."""
    return TracedModel(model, "tiny", {}, "0" * 64, InputSpec((side, side)))


class Graph:
    """Collects nodes and constants; `model` closes it with the last nodes that the I/O contract asks for."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        x = self.add("Cast", "frame", name="to_float", to=TensorProto.FLOAT)
        x = self.add("Transpose", x, name="planar", perm=[0, 3, 1, 2])
        self.first = self.add("Mul", x, self.constant("scale", np.float32(1 / 255)), name="scaling")

    def constant(self, name: str, value: object) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def conv(self, x: str, name: str, shape: tuple[int, ...], *, kind: str = "Conv", **attributes: object) -> str:
        """A convolution of random weights (unit gain) and biases; `name` is the layer's, as a module's would be."""
        fan_in = int(np.prod(shape[1:]))
        weight = self.rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
        outputs = shape[0] if kind == "Conv" else shape[1] * int(attributes.get("group", 1))  # type: ignore[call-overload]
        bias = self.rng.normal(0, 0.1, outputs).astype(np.float32)
        w, b = self.constant(f"network.{name}.weight", weight), self.constant(f"network.{name}.bias", bias)
        return self.add(kind, x, w, b, name=name, **attributes)

    def model(self, logits: str) -> onnx.ModelProto:
        """From (N, 1, H, W) logits to `saliency`."""
        x = self.add("Sigmoid", logits, name="sigmoid")
        self.nodes.append(helper.make_node("Squeeze", [x, self.constant("axis", [1])], ["probability"], name="squeeze"))
        x = self.add("Mul", "probability", self.constant("levels", np.float32(255)), name="to_levels")
        x = self.add("Clip", x, self.constant("low", np.float32(0)), "levels", name="clip")
        x = self.add("Round", x, name="round")
        self.nodes.append(helper.make_node("Cast", [x], ["saliency"], name="to_uint8", to=TensorProto.UINT8))
        frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, SIDE, SIDE, 3])
        saliency = helper.make_tensor_value_info("saliency", TensorProto.UINT8, [1, SIDE, SIDE])
        graph = helper.make_graph(self.nodes, "graph", [frame], [saliency], self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def every_kind(seed: int = 0) -> onnx.ModelProto:
    """A plain, a depthwise, a pointwise and a transposed convolution, a residual addition and a Concat.

    stem -> relu -> (depthwise -> relu -> pointwise -> relu) + relu -> half -> relu -> up -> cat with stem -> head
    """
    g = Graph(seed)
    stem = g.add("Relu", g.conv(g.first, "stem", (8, 3, 3, 3), pads=[1, 1, 1, 1]), name="stem_relu")
    x = g.add("Relu", g.conv(stem, "depthwise", (8, 1, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2], group=8), name="r1")
    x = g.add("Relu", g.conv(x, "pointwise", (8, 8, 1, 1)), name="r2")
    x = g.add("Add", x, stem, name="residual")
    x = g.add("Relu", g.conv(x, "half", (12, 8, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]), name="r3")
    x = g.conv(x, "up", (12, 4, 2, 2), kind="ConvTranspose", strides=[2, 2])
    x = g.add("Concat", x, stem, name="cat", axis=1)
    return g.model(g.conv(x, "head", (1, 12, 1, 1)))


def frames(count: int = 1, seed: int = 0) -> np.ndarray:
    """(N, 16, 16, 3) uint8: gradients with some grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    slopes = rng.uniform(-100, 100, (count, 2, 3))
    plain = 128 + y[None, :, :, None] * slopes[:, None, None, 0] + x[None, :, :, None] * slopes[:, None, None, 1]
    return np.clip(plain + rng.normal(0, 5, plain.shape), 0, 255).astype(np.uint8)
