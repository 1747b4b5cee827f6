"""INT8 under the condition that accuracy holds: what is kept, what is logged, and what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sdi.export.exporter as exporter
from graphs import every_kind, frames, traced
from sdi.calibration.picture_set import SET_FILE, read_calibration_set
from sdi.calibration.selection import choose_calibration_set
from sdi.export.exporter import ExportRequest, ExportSource
from sdi.export.int8 import Int8Options, Quantisation, int8_model
from sdi.export.int8_report import int8_report_html, write_int8_report
from sdi.export.parity.tolerances import TOLERANCES
from sdi.export.runners import InputSpec
from sdi.runtime.common.errors import GateError, InputError
from sdi.runtime.common.images import write_image
from sdi.runtime.common.progress import SILENT, Progress
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import default_engine
from sdi.train.checkpoint import save_checkpoint
from support import RecordedProgress, command, lively_checkpoint, nvidia_view

SPEC = InputSpec((16, 16))


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: pictures and masks, none of them for testing."""
    folder = tmp_path_factory.mktemp("strips")
    for part in ("Source Images", "Ground truth"):
        (folder / part).mkdir()
    for kind in DEFECTS:
        for seed in range(6):
            image, mask = draw_strip(kind, seed, (64, 64))
            write_image(folder / "Source Images" / f"{kind}_{seed}.png", image)
            write_image(folder / "Ground truth" / f"{kind}_{seed}.png", mask)
    return folder


