"""INT8 as Q/DQ: where the pairs stand, on which grid, and what the graph then answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper

from graphs import SIDE, Graph, every_kind, frames
from sdi.export.half import half_model
from sdi.export.quantize import Layer, half_scales, quantizable_layers, quantized_model, skip_inputs
from sdi.export.runners import InputSpec
from sdi.export.work import work_by_precision
from support import nvidia_view

SPEC = InputSpec((16, 16))
LAYERS = ["stem", "depthwise", "pointwise", "half", "up", "head"]
RANGES = {"scaling.out": 1.0, **dict.fromkeys(["stem_relu.out", "r1.out", "r2.out", "residual.out", "r3.out"], 3.0)}
RANGES |= {"cat.out": 3.0}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}


def inputs_of(model: onnx.ModelProto, node: str) -> list[str]:
    return list(next(n for n in model.graph.node if n.name == node).input)


def test_layers_of_every_kind_and_their_work() -> None:
    layers = quantizable_layers(every_kind())
    assert [layer.name for layer in layers] == LAYERS
    area = SIDE * SIDE
    assert [layer.macs for layer in layers] == [
        area * 8 * 3 * 9,
        area * 8 * 1 * 9,
        area * 8 * 8,
        area // 4 * 12 * 8 * 9,
        area // 4 * 12 * 4 * 4,
        area * 12,
    ]
    assert [layer.axis for layer in layers] == [0, 0, 0, 0, 1, 0]


def test_every_layer_computes_in_int8() -> None:
    work = work_by_precision(quantized_model(every_kind(), RANGES))
    assert work == {"int8": {"layers": 6, "macs": 1.0}}


@pytest.mark.parametrize("layer", quantizable_layers(every_kind()), ids=lambda layer: layer.name)
def test_weights_lie_on_pytorchs_per_channel_grid(layer: Layer) -> None:
    before, after = constants(every_kind()), constants(quantized_model(every_kind(), RANGES))
    assert layer.axis is not None
    weight, scale = before[layer.weight], after[f"{layer.weight}.scale"]
    stored = after[f"{layer.weight}.int8"]
    assert stored.dtype == np.int8
    assert len(scale) == weight.shape[layer.axis]
    oracle = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight.copy()),
        torch.from_numpy(scale.copy()),
        torch.zeros(len(scale), dtype=torch.int32),
        layer.axis,
        -127,
        127,
    )
    shape = [-1 if i == layer.axis else 1 for i in range(weight.ndim)]
    np.testing.assert_allclose(stored * scale.reshape(shape), oracle.numpy(), rtol=1e-6)
    # The largest weight of each channel is at the end of the grid.
    others = tuple(i for i in range(weight.ndim) if i != layer.axis)
    assert np.abs(stored.astype(int)).max(axis=others).min() >= 126


def test_answers_are_those_of_pytorchs_fake_quantisation() -> None:
    """A convolution on known ranges, computed by PyTorch instead."""
    g = Graph(seed=3)
    x = g.add("Relu", g.conv(g.first, "stem", (4, 3, 3, 3), pads=[1, 1, 1, 1]), name="relu")
    model = g.model(g.conv(x, "up", (4, 1, 2, 2), kind="ConvTranspose", strides=[1, 1], pads=[0, 0, 1, 1]))
    quantised = quantized_model(model, {"scaling.out": 1.0, "relu.out": 2.0})
    values, after = constants(model), constants(quantised)

    def fake(x: torch.Tensor, tensor: str) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, float(after[f"{tensor}.scale"]), 0, -128, 127)

    def weight(name: str, axis: int) -> torch.Tensor:
        w, scale = torch.from_numpy(values[name].copy()), torch.from_numpy(after[f"{name}.scale"].copy())
        return torch.fake_quantize_per_channel_affine(
            w, scale, torch.zeros(len(scale), dtype=torch.int32), axis, -127, 127
        )

    bias = {name: torch.from_numpy(values[f"network.{name}.bias"].copy()) for name in ("stem", "up")}
    x_t = fake(torch.from_numpy(frames(1)).permute(0, 3, 1, 2) / 255, "scaling.out")
    x_t = F.relu(F.conv2d(x_t, weight("network.stem.weight", 0), bias["stem"], padding=1))
    x_t = F.conv_transpose2d(fake(x_t, "relu.out"), weight("network.up.weight", 1), bias["up"])[..., :-1, :-1]
    wanted = torch.sigmoid(x_t)[:, 0].numpy()
    answer = SPEC.runner(quantised)(frames(1))
    exact = SPEC.runner(model)(frames(1))
    # A value on the border between two steps may fall on either side.
    assert np.quantile(np.abs(answer - wanted), 0.99) < 1e-5
    assert np.abs(answer - wanted).max() < 0.2 * np.abs(exact - wanted).max() + 0.02
    assert np.abs(exact - wanted).max() > 1e-4  # quantising does something


def test_no_pair_between_a_convolution_and_its_activation_or_addition() -> None:
    model = quantized_model(every_kind(), RANGES, skips=True)
    users: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)
    kinds = {output: node.op_type for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            assert "QuantizeLinear" not in users[node.output[0]]
            assert kinds[node.input[0]] == kinds[node.input[1]] == "DequantizeLinear"
            assert node.input[2].endswith(".bias")  # float, as it was


def test_a_tensor_read_by_several_is_quantised_once() -> None:
    model = quantized_model(every_kind(), RANGES, skips=True)
    quantised = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert sorted(quantised) == sorted(RANGES.keys() - {"r2.out"})  # the addition's other input is fused


def test_skip_is_the_input_that_the_last_convolution_does_not_make() -> None:
    assert skip_inputs(every_kind()) == {"residual": ("stem_relu.out", "pointwise")}
    plain = quantized_model(every_kind(), RANGES)
    assert inputs_of(plain, "residual") == ["r2.out", "stem_relu.out"]
    skipping = quantized_model(every_kind(), RANGES, skips=True)
    assert inputs_of(skipping, "residual") == ["r2.out", "stem_relu.out.dequantized"]
    kept = quantized_model(every_kind(), RANGES, skips=True, keep=["pointwise"])
    assert inputs_of(kept, "residual") == ["r2.out", "stem_relu.out"]


def test_a_concat_is_quantised_behind_itself() -> None:
    assert inputs_of(quantized_model(every_kind(), RANGES), "cat") == ["up.out", "stem_relu.out"]
    assert inputs_of(quantized_model(every_kind(), RANGES), "head")[0] == "cat.out.dequantized"


def test_kept_layers_and_float32_nodes_are_left_as_they_were() -> None:
    model = quantized_model(every_kind(), RANGES, keep=["half"], float32=["up", "residual"], skips=True)
    for name in ("half", "up", "residual"):
        assert inputs_of(model, name) == inputs_of(every_kind(), name)
    assert "network.half.weight.int8" not in constants(model)
    assert "network.stem.weight" not in constants(model)  # only its int8 form is stored


def test_grouped_transposed_convolution_has_one_scale() -> None:
    g = Graph()
    x = g.conv(g.first, "stem", (4, 3, 1, 1))
    x = g.conv(x, "grouped", (4, 2, 1, 1), kind="ConvTranspose", group=2)
    model = g.model(g.conv(x, "head", (1, 4, 1, 1)))
    quantised = quantized_model(model, dict.fromkeys(["scaling.out", "stem.out", "grouped.out"], 3.0))
    onnx.checker.check_model(quantised, full_check=True)
    assert constants(quantised)["network.grouped.weight.scale"].shape == ()
    assert np.abs(SPEC.runner(quantised)(frames(1)) - SPEC.runner(model)(frames(1))).max() < 0.1


def test_scales_are_halfs_and_never_cut_a_limit_off() -> None:
    limits = np.concatenate([np.geomspace(1e-6, 6e4, 500), [0.0]])
    scales = half_scales(limits)
    assert (scales.astype(np.float16).astype(np.float32) == scales).all()
    assert (scales[:-1] * 127 >= limits[:-1] * (1 - 1e-6)).all()
    normal = limits[:-1] > 127 * 6.2e-5
    assert (scales[:-1][normal] * 127 <= limits[:-1][normal] * 1.001).all()
    assert scales[-1] == 1


def test_rest_in_half_takes_the_scales_along(tmp_path: Path) -> None:
    quantised = quantized_model(every_kind(), RANGES, skips=True)
    half = half_model(quantised)
    onnx.checker.check_model(half, full_check=True)
    stored = constants(half)
    for name in ("network.up.weight.scale", "stem_relu.out.scale"):
        assert stored[name].dtype == np.float16
        assert (stored[name] == constants(quantised)[name]).all()  # the very grid
    kinds = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    assert kinds["stem_relu.out.quantized"] == TensorProto.INT8
    assert kinds["stem_relu.out.dequantized"] == kinds["half.out"] == TensorProto.FLOAT16
    # Pairs and islands of float32 keep apart: one Cast into half before the first pair, one out of it at the end.
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 4
    assert kinds["scaling.out.dequantized"] == TensorProto.FLOAT16
    assert np.abs(SPEC.runner(half)(frames(1)) - SPEC.runner(quantised)(frames(1))).max() < 0.02


@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_nvidias_parser_sees_the_same_pairs(tmp_path: Path, rest: str) -> None:
    model = quantized_model(every_kind(), RANGES, skips=True)
    path = tmp_path / "int8.onnx"
    onnx.save(half_model(model) if rest == "fp16" else model, path)
    view = nvidia_view(path)
    assert view.kinds == {"frame": "UINT8", "saliency": "UINT8"}
    assert view.layer_kinds.count("QUANTIZE") == 6
    assert view.layer_kinds.count("DEQUANTIZE") == 6 + 6
    assert view.layer_kinds.count("CONVOLUTION") == 5
    assert view.layer_kinds.count("DECONVOLUTION") == 1
