"""Seeded faults: each is planted in a really trained network's engine, and the gate that is named must catch it.

The control of every case is the same engine without the fault. `SDI_SENSITIVITY=1 pytest -s -k small
tests/parity/test_it_bites.py` measures how small a fault may get before the gates let it pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from rich.table import Table

import faults
import sdi.export.exporter as exporter
from damage import save_engine
from sdi.calibration.picture_set import SET_FILE, read_calibration_set
from sdi.calibration.ranges import RangeSource, cached_ranges, measure_ranges
from sdi.calibration.selection import choose_calibration_set
from sdi.export.exporter import ExportRequest, ExportSource, Precision, export_onnx
from sdi.export.half import half_model
from sdi.export.int8 import Int8Options
from sdi.export.parity.gate import GateRequest, run_gate
from sdi.export.parity.pictures import Pictures
from sdi.export.precision import converted_model, out_of_range
from sdi.export.quantize import quantizable_layers, quantized_model, skip_inputs
from sdi.export.runners import InputSpec
from sdi.export.traced_model import TracedModel
from sdi.runtime.common.errors import DeviceError, GateError, InputError
from sdi.runtime.common.images import write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.engine.golden import golden_record
from sdi.runtime.engine.manifest import Manifest, manifest_path, read_manifest, write_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import find_engine
from sdi.train.checkpoint import Checkpoint, load_checkpoint, load_network, save_checkpoint, shipped_checkpoint
from sdi.train.engine_module import EngineModule
from sdi.train.models import model_spec
from support import RecordedProgress

PARITY, SELF_TEST = "sdi-parity", "self-test"
SPEC = InputSpec((256, 256))

Plant = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class Engines:
    """The engines of one trained network, unharmed: graphs and manifests by precision, and a place for harmed ones."""

    checkpoint: Path
    graphs: dict[str, onnx.ModelProto]
    manifests: dict[str, Manifest]
    folder: Path

    def harmed(self, precision: str, plant: Plant) -> Path:
        """A file with the fault, and with the manifest that an export unaware of it would have written."""
        return self.saved(precision, self.graph(precision, plant))

    def graph(self, precision: str, plant: Plant) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.graphs[precision])
        plant(model)
        return model

    def saved(self, precision: str, model: onnx.ModelProto) -> Path:
        return save_engine(self.folder / f"minet-{precision}.onnx", model, self.manifests[precision], precision)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """The small network that comes with sdi in three precisions, made from its one traced graph."""
    source, checkpoint = find_engine("minet"), shipped_checkpoint("minet")
    manifest, traced = read_manifest(source), onnx.load(source)
    assert manifest is not None
    assert checkpoint is not None
    tensors = {layer.tensor for layer in quantizable_layers(traced)} | {t for t, _ in skip_inputs(traced).values()}
    ranges = measure_ranges(traced, (SPEC.frame(image)[None] for _, image in Pictures(None)), tensors=tensors)
    graphs = {
        "fp32": traced,
        "fp16": half_model(traced),
        "int8": half_model(quantized_model(traced, ranges, skips=True)),
    }
    manifests = {}
    for precision, model in graphs.items():
        # As sdi-export records it: PyTorch's answer, and of INT8 the file's own.
        tolerance = exporter.GOLDEN_TOLERANCES[precision]
        golden = {**manifest.golden, "tolerance": tolerance}
        if precision == "int8":
            answers = exporter.golden_answers(SPEC.runner(model), (256, 256))
            golden = golden_record((256, 256), answers, tolerance)
        manifests[precision] = replace(manifest, golden=golden)
    return Engines(checkpoint, graphs, manifests, tmp_path_factory.mktemp("engines"))


def traced(model: onnx.ModelProto) -> TracedModel:
    return TracedModel(model, "minet", trained().preprocessing.to_dict(), None, SPEC)


def caught_by(engine: Path, checkpoint: Path) -> dict[str, str]:
    """What each gate that judges a file says against it; empty when all let it pass."""
    said = {}
    (runner,) = run_gate(GateRequest(checkpoint, [engine]), Pictures(None)).candidates
    if not runner.passed:
        said[PARITY] = ", ".join(row.metric for row in runner.failures)
    with open_engine(engine, device="cpu") as opened:
        try:
            opened.self_test()
        except DeviceError as error:
            said[SELF_TEST] = str(error)
    return said


def preprocessing() -> tuple[float, float]:
    """Mean and std of the network's own preprocessing."""
    how = model_spec("minet").preprocessing
    return how.mean[0], how.std[0]


