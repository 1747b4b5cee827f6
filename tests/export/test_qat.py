"""What was trained for INT8 is what is exported: the same places, the same grid, the same numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from graphs import traced
from sdi.export.int8 import Int8Options, int8_model
from sdi.export.int8_ranges import trained_ranges
from sdi.export.onnx_model import FrameShape, onnx_from_module
from sdi.export.quantize import quantizable_layers, quantized_model, skip_inputs
from sdi.export.runners import runner_from_onnx
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.engine.manifest import read_manifest
from sdi.train.checkpoint import load_network, save_checkpoint
from sdi.train.engine_module import EngineModule
from sdi.train.models import SaliencyNetwork, model_spec
from sdi.train.models.deploy import absorb_batch_norm, deploy_form
from sdi.train.preprocess import Preprocessing
from sdi.train.qat import Int8Places, measure_places, train_for_int8
from sdi.train.qat.fake import fake_quantised
from support import RecordedProgress, command, enliven, lively_checkpoint, narrow_network

SIDE = 64
KINDS = ("minet", "tsernet-xs", "csepnet", "tsernet-lite")


class Exported:
    """A narrow network in its form for INT8, and the float32 graph that is exported of it."""

    def __init__(self, model: str) -> None:
        self.network: SaliencyNetwork = enliven(narrow_network(model)).eval()
        self.preprocessing: Preprocessing = model_spec(model).preprocessing
        absorb_batch_norm(self.network)
        self.frame = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
        self.module = EngineModule(self.network, self.preprocessing, (SIDE, SIDE), raw=True).eval()
        self.picture = self.module.normalise(torch.from_numpy(self.frame))
        self.places = measure_places(self.network, [self.picture])
        module = EngineModule(deploy_form(self.network), self.preprocessing, (SIDE, SIDE), raw=True)
        self.model = onnx_from_module(module, FrameShape(SIDE, SIDE))
        self.layers = quantizable_layers(self.model)

    def quantised(self) -> onnx.ModelProto:
        ranges = trained_ranges(traced(self.model, SIDE), self.layers, self.places)
        return quantized_model(self.model, ranges.limits, skips=True)


@cache
def exported_network(model: str) -> Exported:
    return Exported(model)


@pytest.fixture(params=KINDS)
def exported(request: pytest.FixtureRequest) -> Exported:
    return exported_network(request.param)


@pytest.fixture
def minet() -> Exported:
    return exported_network("minet")


def answers(model: onnx.ModelProto, frame: np.ndarray, tensors: list[str]) -> dict[str, np.ndarray]:
    """Tensors of a graph, computed node by node: nothing is fused, so this is what the graph says."""
    looked_at = onnx.ModelProto()
    looked_at.CopyFrom(model)
    looked_at.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(looked_at.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {"frame": frame}), strict=True))


def test_every_quantised_tensor_is_the_exports(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and in ONNX Runtime each quantiser answers the same, given the same before it.

    Rounding of float32 may move a value over the border between two levels, hence single levels in one of a thousand
    places. Such a one would spread, so the network goes on from ONNX Runtime's values.
    """
    graph = exported.quantised()
    wanted = {layer.name: layer.tensor for layer in exported.layers}
    names = {layer.node: layer.name for layer in exported.layers}
    added = {names[node]: tensor for tensor, node in skip_inputs(exported.model).values()}
    assert exported.places.inputs.keys() == wanted.keys()
    assert exported.places.skips.keys() == added.keys()
    tensors = sorted({f"{tensor}.dequantized" for tensor in (*wanted.values(), *added.values())})
    theirs = answers(graph, exported.frame, tensors)
    unseen = {name: value for name, value in theirs.items() if name in tensors}

    def checked(x: torch.Tensor, step: float) -> torch.Tensor:
        ours = fake_quantised(x, step)
        for name, value in theirs.items():
            if name in tensors and value.shape == tuple(ours.shape):
                apart = np.abs(value - ours.numpy())
                if apart.max() <= step * 1.001 and (apart > step / 2).mean() <= 1e-3:
                    unseen.pop(name, None)
                    return torch.from_numpy(value)
        raise AssertionError(f"no quantised tensor of the export is what training has in one of {tuple(ours.shape)}")

    monkeypatch.setattr("sdi.train.qat.network.fake_quantised", checked)
    train_for_int8(exported.network, exported.places)
    with torch.inference_mode():
        ours = exported.module(torch.from_numpy(exported.frame)).numpy()
    del exported.network.maps
    assert not unseen
    np.testing.assert_allclose(ours, theirs["probability"], atol=2e-6)


def test_other_places_than_the_exports_are_refused(exported: Exported) -> None:
    places, (first, *_) = exported.places, exported.places.skips
    moved = dict(places.skips)
    moved["elsewhere"] = moved.pop(first)
    with pytest.raises(InputError, match=f"trained for INT8 at other places .* elsewhere, {first}; train it again"):
        trained_ranges(traced(exported.model, SIDE), exported.layers, replace(places, skips=moved))


