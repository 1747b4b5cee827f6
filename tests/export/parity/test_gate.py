"""The gate on a trained network: what it measures, what it refuses, and what it keeps of a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import onnx
import py_sod_metrics
import pytest
from onnx import helper

import sdi.export.parity.candidates as candidates
from damage import Edit, negate, save_engine
from sdi.export.onnx_model import PROBABILITY
from sdi.export.parity.evidence import difference_picture
from sdi.export.parity.gate import GateRequest, run_gate
from sdi.export.parity.metrics import METRICS
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.result import GateResult
from sdi.export.parity.tolerances import TOLERANCES
from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.images import read_gray, read_image, write_image
from sdi.runtime.common.strip import draw_strip
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.manifest import manifest_path, write_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import find_engine
from sdi.runtime.engine.tiling import Tiling
from sdi.train.checkpoint import load_checkpoint, save_checkpoint
from sdi.train.data import find_pairs
from support import lively_checkpoint, manifest_of


@pytest.fixture(scope="module")
def pictures(strip_pairs: Path) -> Pictures:
    return Pictures(pairs=find_pairs(images=strip_pairs / "images", masks=strip_pairs / "masks"))


@pytest.fixture(scope="module")
def judged(
    checkpoint: Path, engines: dict[str, Path], pictures: Pictures, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GateResult, Path]:
    """Every precision and the deploy form at once."""
    evidence = tmp_path_factory.mktemp("gate") / "evidence"
    result = run_gate(GateRequest(checkpoint, tuple(engines.values()), deploy=True, evidence=evidence), pictures)
    return result, evidence


def test_every_honest_candidate_passes(judged: tuple[GateResult, Path]) -> None:
    result, evidence = judged
    assert [(candidate.kind, candidate.precision) for candidate in result.candidates] == [
        ("deploy", "fp32"),
        ("onnx", "fp32"),
        ("onnx", "fp16"),
        ("onnx", "int8"),
    ]
    assert {candidate.name: [row.metric for row in candidate.failures] for candidate in result.candidates} == {
        candidate.name: [] for candidate in result.candidates
    }
    assert result.passed
    assert (result.pictures, result.synthetic) == (4, False)
    assert not evidence.exists()  # made when something fails


def test_fewer_bits_differ_more(judged: tuple[GateResult, Path]) -> None:
    deploy, fp32, fp16, int8 = (candidate.metrics["mean"] for candidate in judged[0].candidates)
    assert 0 < max(deploy, fp32) < fp16 / 10
    assert fp16 < int8 / 10


def test_scores_are_those_of_the_maps_that_the_runtime_gives(
    judged: tuple[GateResult, Path], engines: dict[str, Path], pictures: Pictures
) -> None:
    measure, mae = py_sod_metrics.Smeasure(), py_sod_metrics.MAE()
    with open_engine(engines["int8"]) as engine:
        for index in range(len(pictures)):
            saliency = engine(pictures.picture(index))
            truth = pictures.truth(index)
            assert truth is not None
            as_seen = {"pred": saliency / 255, "gt": truth > 128, "normalize": False}
            measure.step(**as_seen)
            mae.step(**as_seen)
    metrics = judged[0].candidates[3].metrics
    assert metrics["S"] == pytest.approx(measure.get_results()["sm"], abs=1e-6)
    assert metrics["MAE"] == pytest.approx(mae.get_results()["mae"], abs=1e-6)
    assert metrics["S_lost"] == metrics["reference_S"] - metrics["S"]


def test_every_metric_is_there(judged: tuple[GateResult, Path]) -> None:
    for candidate in judged[0].candidates:
        left = {name for name in METRICS if name.startswith("clean")}
        if candidate.kind == "deploy":
            left.add("rounding")  # it gives probabilities alone
        assert {row.metric for row in candidate.rows} == set(METRICS) - left
        assert all(np.isfinite(value) for value in candidate.metrics.values())
        assert [picture.name for picture in candidate.pictures] == ["clean", "inclusion", "patch", "scratch"]
        assert set(candidate.quantiles) == {"reference", "engine"}
        assert (candidate.seconds_per_frame or 0) > 0


def test_without_truth_there_are_no_scores(checkpoint: Path, engines: dict[str, Path]) -> None:
    drawn = Pictures()
    result = run_gate(GateRequest(checkpoint, (engines["fp32"],)), drawn)
    assert result.synthetic
    assert result.passed
    assert "S_lost" not in result.candidates[0].metrics
    assert [row.metric for row in result.candidates[0].rows][:4] == ["max", "p999", "mean", "iou"]


def test_a_failure_keeps_its_picture_as_reference_engine_difference(
    checkpoint: Path,
    engines: dict[str, Path],
    damaged: Callable[[Path, Edit], Path],
    strip_pairs: Path,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    engine = damaged(engines["fp32"], negate("encoder.2.3.fuse.0"))
    evidence = tmp_path / "evidence"
    result = run_gate(GateRequest(checkpoint, (engine,), evidence=evidence), pictures)
    (candidate,) = result.candidates
    assert not result.passed
    assert {row.metric for row in candidate.failures} >= {"max", "mean", "p999"}
    assert 1 <= len(candidate.evidence) <= 3
    worst = max(candidate.pictures, key=lambda picture: picture.max).name
    shown = read_image(evidence / f"minet-fp32.onnx-{worst}.png")
    assert str(evidence / f"minet-fp32.onnx-{worst}.png") in candidate.evidence
    assert (shown[60:, :].shape[0], shown.shape[1]) == (320, 3 * 320 + 2 * 6)  # three panels under two lines of words
    with open_engine(engine) as opened:
        frame = cv2.resize(read_image(strip_pairs / "images" / f"{worst}.png"), (256, 256))
        saliency = opened(frame)
    panel = cv2.cvtColor(shown[60:, 326:646], cv2.COLOR_BGR2GRAY)
    wanted = cv2.resize(saliency, (320, 320), interpolation=cv2.INTER_NEAREST)
    assert np.abs(panel.astype(int) - wanted).max() <= 1
    assert (shown[60:, 652:].reshape(-1, 3) != shown[60:, 652:653].reshape(-1, 3)[0]).any()  # colours


def test_the_difference_is_scaled_to_its_maximum() -> None:
    reference = np.zeros((40, 40), np.float32)
    engine = reference.copy()
    engine[10:20, 10:20] = 0.01
    picture = difference_picture("a", "b", reference, engine)
    colours = picture[60:, 652:].reshape(-1, 3).sum(axis=1)
    assert colours.min() < 30  # of inferno: nearly black
    assert colours.max() > 500  # and nearly white


def test_evidence_goes_into_no_folder_of_others(
    checkpoint: Path, engines: dict[str, Path], pictures: Pictures, tmp_path: Path
) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds files that sdi-parity --evidence did not write"):
        run_gate(GateRequest(checkpoint, (engines["fp32"],), evidence=tmp_path), pictures)


def test_bounds_can_be_replaced(checkpoint: Path, engines: dict[str, Path], pictures: Pictures) -> None:
    strict = {**TOLERANCES, "fp16": replace(TOLERANCES["fp32"])}
    result = run_gate(GateRequest(checkpoint, (engines["fp16"],), tolerances=strict), pictures)
    assert {row.metric for row in result.candidates[0].failures} >= {"max", "p999"}


@pytest.mark.parametrize("side", [200, 320])
def test_an_engine_for_the_cameras_frames_is_compared_at_their_size(
    checkpoint: Path, engines: dict[str, Path], side: int, tmp_path: Path
) -> None:
    """Frames of another size are resized inside, as the reference does."""
    model, manifest = onnx.load(engines["fp32"]), manifest_of(engines["fp32"])
    # The same network behind a Resize, in front of another one.
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim[1:3]:
            dim.dim_value = side
    nodes = {output: node for node in model.graph.node for output in node.output}
    first, last = nodes["add"], nodes[PROBABILITY]
    assert (first.op_type, last.op_type) == ("Add", "Squeeze")
    small, large = ([1, 3, 256, 256], [1, 1, side, side])
    for name, sizes in (("small", small), ("large", large)):
        model.graph.initializer.append(helper.make_tensor(name, 7, [4], sizes))
    resize = {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}
    into = helper.make_node("Resize", ["add", "", "", "small"], ["fitted"], name="into", **resize)
    back = helper.make_node("Resize", [last.input[0], "", "", "large"], ["unfitted"], name="back", **resize)
    for node in model.graph.node:
        if node is not first and "add" in node.input:
            node.input[list(node.input).index("add")] = "fitted"
    last.input[0] = "unfitted"
    order = list(model.graph.node)
    model.graph.node.insert(order.index(last), back)
    model.graph.node.insert(order.index(first) + 1, into)
    del model.graph.value_info[:]
    engine = save_engine(tmp_path / "camera.onnx", model, replace(manifest, frame_hw=(side, side)), "fp32")
    result = run_gate(GateRequest(checkpoint, (engine,)), Pictures())
    assert result.candidates[0].failures == []
    assert result.candidates[0].pictures[0].pixels == side * side


def rewrite(engine: Path, path: Path, **fields: Any) -> Path:
    """The same engine with another manifest."""
    model, manifest = onnx.load(engine), manifest_of(engine)
    return save_engine(path, model, replace(manifest, **fields), fields.get("precision", manifest.precision))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"model": "tsernet-xs"}, r"holds minet, not tsernet-xs, which .*e\.onnx is an engine of"),
        ({"precision": "fp8"}, r"of precision 'fp8'; bounds are known for fp32, fp16, int8"),
        ({"preprocessing": {"mean": [0.5] * 3, "std": [0.2] * 3}}, "preprocesses by .* by others; export it again"),
        ({"network_hw": (128, 256)}, r"runs at \(128, 256\), .* was trained at \(256, 256\)"),
        (
            {"frame_hw": (128, 256)},
            r"takes \{'frame': \[1, 256, 256, 3\]\}, its manifest says frame \[1, 128, 256, 3\]",
        ),
        ({"batch": 4}, r"its manifest says frame \[4, 256, 256, 3\]"),
    ],
)
def test_what_is_no_engine_of_this_checkpoint_is_refused(
    checkpoint: Path, engines: dict[str, Path], tmp_path: Path, fields: dict[str, Any], complaint: str
) -> None:
    engine = rewrite(engines["fp32"], tmp_path / "e.onnx", **fields)
    with pytest.raises(InputError, match=complaint):
        run_gate(GateRequest(checkpoint, (engine,)), Pictures())


def test_files_that_are_not_what_they_should_be(checkpoint: Path, engines: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    with pytest.raises(InputError, match=r"no such engine: .*e\.onnx; make one with sdi-export"):
        run_gate(GateRequest(checkpoint, (path,)), Pictures())
    path.write_bytes(engines["fp32"].read_bytes())
    with pytest.raises(InputError, match=r"no manifest beside .*e\.onnx: its precision is unknown"):
        run_gate(GateRequest(checkpoint, (path,)), Pictures())
    manifest_path(path).write_bytes(manifest_path(engines["fp32"]).read_bytes())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        run_gate(GateRequest(checkpoint, (path,)), Pictures())
    path.unlink()
    with pytest.raises(InputError, match="though its manifest is there"):
        run_gate(GateRequest(checkpoint, (path,)), Pictures())
    with pytest.raises(InputError, match="nothing to compare"):
        run_gate(GateRequest(checkpoint), Pictures())
    with pytest.raises(InputError, match="given twice"):
        run_gate(GateRequest(checkpoint, (engines["fp32"], engines["fp32"])), Pictures())


def test_a_graph_without_our_tensor_is_refused(
    checkpoint: Path, engines: dict[str, Path], damaged: Callable[[Path, Edit], Path]
) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == PROBABILITY:
                        names[i] = "p"

    with pytest.raises(InputError, match="no 'probability' tensor; export it with sdi-export"):
        run_gate(GateRequest(checkpoint, (damaged(engines["fp32"], rename),)), Pictures())


def test_another_checkpoint_is_told_of(
    engines: dict[str, Path], checkpoint: Path, pictures: Pictures, tmp_path: Path
) -> None:
    other = load_checkpoint(checkpoint)
    head = "heads.0.1.bias"
    other = replace(other, weights={**other.weights, head: other.weights[head] + 1})
    save_checkpoint(tmp_path / "other.pt", other)
    (candidate,) = run_gate(GateRequest(tmp_path / "other.pt", (engines["fp32"],)), pictures).candidates
    assert "saturation" in {row.metric for row in candidate.failures}
    assert f"it was exported from another checkpoint than {tmp_path / 'other.pt'}" in candidate.notes


def test_a_mask_of_another_size_is_refused(
    checkpoint: Path, engines: dict[str, Path], strip_pairs: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "clean.png"), read_gray(strip_pairs / "masks" / "clean.png")[:-1])
    pair = replace(
        find_pairs(images=strip_pairs / "images", masks=strip_pairs / "masks")[0], mask=tmp_path / "clean.png"
    )
    with pytest.raises(InputError, match=r"the mask of clean is \(199, 200\), its picture \(200, 200\)"):
        run_gate(GateRequest(checkpoint, (engines["fp32"],)), Pictures(pairs=[pair]))


class _Plan:
    """What `open_engine` gives for a plan: maps of 8 bits, here those of an ONNX engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.batch, self.closed = engine, engine.batch, False

    def execute(self, frames: np.ndarray) -> np.ndarray:
        return self._engine.execute(frames)

    def close(self) -> None:
        self.closed = True
        self._engine.close()