@pytest.fixture
def calibration(strips: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "calib"
    folder.mkdir()
    choose_calibration_set(strips / "Source Images", 6).write(folder / SET_FILE)
    return folder


def quantise(
    model: onnx.ModelProto,
    options: Int8Options,
    progress: Progress = SILENT,
    float32: Mapping[str, str] | None = None,
) -> tuple[onnx.ModelProto, Quantisation]:
    return int8_model(traced(model), options, float32, progress)


def lopsided() -> onnx.ModelProto:
    """One channel that `pointwise` takes is a thousand times the others, so eight bits for all leave those nothing."""
    model = every_kind()
    for constant in model.graph.initializer:
        array = numpy_helper.to_array(constant).copy()
        if constant.name == "network.depthwise.bias":
            array[0] = 1000
        elif constant.name == "network.pointwise.weight":
            array *= 3
            array[:, 0] /= 1000
        constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    return model


def test_all_layers_are_quantised_where_the_bound_holds(calibration: Path) -> None:
    progress = RecordedProgress()
    model, record = quantise(every_kind(), Int8Options(calibration, max_drop=0.05), progress)
    onnx.checker.check_model(model, full_check=True)
    assert (record.layers, record.kept, record.sensitivity) == (6, {}, [])
    assert 0 < record.accuracy["drop"] <= 0.05
    assert record.accuracy["measure"] == "map difference"
    assert record.accuracy["tried"] == [{"kept": 0, "drop": record.accuracy["drop"]}]
    assert any(text.startswith("6 of 6 layers: map difference loses") for text in progress.lines)
    moved = np.abs(SPEC.runner(model)(frames(1)) - SPEC.runner(every_kind())(frames(1)))
    assert 0 < moved.mean() < 0.05


def test_the_layer_that_loses_most_is_kept_and_named(calibration: Path) -> None:
    free = quantise(lopsided(), Int8Options(calibration, max_drop=1.0))[1].accuracy["drop"]
    progress = RecordedProgress()
    model, record = quantise(lopsided(), Int8Options(calibration, max_drop=free / 3), progress)
    assert list(record.kept) == ["pointwise"]
    assert record.accuracy["drop"] <= free / 3
    assert record.sensitivity[0]["layer"] == "pointwise"
    assert sorted(item["layer"] for item in record.sensitivity) == sorted(
        ["stem", "depthwise", "pointwise", "half", "up", "head"]
    )
    assert "kept in high precision: pointwise (among the 1 most sensitive)" in progress.lines
    assert "network.pointwise.weight.int8" not in {c.name for c in model.graph.initializer}
    assert "r1.out" not in record.ranges  # what is not quantised has no range


def test_a_bound_that_cannot_be_held_fails(calibration: Path) -> None:
    with pytest.raises(GateError, match=r"loses more map difference than 0 even with 3 of 6 layers .*--max-drop"):
        quantise(every_kind(), Int8Options(calibration, max_drop=0.0))


def test_a_failed_bound_writes_nothing(calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "onnx_from_module", lambda module, shape: every_kind())
    request = ExportRequest("int8", int8=Int8Options(calibration, max_drop=0.0))
    out = tmp_path / "out"
    with pytest.raises(GateError, match="nothing was kept"):
        exporter.export_onnx(ExportSource(lively_checkpoint("minet", 16), "0" * 64), request, out)
    assert list(out.iterdir()) == []


def test_s_measure_is_what_counts_where_there_are_masks(calibration: Path, strips: Path) -> None:
    _, record = quantise(every_kind(), Int8Options(calibration, validation=strips, max_drop=0.5))
    calibrated = {picture.file for picture in read_calibration_set(calibration).pictures}
    assert record.accuracy["measure"] == "S-measure"
    assert record.accuracy["pictures"] == 18 - len(calibrated)  # those that calibrated would flatter
    scores = record.accuracy["scores"]
    assert record.accuracy["drop"] == pytest.approx(scores["float32"] - scores["int8"])
    masks = Int8Options(calibration, validation=strips / "Source Images", masks=strips / "Ground truth", max_drop=0.5)
    assert quantise(every_kind(), masks)[1].accuracy["scores"] == scores


def test_layers_out_of_halfs_range_are_never_quantised(calibration: Path) -> None:
    reason = "values up to 1e+06, half ends at 65504"
    model, record = quantise(
        every_kind(), Int8Options(calibration, max_drop=0.5), float32={"depthwise": reason, "r1": reason}
    )
    assert record.kept == {"depthwise": reason}
    stored = {c.name: c.data_type for c in model.graph.initializer}
    assert stored["network.depthwise.weight"] == onnx.TensorProto.FLOAT
    assert stored["network.stem.weight.int8"] == onnx.TensorProto.INT8


def test_ranges_are_cached_beside_the_pictures(calibration: Path) -> None:
    progress = RecordedProgress()
    options = Int8Options(calibration, max_drop=0.5)
    first = quantise(every_kind(), options, progress)[1]
    assert "measuring ranges: none are cached" in progress.lines
    assert (calibration / "ranges-tiny-mse.json").is_file()
    progress.lines.clear()
    assert quantise(every_kind(), options, progress)[1] == first
    assert progress.lines[0].startswith("ranges from")
    progress.lines.clear()
    other = quantise(every_kind(seed=1), options, progress)[1]
    assert progress.lines[0] == (
        "measuring ranges: those in ranges-tiny-mse.json are stale: changed since are the graph (input size, or "
        "version of the exporter)"
    )
    assert other.fingerprint != first.fingerprint


def test_layers_given_are_kept_without_measuring(calibration: Path) -> None:
    model, record = quantise(every_kind(), Int8Options(calibration, rest="fp32", keep=("up", "head")))
    assert (record.kept, record.accuracy) == ({"up": "asked for", "head": "asked for"}, {})
    assert {c.data_type for c in model.graph.initializer if c.name == "network.up.weight"} == {onnx.TensorProto.FLOAT}


def test_a_changed_picture_is_refused(strips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "calib"
    folder.mkdir()
    chosen = choose_calibration_set(strips / "Source Images", 6)
    edited = replace(chosen, pictures=(replace(chosen.pictures[0], sha256="0" * 64), *chosen.pictures[1:]))
    edited.write(folder / SET_FILE)
    with pytest.raises(InputError, match=f"{chosen.pictures[0].file} has changed; choose again: sdi-calibrate"):
        quantise(every_kind(), Int8Options(folder))


def test_report_tells_what_was_kept_and_escapes_names(calibration: Path, tmp_path: Path) -> None:
    free = quantise(lopsided(), Int8Options(calibration, max_drop=1.0))[1].accuracy["drop"]
    record = quantise(lopsided(), Int8Options(calibration, max_drop=free / 3))[1]
    page = write_int8_report(tmp_path / "tiny-int8.onnx", record)
    text = page.read_text()
    assert page.name == "tiny-int8.report.html"
    assert text.count('<tr class="kept">') == 1
    for part in ("5 of 6 layers in INT8", "among the 1 most sensitive", "cat.out", f"{record.accuracy['drop']:.4f}"):
        assert part in text
    value = json.loads((tmp_path / "tiny-int8.report.json").read_text())
    assert value["kept"] == record.kept
    assert value["ranges"] == record.ranges
    assert "&lt;b&gt;" in int8_report_html("<b>", record)
    assert "Not ranked" in int8_report_html("x", replace(record, sensitivity=[]))


def test_names_and_forms_of_requests(calibration: Path) -> None:
    request = ExportRequest("int8", int8=Int8Options(calibration))
    assert request.file_name("minet") == "minet-int8.onnx"
    fp32 = ExportRequest("int8", int8=Int8Options(calibration, rest="fp32"))
    assert fp32.file_name("minet") == "minet-int8-restfp32.onnx"
    # What a builder that chooses precisions itself is given: Q/DQ on the very layers, the rest in float32.
    manifest = read_manifest(default_engine())
    assert manifest is not None
    form = request.float32_form(replace(manifest, quantisation={"kept": {"up": "among the 1 most sensitive"}}))
    assert form.int8 == Int8Options(calibration, rest="fp32", keep=("up",))
    assert ExportRequest("fp16").float32_form(manifest) == ExportRequest("fp32")


@pytest.mark.slow
def test_command_from_pictures_to_engine(strips: Path, tmp_path: Path) -> None:
    """Calibrate, export, check the file, its manifest, report and answers."""
    checkpoint = tmp_path / "best.pt"
    save_checkpoint(checkpoint, lively_checkpoint("minet", 64))
    calib, out = tmp_path / "calib", tmp_path / "out"
    chosen = command("sdi-calibrate", "--images", strips / "Source Images", "--count", "6", "-o", calib)
    assert chosen.returncode == 0, chosen.stderr
    arguments = ("--checkpoint", checkpoint, "--int8", "--calibration", calib, "--target", "onnx", "-o", out)
    done = command("sdi-export", *arguments, "--max-drop", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    path = out / "minet-int8.onnx"
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest.precision == "int8"
    assert manifest.layers == {"int8": {"layers": 110, "macs": 1.0}}
    assert manifest.quantisation["kept"] == {}
    assert manifest.quantisation["accuracy"]["measure"] == "map difference"
    cached = json.loads((calib / "ranges-minet-mse.json").read_text())
    assert manifest.calibration == cached["fingerprint"]
    assert json.loads(done.stdout)[0]["calibration"] == cached["fingerprint"]
    assert (out / "minet-int8.report.html").is_file()
    assert not TOLERANCES["int8"].bounds["iou"].value > manifest.parity["iou"]
    view = nvidia_view(path)
    assert view.shapes == {"frame": (1, 64, 64, 3), "saliency": (1, 64, 64)}
    assert view.layer_kinds.count("CONVOLUTION") == 110
    with open_engine(path) as engine:
        engine.self_test()
        answer = engine(draw_strip("patch", 9, (64, 64))[0])
    assert answer.std() > 1


def test_int8_without_a_calibration_set_says_how_to_make_one(tmp_path: Path) -> None:
    for arguments in (["--int8"], ["--calibration", tmp_path]):
        refused = command("sdi-export", "--model", "minet", *arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert "make one: sdi-calibrate --images PICTURES" in refused.stderr