def options(places: Int8Places, **others: Any) -> Int8Options:
    return Int8Options(None, trained=places, **others)


def int8_of(model: onnx.ModelProto, wanted: Int8Options) -> Any:
    progress = RecordedProgress()
    return *int8_model(traced(model, SIDE), wanted, progress=progress), progress.lines


def test_layers_kept_in_training_have_no_quantiser(minet: Exported) -> None:
    layers = list(minet.places.inputs)
    kept = (layers[3], next(iter(minet.places.skips)))
    places = measure_places(minet.network, [minet.picture], kept)
    assert {*layers} - set(places.inputs) == set(kept)
    model, record, lines = int8_of(minet.model, options(places, rest="fp32"))
    stored = {c.name: c.data_type for c in model.graph.initializer}
    assert all(stored[f"network.{layer}.weight"] == TensorProto.FLOAT for layer in kept)
    assert sum(kind == TensorProto.INT8 for name, kind in stored.items() if name.endswith(".int8")) == len(layers) - 2
    assert record.kept == dict.fromkeys(kept, "kept in training")
    assert (record.method, record.accuracy) == ("trained", {})
    assert f"kept in high precision: {kept[0]} (kept in training)" in lines
    assert any(text.startswith("accuracy is not measured") for text in lines)


def test_int8_takes_ranges_from_one_place(minet: Exported, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from a calibration set or from training for INT8, one of them"):
        Int8Options(None)
    with pytest.raises(InputError, match=r"--max-drop and --rank-layers need pictures .* --validation DATA"):
        options(minet.places, max_drop=0.1)


def test_biases_stay_float_in_onnx_runtime(tmp_path: Path) -> None:
    """Steps of input and weight so small that half does not hold their product: ONNX Runtime would round by it."""
    rng = np.random.default_rng(0)
    half = np.float16

    def constant(name: str, value: Any) -> TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [
        helper.make_node("Cast", ["frame"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["half"], ["planar"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planar", "gain"], ["x"]),
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "steps", "zeros"], ["dw"], axis=0),
        helper.make_node("Conv", ["d", "dw", "bias"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "out", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "out", "zero"], ["yd"]),
        helper.make_node("Cast", ["yd"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axis"], ["probability"], keepdims=0),
    ]
    constants = [
        constant("gain", half(1e-4)),
        constant("step", half(2e-4)),
        constant("zero", np.int8(0)),
        constant("w", rng.integers(-127, 128, (4, 3, 1, 1), dtype=np.int8)),
        constant("steps", np.full(4, 1e-4, half)),
        constant("zeros", np.zeros(4, np.int8)),
        constant("bias", np.array([0.5, -0.25, 1.0, 0.75], half)),
        constant("out", half(0.01)),
        constant("axis", np.array([1])),
    ]
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 8, 8, 3])
    out = helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, 8, 8])
    graph = helper.make_graph(nodes, "graph", [frame], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    picture = rng.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(runner_from_onnx(model, 1)(picture), np.full((1, 8, 8), 0.5), atol=0.02)


@pytest.mark.slow
def test_command_exports_what_was_trained(tmp_path: Path) -> None:
    """Without a calibration set; a checkpoint that was trained for INT8 still is one that every command reads."""
    checkpoint = lively_checkpoint("minet", SIDE)
    network = load_network(checkpoint)
    absorb_batch_norm(network)
    module = EngineModule(network, checkpoint.preprocessing, checkpoint.input_hw)
    frames = torch.from_numpy(np.stack([draw_strip(kind, 1, (SIDE, SIDE))[0] for kind in DEFECTS]))
    places = measure_places(network, [module.normalise(frames)])
    path, out = tmp_path / "best.pt", tmp_path / "out"
    trained = replace(checkpoint, weights=network.state_dict(), training={"qat": places.to_dict()})
    save_checkpoint(path, trained)
    arguments = ("--checkpoint", path, "--int8", "--target", "onnx", "-o", out)
    done = command("sdi-export", *arguments, "--calibration", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--calibration is not used: the checkpoint was trained for INT8" in done.stderr
    manifest = read_manifest(out / "minet-int8.onnx")
    assert manifest is not None
    assert manifest.layers == {"int8": {"layers": 110, "macs": 1.0}}
    assert (manifest.quantisation["method"], manifest.quantisation["kept"]) == ("trained", {})
    report = json.loads((out / "minet-int8.report.json").read_text())
    assert set(report["ranges"].values()) <= {*places.inputs.values()}
    assert "training scored the network in INT8" in (out / "minet-int8.report.html").read_text()
    refused = command("sdi-export", *arguments, "--max-drop", "0.01")
    assert refused.returncode == 2
    assert "give --validation DATA" in refused.stderr