def test_a_plan_is_compared_on_8_bits_with_half_a_level_more_room(
    checkpoint: Path, engines: dict[str, Path], pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the execution on a GPU is replaced: by ONNX Runtime, behind the same interface."""
    plan = rewrite(engines["fp32"], tmp_path / "minet-fp32.plan", target="tensorrt")
    opened = []

    def open_plan(path: Path) -> _Plan:
        assert path == plan
        opened.append(_Plan(open_engine(engines["fp32"], "cpu")))
        return opened[-1]

    monkeypatch.setattr(candidates, "open_engine", open_plan)
    (candidate,) = run_gate(GateRequest(checkpoint, (plan,), bisect=True), pictures).candidates
    assert candidate.failures == []
    assert (candidate.kind, candidate.precision) == ("plan", "fp32")
    assert 0.4 / 255 < candidate.metrics["max"] <= 0.5 / 255 + 1e-6
    row = next(row for row in candidate.rows if row.metric == "max")
    assert row.bound == pytest.approx(1e-3 + 0.5 / 255)
    assert "rounded" in row.reason
    assert next(row for row in candidate.rows if row.metric == "iou").bound == TOLERANCES["fp32"].bounds["iou"].value
    assert any("rounded to 8 bits" in note for note in candidate.notes)
    assert any("--bisect looks into ONNX files alone" in note for note in candidate.notes)
    assert opened[0].closed


def test_a_plan_without_its_gpu_leaves_the_others_judged(
    checkpoint: Path, engines: dict[str, Path], pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = rewrite(engines["fp16"], tmp_path / "minet-fp16.plan", target="tensorrt")

    def no_gpu(path: Path) -> NoReturn:
        raise DeviceError(f"{path} is a TensorRT plan: no CUDA driver here")

    monkeypatch.setattr(candidates, "open_engine", no_gpu)
    result = run_gate(GateRequest(checkpoint, (engines["fp32"], plan)), pictures)
    onnx_file, absent = result.candidates
    assert onnx_file.passed
    assert not result.passed
    for text in ("no CUDA driver here", "sdi-parity --self-test --engine minet-fp16.plan"):
        assert text in (absent.unavailable or "")
    assert absent.rows == ()


def test_a_network_of_another_size_passes_in_its_deploy_form(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "xs.pt", lively_checkpoint("tsernet-xs", 64))
    result = run_gate(GateRequest(tmp_path / "xs.pt", deploy=True), Pictures())
    assert result.passed
    assert result.model == "tsernet-xs"


def test_an_engine_that_comes_with_sdi_goes_by_its_name(checkpoint: Path) -> None:
    (candidate,) = candidates.open_candidates([Path("minet")], load_checkpoint(checkpoint), checkpoint)
    assert candidate.file == find_engine("minet")
    assert candidate.run is not None


def test_engines_of_one_name_are_told_apart(checkpoint: Path, engines: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = rewrite(engines["fp32"], tmp_path / "other" / "minet-fp32.onnx")
    result = run_gate(GateRequest(checkpoint, (engines["fp32"], twin)), Pictures())
    assert [candidate.name for candidate in result.candidates] == [str(engines["fp32"]), str(twin)]


def test_manifest_only_moved(checkpoint: Path, engines: dict[str, Path], tmp_path: Path) -> None:
    """A manifest that belongs to other bytes is a contradiction."""
    path = tmp_path / "e.onnx"
    path.write_bytes(engines["fp16"].read_bytes())
    write_manifest(path, manifest_of(engines["fp32"]))
    with pytest.raises(InputError, match="its manifest says"):
        run_gate(GateRequest(checkpoint, (path,)), Pictures())


def test_large_pictures_are_judged_in_windows(checkpoint, engines, tmp_path, damaged):
    (tmp_path / "wide").mkdir()
    write_image(tmp_path / "wide" / "a.png", draw_strip("patch", 2, (200, 420))[0])
    pictures, tiling = Pictures(tmp_path / "wide"), Tiling()
    whole = run_gate(GateRequest(checkpoint, (engines["fp32"],)), pictures)
    cut = run_gate(GateRequest(checkpoint, (engines["fp32"],), tiling=tiling), pictures)
    assert whole.passed
    assert cut.passed
    assert 0 < cut.candidates[0].metrics["max"] < 1e-3
    faulty = damaged(engines["fp32"], negate("encoder.2.3.fuse.0"))
    assert not run_gate(GateRequest(checkpoint, (faulty,), tiling=tiling), pictures).passed
