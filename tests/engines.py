"""Engines for tests: a tiny ONNX file with its manifest, and one in plain Python that a test can hold or fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.golden import golden_frames, golden_record
from sdi.runtime.engine.manifest import Manifest, write_manifest

SIZE_HW = (32, 48)
BRIGHT = 200  # from here on the engine of kind "fragile" fails


class PlainEngine(Engine):
    """Answers the first channel, after `before` was called with the frames."""

    def __init__(
        self,
        before: Callable[[np.ndarray], object] = lambda frames: None,
        *,
        batch: int | None = None,
        frame_hw: tuple[int, int] | None = None,
    ) -> None:
        self.path, self.manifest, self.device = Path("plain"), None, "test"
        self.batch, self.frame_hw = batch, frame_hw
        self.before = before
        self.shapes: list[tuple[int, ...]] = []

    def execute(self, frames: np.ndarray) -> np.ndarray:
        self.shapes.append(frames.shape)
        self.before(frames)
        return frames[..., 0].copy()


def _graph(kind: str, frame_hw: tuple[int, int] | None, batch: int | None) -> onnx.GraphProto:
    """`mean`: the mean of the three channels, rounded. The others differ from it by one fault each."""
    size = frame_hw or ("h", "w")
    count = batch or "n"
    constants = [
        helper.make_tensor("last", TensorProto.INT64, [1], [3]),
        helper.make_tensor("bright", TensorProto.INT64, [], [BRIGHT]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("zero2", TensorProto.INT64, [2], [0, 0]),
        helper.make_tensor("eight2", TensorProto.INT64, [2], [8, 8]),
        helper.make_tensor("hw", TensorProto.INT64, [2], [1, 2]),
    ]
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "last"], ["mean"], keepdims=int(kind == "rank")),
        helper.make_node("Round", ["mean"], ["round"]),
    ]
    name, answer, kinds, size_out = "round", "saliency", TensorProto.UINT8, size
    if kind == "fragile":  # an index out of range where the brightest pixel reaches BRIGHT
        nodes += [
            helper.make_node("ReduceMax", ["float"], ["max"], keepdims=0),
            helper.make_node("Cast", ["max"], ["max64"], to=TensorProto.INT64),
            helper.make_node("Div", ["max64", "bright"], ["index"]),
            helper.make_node("Gather", ["one", "index"], ["factor"]),
            helper.make_node("Mul", ["round", "factor"], ["scaled"]),
        ]
        name = "scaled"
    elif kind == "crop":  # a map of another size than the frame's
        nodes.append(helper.make_node("Slice", ["round", "zero2", "eight2", "hw"], ["part"]))
        name, size_out = "part", ("h2", "w2")
    elif kind == "float":
        kinds = TensorProto.FLOAT
    elif kind == "name":
        answer = "output"
    nodes.append(helper.make_node("Cast", [name], [answer], to=kinds))
    shape = [count, *size_out, 1] if kind == "rank" else [count, *size_out]
    return helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [count, *size, 3])],
        [helper.make_tensor_value_info(answer, kinds, shape)],
        constants,
    )


def tiny_manifest(artefact: Path, frame_hw: tuple[int, int] | None, batch: int | None = 1) -> Manifest:
    """A true manifest of a tiny engine, all fields filled in."""
    height, width = frame_hw or SIZE_HW
    saliency = np.rint(golden_frames(height, width).mean(axis=3)).astype(np.uint8)
    digest = sha256_of(artefact)
    return Manifest(
        model="tiny",
        family="tiny",
        precision="fp32",
        target="onnx",
        face="uint8",
        batch=batch,
        frame_hw=frame_hw,
        network_hw=(height, width),
        preprocessing={"mean": [0.0], "std": [1.0]},
        random_weights=False,
        checkpoint_sha256=None,
        onnx_sha256=digest,
        bytes=artefact.stat().st_size,
        sha256=digest,
        builder={"onnx": onnx.__version__},
        golden=golden_record((height, width), saliency, 1.0),
        parity={"max": 0.0},
        metrics={"mae": 0.5},
        high_precision_layers=("round",),
    )


def write_engine(
    path: Path, kind: str = "mean", frame_hw: tuple[int, int] | None = None, *, batch: int | None = None
) -> Path:
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(_graph(kind, frame_hw, batch), opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    write_manifest(path, tiny_manifest(path, frame_hw, batch))
    return path
