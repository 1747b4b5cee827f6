"""The layer at which an engine leaves PyTorch, found where it was planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from damage import Edit, negate
from sdi.export.parity.candidates import open_candidate
from sdi.export.parity.divergence import TracedNetwork, first_divergence, tensor_error
from sdi.export.parity.result import Divergence
from sdi.export.runners import InputSpec
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.strip import draw_strip
from sdi.train.checkpoint import load_checkpoint

Search = Callable[[Path], Divergence]
LAYER = "encoder.2.3.fuse.0"  # in the middle: 34 convolutions come before it


@pytest.fixture(scope="module")
def search(checkpoint: Path) -> Search:
    """Engine -> what `first_divergence` finds; the network is traced once."""
    loaded = load_checkpoint(checkpoint)
    network = TracedNetwork(loaded, InputSpec(loaded.input_hw))
    image = draw_strip("inclusion", 3)[0]
    return lambda engine: first_divergence(
        network, open_candidate(engine, load_checkpoint(checkpoint), checkpoint), "inclusion", image
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_layer_with_changed_weights_is_found(
    search: Search, engines: dict[str, Path], damaged: Callable[[Path, Edit], Path], precision: str
) -> None:
    found = search(damaged(engines[precision], negate(LAYER)))
    assert (found.layer, found.op) == (LAYER, "Conv")
    assert found.share > 0.8
    assert found.error > 10 * found.inputs_error or precision == "int8"
    examined = found.examined
    (row,) = (row for row in examined if row.tensor == found.tensor)
    assert (row.layer, row.op) == (LAYER, "Conv")
    assert len(examined) <= 2 + np.log2(found.layers)  # bisection, and the last layer
    before = [row.map for row in examined[: examined.index(row)]]
    assert max(before) < found.map / 2


def test_one_changed_weight_of_four_thousand_is_found(
    search: Search, engines: dict[str, Path], damaged: Callable[[Path, Edit], Path]
) -> None:
    def edit(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == f"network.{LAYER}.weight")
        values = np.frombuffer(tensor.raw_data, np.float32).copy()
        values[0] += 1
        tensor.raw_data = values.tobytes()

    assert search(damaged(engines["fp32"], edit)).layer == LAYER


def test_a_fault_behind_the_last_layer_is_found(
    search: Search, engines: dict[str, Path], damaged: Callable[[Path, Edit], Path]
) -> None:
    def compress(model: onnx.ModelProto) -> None:
        (node,) = (n for n in model.graph.node if "probability" in n.output)
        node.output[0] = "whole"
        index = list(model.graph.node).index(node) + 1
        model.graph.node.insert(index, helper.make_node("Mul", ["whole", "fraction"], ["probability"], name="compress"))
        model.graph.initializer.append(helper.make_tensor("fraction", 1, [], [0.8]))

    found = search(damaged(engines["fp32"], compress))
    assert (found.tensor, found.op) == ("probability", "Mul")
    assert found.share > 0.999


def test_equal_maps_need_no_search(search: Search, engines: dict[str, Path]) -> None:
    found = search(engines["fp32"])
    assert found.layer is None
    assert found.map < 1e-6
    assert len(found.examined) == 1


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_rounding_everywhere_is_no_layers_fault(search: Search, engines: dict[str, Path], precision: str) -> None:
    found = search(engines[precision])
    assert found.layer is None
    assert 0 < found.share < 0.25


def test_layers_named_otherwise_are_refused(
    search: Search, engines: dict[str, Path], damaged: Callable[[Path, Edit], Path]
) -> None:
    def rename(model: onnx.ModelProto) -> None:  # as an exporter does that counts one more convolution
        for node in model.graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name.startswith("conv2d_"):
                        names[i] = f"conv2d_{int(name.removeprefix('conv2d_')) + 1}"
        del model.graph.value_info[:]

    with pytest.raises(InputError, match="other names than this sdi gives them; export it again"):
        search(damaged(engines["fp32"], rename))


def test_the_worst_channel_decides() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(1, 8, 10, 10)).astype(np.float32)
    engine = reference.copy()
    assert tensor_error(reference, engine) == 0
    engine[:, 3] = 0
    norms = np.linalg.norm(reference[0].reshape(8, -1).astype(np.float64), axis=1)
    assert tensor_error(reference, engine) == pytest.approx(norms[3] / np.sqrt((norms**2).mean()))
    engine[:, 3] = np.nan
    assert tensor_error(reference, engine) == np.inf
    assert tensor_error(reference, engine[:, :4]) == np.inf


def test_silence_in_both_is_no_error() -> None:
    nothing = np.zeros((1, 4, 5, 5), np.float32)
    assert tensor_error(nothing, nothing) == 0
    assert tensor_error(nothing, nothing + 1e-3) == 1