def batch_statistics(model: onnx.ModelProto) -> None:
    weights = trained().weights
    faults.keep_batch_statistics(model, weights, normed_layers(model, weights))


def normed_layers(model: onnx.ModelProto, weights: dict[str, torch.Tensor]) -> list[str]:
    """Convolutions that a batch norm was folded into: `encoder.0.0`, whose norm is `encoder.0.1`."""
    names = [layer.name for layer in quantizable_layers(model)]
    return [name for name in names if f"{faults.norm_of(name)}.running_mean" in weights]


def trained() -> Checkpoint:
    path = shipped_checkpoint("minet")
    assert path is not None
    return load_checkpoint(path)


drop_middle_bias = partial(faults.drop_bias, layer="encoder.2.2.scales.1.0")
stretch_levels = partial(faults.stretch, of="levels")  # behind the probabilities
ALL = ("fp32", "fp16", "int8")
BOTH = {PARITY: "", SELF_TEST: ""}
# (fault, how it is planted, precisions, gates that must catch it and the metric by which they do)
PLANTED: list[tuple[str, Plant, tuple[str, ...], dict[str, str]]] = [
    # Steel is gray, so no picture of it tells: a golden picture has colours.
    ("BGR taken for RGB", faults.swap_channels, ALL, {SELF_TEST: ""}),
    ("mean and std swapped", lambda m: faults.swap_mean_and_std(m, *preprocessing()), ALL, BOTH),
    ("resize with other corners", faults.move_corners, ("fp32", "fp16"), BOTH),
    ("resize with other corners", faults.move_corners, ("int8",), {SELF_TEST: ""}),  # eight bits may do as much
    # Of this network it is a few gray levels: less than what INT8 costs.
    ("a head without its bias", partial(faults.drop_bias, layer="heads.0.1"), ("fp32", "fp16"), BOTH),
    ("one layer of 110 without its bias", drop_middle_bias, ("fp32", "fp16"), BOTH),
    ("one layer of 110 without its bias", drop_middle_bias, ("int8",), {SELF_TEST: ""}),
    ("batch norm left in training mode", batch_statistics, ("fp32",), BOTH),
    ("output compressed by 20 %", faults.compress, ALL, {PARITY: "saturation", SELF_TEST: ""}),
    # One golden answer of a network this sure goes from black to white, and is the same stretched; the other is dark.
    ("map stretched to min..max", faults.stretch, ALL, {PARITY: "peak", SELF_TEST: ""}),
    ("gray levels stretched to min..max", stretch_levels, ALL, {PARITY: "rounding", SELF_TEST: ""}),
    ("height and width transposed", faults.transpose_picture, ALL, BOTH),
    ("INT8 ranges a quarter of the calibrated", partial(faults.quantise_otherwise, factor=1 / 4), ("int8",), BOTH),
    ("INT8 ranges 16 times the calibrated", partial(faults.quantise_otherwise, factor=16), ("int8",), BOTH),
    ("INT8 ranges twice the calibrated", partial(faults.quantise_otherwise, factor=2), ("int8",), {SELF_TEST: ""}),
]
CASES = [
    pytest.param(precision, plant, gates, id=f"{name}-{precision}-{'+'.join(sorted(gates))}")
    for name, plant, precisions, gates in PLANTED
    for precision in precisions
]


