"""Half precision: what stays float32, and overflow that ONNX Runtime's own half would hide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphs import every_kind, frames, traced
from sdi.export.half import half_model, out_of_half_range
from sdi.export.onnx_model import float32_nodes
from sdi.export.precision import converted_model, out_of_range
from sdi.export.runners import InputSpec
from sdi.runtime.common.errors import InputError, SdiError
from support import RecordedProgress, nvidia_view

SPEC = InputSpec((16, 16))
ALWAYS = ("scaling", "sigmoid", "to_levels", "clip", "round")


def pictures(count: int = 2) -> list[tuple[str, np.ndarray]]:
    return [(str(i), frame) for i, frame in enumerate(frames(count))]


def scale_weights(model: onnx.ModelProto, layer: str, factor: float, parts: Sequence[str] = ("weight", "bias")) -> None:
    for constant in model.graph.initializer:
        if constant.name in [f"network.{layer}.{part}" for part in parts]:
            array = numpy_helper.to_array(constant) * np.float32(factor)
            constant.CopyFrom(numpy_helper.from_array(array, constant.name))


def overflowing(factor: float = 1e6) -> onnx.ModelProto:
    """The same answers as `every_kind`, by way of values beyond half's range: ReLU passes factors on."""
    model = every_kind()
    scale_weights(model, "depthwise", factor)
    scale_weights(model, "pointwise", 1 / factor, ["weight"])
    return model


def in_true_half(model: onnx.ModelProto) -> np.ndarray:
    """The answer by ONNX's reference, which computes half in half."""
    with np.errstate(over="ignore", invalid="ignore"):
        (answer,) = ReferenceEvaluator(model).run(None, {"frame": frames(1)})
    return np.asarray(answer)


def test_edges_stay_float32_and_the_rest_is_half() -> None:
    model = every_kind()
    half = half_model(model)
    onnx.checker.check_model(half, full_check=True)
    assert float32_nodes(half) == ALWAYS
    kinds = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    for name in ("stem.out", "depthwise.out", "residual.out", "up.out", "cat.out", "head.out"):
        assert kinds[name] == TensorProto.FLOAT16
    weights = [c for c in half.graph.initializer if c.name.startswith("network.")]
    assert len(weights) == 12
    assert {c.data_type for c in weights} == {TensorProto.FLOAT16}
    # One Cast on the way in, one on the way out, besides those of the I/O contract.
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 4
    assert {v.type.tensor_type.elem_type for v in model.graph.value_info} == {TensorProto.FLOAT}  # left as it was


def test_averages_of_neighbours_stay_float32() -> None:
    """ONNX Runtime refuses a whole file with half ones on ARM; its neighbours are half all the same."""
    model = every_kind()
    pool = helper.make_node(
        "AveragePool", ["stem.out"], ["pool.out"], "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    )
    position = next(i for i, node in enumerate(model.graph.node) if "stem.out" in node.input)
    for node in model.graph.node:
        node.input[:] = ["pool.out" if name == "stem.out" else name for name in node.input]
    model.graph.node.insert(position, pool)
    value = next(v for v in model.graph.value_info if v.name == "stem.out")
    model.graph.value_info.add().CopyFrom(value)
    model.graph.value_info[-1].name = "pool.out"
    half = half_model(model)
    onnx.checker.check_model(half, full_check=True)
    assert set(float32_nodes(half)) == {*ALWAYS, "pool"}
    kinds = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    assert kinds["stem.out"] == TensorProto.FLOAT16
    assert kinds["pool.out"] == TensorProto.FLOAT
    assert np.abs(SPEC.runner(model)(frames(1)) - SPEC.runner(half)(frames(1))).max() < 5e-3


def test_half_answers_nearly_as_float32() -> None:
    model = every_kind()
    runs = [SPEC.runner(m)(frames(1)) for m in (model, half_model(model))]
    assert runs[0].std() > 0.01
    assert 0 < np.abs(runs[0] - runs[1]).max() < 5e-3


def test_constant_that_both_sides_use_is_there_in_both_types() -> None:
    model = every_kind()
    half = half_model(model, ["depthwise", "r1"])
    onnx.checker.check_model(half, full_check=True)
    # `head` in half and `sigmoid` in float32 share nothing; make them share the levels' 255.
    mul = next(node for node in model.graph.node if node.name == "residual")
    mul.input[1] = "levels"
    both = half_model(model)
    onnx.checker.check_model(both, full_check=True)
    assert {c.data_type for c in both.graph.initializer if c.name.startswith("levels")} == {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
    }


def test_planted_overflow_is_named_and_stays_float32() -> None:
    plain, model = every_kind(), overflowing()
    wanted = SPEC.runner(plain)(frames(1))[0] * 255
    np.testing.assert_allclose(SPEC.runner(model)(frames(1))[0] * 255, wanted, atol=0.01)
    wide = out_of_range(traced(model), pictures())
    assert list(wide)[:1] == ["depthwise"]
    assert "pointwise" in wide  # it takes what is too great
    assert set(wide) == {"depthwise", "r1", "pointwise"}
    assert "half ends at 65504" in wide["depthwise"]
    # Without the gate half is wrong, and only true half shows it.
    assert np.abs(in_true_half(half_model(model))[0] - wanted).max() > 10
    gated = half_model(model, wide)
    onnx.checker.check_model(gated, full_check=True)
    assert np.abs(in_true_half(gated)[0] - wanted).max() < 2
    assert np.abs(SPEC.runner(gated)(frames(1))[0] * 255 - wanted).max() < 2


def test_export_says_which_layers_stay_float32() -> None:
    progress = RecordedProgress()
    converted = converted_model(traced(overflowing()), "fp16", pictures(), progress=progress)
    assert set(converted.float32) == {*ALWAYS, "depthwise", "r1", "pointwise"}
    (line,) = progress.lines
    assert line.startswith(converted.notes[0])
    assert "first at depthwise (values up to" in line
    assert line.endswith("3 nodes stay in float32: depthwise, r1, pointwise")


def test_nothing_is_logged_where_half_holds_all() -> None:
    progress = RecordedProgress()
    converted = converted_model(traced(every_kind()), "fp16", pictures(), progress=progress)
    assert (converted.notes, progress.lines) == ((), [])


@pytest.mark.parametrize(("peak", "found"), [(32_000.0, []), (40_000.0, ["stem", "stem_relu"])])
def test_headroom_is_a_factor_of_two(peak: float, found: list[str]) -> None:
    assert [name for name, _ in out_of_half_range(every_kind(), {"stem.out": peak})] == found


def test_weights_out_of_range_are_found_without_a_picture() -> None:
    model = every_kind()
    scale_weights(model, "half", 1e6)
    assert [name for name, _ in out_of_half_range(model, {})] == ["half"]


def test_values_that_are_no_number_in_float32_are_refused() -> None:
    model = every_kind()
    scale_weights(model, "half", float("nan"))
    with pytest.raises(InputError, match="holds values that are not finite in float32; the weights are broken"):
        out_of_range(traced(model), pictures())


def test_graph_without_types_is_refused() -> None:
    model = every_kind()
    del model.graph.value_info[:]
    with pytest.raises(SdiError, match="does not give the type of"):
        half_model(model)


def test_nvidias_parser_reads_a_mixed_graph(tmp_path: Path) -> None:
    path = tmp_path / "mixed.onnx"
    model = overflowing()
    onnx.save(half_model(model, out_of_range(traced(model), pictures())), path)
    view = nvidia_view(path)
    assert view.kinds == {"frame": "UINT8", "saliency": "UINT8"}
    assert view.layer_kinds.count("CONVOLUTION") == 5