@pytest.mark.parametrize("precision", ALL)
def test_the_unharmed_engine_passes_every_gate(engines: Engines, precision: Precision) -> None:
    assert caught_by(engines.harmed(precision, lambda model: None), engines.checkpoint) == {}


@pytest.mark.parametrize(("precision", "plant", "gates"), CASES)
def test_fault_in_an_engine_is_caught(
    engines: Engines, precision: Precision, plant: Plant, gates: dict[str, str]
) -> None:
    said = caught_by(engines.harmed(precision, plant), engines.checkpoint)
    for gate, metric in gates.items():
        assert metric in said[gate]


def test_the_planted_batch_statistics_are_pytorchs(engines: Engines) -> None:
    """The oracle of that fault: PyTorch, with those batch norms left in training mode."""
    network, how = load_network(trained()), model_spec("minet").preprocessing
    graph = engines.graph("fp32", batch_statistics)
    layers = set(normed_layers(engines.graphs["fp32"], trained().weights))
    for layer in layers:
        network.get_submodule(faults.norm_of(layer)).train()
    frame = SPEC.frame(draw_strip("patch", 1)[0])[None]
    with torch.inference_mode():
        wanted = EngineModule(network, how, (256, 256), raw=True)(torch.from_numpy(frame)).numpy()
    assert len(layers) > 100
    np.testing.assert_allclose(SPEC.runner(graph)(frame), wanted, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration set of drawn strip."""
    folder = tmp_path_factory.mktemp("calibration")
    for kind in DEFECTS:
        for seed in range(2):
            write_image(folder / f"{kind}_{seed}.png", draw_strip(kind, seed)[0])
    choose_calibration_set(folder, 4).write(folder / SET_FILE)
    return folder


@pytest.mark.parametrize(
    ("precision", "plant"),
    [("fp32", faults.swap_channels), ("int8", faults.swap_channels), ("int8", drop_middle_bias)],
    ids=["BGR taken for RGB-fp32", "BGR taken for RGB-int8", "one layer of 110 without its bias-int8"],
)
def test_nothing_is_kept_of_a_graph_that_was_traced_wrongly(
    engines: Engines,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    plant: Plant,
) -> None:
    """The fault is in what sdi-export traces; in INT8 too it is found in the float32 graph."""
    options = Int8Options(calibration, ranges="minmax", keep=()) if precision == "int8" else None
    request = ExportRequest(precision, int8=options)
    for harmed in (True, False):
        model = engines.graph("fp32", plant if harmed else lambda model: None)
        monkeypatch.setattr(exporter, "onnx_from_module", lambda module, shape, model=model: model)
        export = partial(export_onnx, ExportSource(trained(), "0" * 64), request, tmp_path / "out")
        if harmed:
            with pytest.raises(GateError, match="nothing was kept"):
                export()
            assert not list((tmp_path / "out").iterdir())
        else:
            with open_engine(export().path, device="cpu") as engine:
                engine.self_test()


def test_overflow_of_half_is_found_in_float32_ranges(engines: Engines) -> None:
    """Two layers whose product is what it was, while what lies between them is 100,000 times as great."""
    parts = ("encoder.1.0.0.0", "encoder.1.0.1.0")
    harmed = engines.graph("fp32", partial(faults.overflow, first=parts[0], second=parts[1], factor=1e5))
    nodes = {node.output[0]: node.name for node in harmed.graph.node}
    first, second = (next(n for n in harmed.graph.node if f"network.{part}.weight" in n.input) for part in parts)
    assert out_of_range(traced(engines.graphs["fp32"]), Pictures(None)) == {}
    assert set(out_of_range(traced(harmed), Pictures(None))) == {first.name, nodes[second.input[0]], second.name}
    # Float32 itself is as good as it was, so is half where the gate was listened to, and not where it was not.
    assert caught_by(engines.saved("fp32", harmed), engines.checkpoint) == {}
    converted = converted_model(traced(harmed), "fp16", Pictures(None))
    assert "3 nodes stay in float32" in converted.notes[0]
    assert caught_by(engines.saved("fp16", converted.model), engines.checkpoint) == {}
    assert set(caught_by(engines.saved("fp16", half_model(harmed)), engines.checkpoint)) == {PARITY, SELF_TEST}


def test_ranges_of_another_network_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    """The calibration's fingerprint: ranges in the cache are those of these pictures, weights, graph and method."""
    source = RangeSource("pictures", "preprocessing", "weights", "graph", "mse")
    cache, progress = tmp_path / "ranges.json", RecordedProgress()
    assert cached_ranges(cache, replace(source, weights="other"), lambda: {"x": 9.0}, progress) == {"x": 9.0}
    assert cached_ranges(cache, source, lambda: {"x": 1.0}, progress) == {"x": 1.0}
    assert "stale: changed since are the weights" in progress.lines[-1]
    assert cached_ranges(cache, source, lambda: pytest.fail("measured again"), progress) == {"x": 1.0}


def test_other_pictures_than_were_chosen_calibrate_nothing(calibration: Path, tmp_path: Path) -> None:
    chosen = read_calibration_set(calibration)
    moved = replace(chosen, images=str(tmp_path))
    for picture in chosen.pictures:
        (tmp_path / picture.file).write_bytes((calibration / picture.file).read_bytes())
    moved.verify()
    write_image(tmp_path / chosen.pictures[0].file, draw_strip("clean", 9)[0])
    with pytest.raises(InputError, match="has changed"):
        moved.verify()


@pytest.fixture(scope="module")
def other_training() -> Checkpoint:
    """The checkpoint after one more step of training, a large one."""
    checkpoint = trained()
    network = load_network(checkpoint).train().requires_grad_(True)
    images, masks = zip(*(draw_strip(kind, 0, (256, 256)) for kind in DEFECTS), strict=True)
    x = EngineModule(network, checkpoint.preprocessing, (256, 256)).normalise(torch.from_numpy(np.stack(images)))
    truth = torch.from_numpy(np.stack(masks)[:, None] / 255).float()
    model_spec("minet").loss(network(x), truth).backward()
    torch.optim.Adam(network.parameters(), lr=1e-2).step()
    return replace(checkpoint, weights={name: t.detach() for name, t in network.state_dict().items()})


def towards(other: Checkpoint, share: float, folder: Path) -> Path:
    """A checkpoint whose weights lie between the trained ones and another training's."""
    own = trained()
    mixed = {
        name: tensor + share * (other.weights[name] - tensor) if tensor.is_floating_point() else tensor
        for name, tensor in own.weights.items()
    }
    path = folder / "other.pt"
    save_checkpoint(path, replace(own, weights=mixed))
    return path


@pytest.mark.parametrize("precision", ALL)
def test_weights_of_another_checkpoint_are_caught(
    engines: Engines, other_training: Checkpoint, tmp_path: Path, precision: Precision
) -> None:
    engine = engines.harmed(precision, lambda model: None)
    (runner,) = run_gate(GateRequest(towards(other_training, 1, tmp_path), [engine]), Pictures(None)).candidates
    assert not runner.passed
    assert any("exported from another checkpoint" in note for note in runner.notes)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, engine) of the other trained network, exported for a camera of 160 x 200: it resizes inside."""
    checkpoint = shipped_checkpoint("tsernet-lite")
    assert checkpoint is not None
    request, folder = ExportRequest(frame_hw=(160, 200)), tmp_path_factory.mktemp("lite")
    return checkpoint, export_onnx(ExportSource(load_checkpoint(checkpoint), "0" * 64), request, folder).path


def copied(engine: Path, folder: Path, plant: Plant = lambda model: None, **fields: object) -> Path:
    """The engine with a fault, and with what its manifest says replaced."""
    model, manifest = onnx.load(engine), read_manifest(engine)
    assert manifest is not None
    plant(model)
    path = save_engine(folder / engine.name, model, manifest, "fp32")
    found = read_manifest(path)
    assert found is not None
    write_manifest(path, replace(found, **fields))  # type: ignore[arg-type]
    return path


def test_other_corners_where_the_graph_resizes_are_caught(lite: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, engine = lite
    assert caught_by(engine, checkpoint) == {}
    for part in ("first", "last"):
        harmed = copied(engine, tmp_path, partial(faults.move_corners, part=part))
        assert set(caught_by(harmed, checkpoint)) >= {PARITY}


def test_height_and_width_exchanged_in_a_manifest_are_caught(lite: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, engine = lite
    with pytest.raises(InputError, match=r"takes .*\[1, 160, 200, 3\].*its manifest says"):
        caught_by(copied(engine, tmp_path, frame_hw=(200, 160)), checkpoint)


def test_an_engine_of_another_network_is_caught(engines: Engines, lite: tuple[Path, Path], tmp_path: Path) -> None:
    """By its manifest; with the right engine's manifest, by its bytes; with a forged manifest, by its maps."""
    _, other = lite
    with pytest.raises(InputError, match="holds minet, not tsernet-lite"):
        caught_by(other, engines.checkpoint)
    right = engines.harmed("fp32", lambda model: None)
    taken = tmp_path / right.name
    taken.write_bytes(other.read_bytes())
    manifest_path(taken).write_bytes(manifest_path(right).read_bytes())
    for gate in (partial(caught_by, checkpoint=engines.checkpoint), open_engine):
        with pytest.raises(InputError, match="bytes, its manifest says"):
            gate(taken)
    preprocessing = trained().preprocessing.to_dict()
    forged = copied(other, tmp_path, model="minet", family="minet", preprocessing=preprocessing)
    assert PARITY in caught_by(forged, engines.checkpoint)


# (fault, its full size in words, planted by a share of it)
SCALED: list[tuple[str, str, Callable[[onnx.ModelProto, float], None]]] = [
    ("mean and std swapped", "mean and std", lambda m, share: faults.swap_mean_and_std(m, *preprocessing(), share)),
    ("a layer's bias dropped", "the bias", lambda m, share: drop_middle_bias(m, share=share)),
    ("a head's bias dropped", "the bias", lambda m, share: faults.drop_bias(m, "heads.0.1", share)),
    ("output compressed", "20 %", faults.compress),
    ("map stretched to min..max", "all the way", faults.stretch),
]


@pytest.mark.skipif("SDI_SENSITIVITY" not in os.environ, reason="a measurement of minutes: set SDI_SENSITIVITY=1")
def test_how_small_a_fault_may_be(engines: Engines, other_training: Checkpoint, tmp_path: Path) -> None:
    """Quarters each fault until both gates let it pass, and prints the smallest share that each still caught."""
    table = Table("fault", "whole", "precision", f"{PARITY} catches", f"{SELF_TEST} catches")
    named = [(fault, whole, partial(_planted, engines, plant)) for fault, whole, plant in SCALED]
    named.append(("weights of another checkpoint", "a step", partial(_beside, engines, other_training, tmp_path)))
    for fault, whole, judged in named:
        for precision in ALL:
            least: dict[str, float] = {}
            for share in 0.25 ** np.arange(9):
                caught = judged(precision, float(share))
                least |= dict.fromkeys(caught, share)
                if not caught:
                    break
            assert least or precision == "int8"
            shown = (f"{least[gate]:.2g}" if gate in least else "-" for gate in (PARITY, SELF_TEST))
            table.add_row(fault, whole, precision, *shown)
    Console(width=120).print(table)


def _planted(
    engines: Engines, plant: Callable[[onnx.ModelProto, float], None], precision: str, share: float
) -> dict[str, str]:
    return caught_by(engines.harmed(precision, lambda model: plant(model, share)), engines.checkpoint)


def _beside(engines: Engines, other: Checkpoint, folder: Path, precision: str, share: float) -> dict[str, str]:
    return caught_by(engines.harmed(precision, lambda model: None), towards(other, share, folder))
