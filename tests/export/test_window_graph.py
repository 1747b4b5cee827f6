"""Frames cut into windows inside the graph: they answer as the runtime's windows do, and NVIDIA's parser reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sdi.export.exporter import ExportRequest, ExportSource, Precision, export_onnx
from sdi.export.network_size import at_network_size, refuse_global_layers
from sdi.export.parity.gate import GateRequest, run_gate
from sdi.export.parity.pictures import Pictures
from sdi.export.window_graph import frame_model, group_size
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import write_image
from sdi.runtime.common.strip import draw_strip
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.windows import WindowGrid
from sdi.train.checkpoint import Checkpoint, save_checkpoint
from support import lively_checkpoint, nvidia_view

GRID = WindowGrid((100, 280), (50, 50), 12)  # 3 x 8 windows: two groups
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Trained on pictures of 50x50, as it were, and run at 64x64."""
    return replace(lively_checkpoint("minet", 64), native_hw=(50, 50), mm_per_pixel=0.5)


@pytest.fixture(scope="module")
def engines(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each precision one for a window and one for a frame."""
    folder = tmp_path_factory.mktemp("windows")
    source = ExportSource(checkpoint, "0" * 64)
    sizes: dict[str, dict[str, Any]] = {
        "window": {"frame_hw": (50, 50)},
        "frame": {"frame_hw": GRID.frame_hw, "grid": GRID},
    }
    return {
        f"{name}-{precision}": export_onnx(source, ExportRequest(precision, **given), folder).path
        for precision in PRECISIONS
        for name, given in sizes.items()
    }


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return np.ascontiguousarray(draw_strip("patch", 5, GRID.frame_hw)[0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_graph_answers_as_the_runtime_does(
    precision: Precision, engines: dict[str, Path], frame: np.ndarray
) -> None:
    with open_engine(engines[f"window-{precision}"], tile=50, overlap=12) as engine:
        expected = engine(frame)
    with open_engine(engines[f"frame-{precision}"]) as engine:
        answer = engine.execute(frame[None])[0]
    assert expected.std() > 10
    assert np.abs(answer.astype(int) - expected).max() <= 1


def test_its_manifest_tells_of_windows_and_scale(engines: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = engines["frame-fp32"]
    assert path.name == "minet-fp32-100x280-tile50x50.onnx"
    manifest = read_manifest(path)
    assert manifest is not None
    assert (manifest.frame_hw, manifest.batch) == ((100, 280), 1)
    assert (manifest.tile_hw, manifest.overlap) == ((50, 50), 12)
    assert (manifest.native_hw, manifest.mm_per_pixel) == ((100, 280), 0.5)
    with open_engine(path) as engine:
        engine.self_test()
        assert engine.grid((100, 280)) is None  # nothing to cut, nothing to warn of
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nvidias_parser_reads_it(precision: Precision, engines: dict[str, Path]) -> None:
    view = nvidia_view(engines[f"frame-{precision}"])
    assert view.kinds == {"frame": "UINT8", "saliency": "UINT8"}
    assert view.shapes == {"frame": (1, 100, 280, 3), "saliency": (1, 100, 280)}
    window = len(nvidia_view(engines[f"window-{precision}"]).layers)
    assert len(view.layers) < 2 * window + 80  # once for each of two groups, not for each of 24 windows


def test_weights_are_there_once(engines: dict[str, Path]) -> None:
    sizes = [engines[f"{name}-fp32"].stat().st_size for name in ("window", "frame")]
    assert sizes[1] < 1.2 * sizes[0]


def test_the_gate_judges_it_in_windows(checkpoint: Checkpoint, engines: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "strips").mkdir()
    write_image(tmp_path / "strips" / "a.png", draw_strip("scratch", 1, (60, 90))[0])
    save_checkpoint(tmp_path / "minet.pt", checkpoint)
    request = GateRequest(tmp_path / "minet.pt", (engines["frame-fp32"], engines["frame-fp16"]))
    result = run_gate(request, Pictures(tmp_path / "strips"))
    assert result.passed
    assert 0 < result.candidates[0].metrics["max"] < 1e-3


@pytest.mark.parametrize(("windows", "group"), [(1, 1), (16, 16), (17, 9), (65, 13), (70, 14), (256, 16)])
def test_groups_are_about_equal(windows: int, group: int) -> None:
    assert group_size(windows) == group


def test_too_many_windows_are_refused() -> None:
    with pytest.raises(InputError, match="257 windows are too many for one graph, at most 256"):
        group_size(257)
    with pytest.raises(InputError, match="too many for one graph"):
        ExportRequest(frame_hw=(1024, 4096), grid=WindowGrid((1024, 4096), (100, 100), 50))


@pytest.mark.parametrize("more", [{"dynamic": True}, {"batch": 2}, {"raw": True}, {"planar": True}])
def test_windows_go_with_one_uint8_frame_alone(more: dict[str, object]) -> None:
    with pytest.raises(InputError, match="--tile puts one uint8 frame of a fixed size in windows"):
        ExportRequest(frame_hw=GRID.frame_hw, grid=GRID, **more)  # type: ignore[arg-type]


def test_a_model_that_was_not_exported_by_sdi_is_left_alone(engines: dict[str, Path]) -> None:
    before = onnx.load(engines["window-fp32"])
    kept = before.SerializeToString()
    frame_model(before, GRID)
    assert before.SerializeToString() == kept


def test_the_network_at_another_size(checkpoint: Checkpoint, tmp_path: Path, frame: np.ndarray) -> None:
    wider = at_network_size(checkpoint, (128, 384))
    assert (wider.input_hw, wider.native_hw) == ((128, 384), (100, 300))
    done = export_onnx(ExportSource(wider, "0" * 64), ExportRequest(network_hw=(128, 384)), tmp_path)
    assert done.path.name == "minet-fp32-network128x384.onnx"
    assert (done.manifest.network_hw, done.manifest.native_hw) == ((128, 384), (100, 300))
    with open_engine(done.path) as engine:
        assert engine.grid((100, 280)) is None
        assert engine.grid((100, 451)) == WindowGrid((100, 451), (100, 300), 12)
    save_checkpoint(tmp_path / "minet.pt", checkpoint)
    assert run_gate(GateRequest(tmp_path / "minet.pt", (done.path,)), Pictures(None)).passed


def test_networks_that_look_at_the_whole_picture_keep_their_size(checkpoint: Checkpoint) -> None:
    theirs = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, divide_by_max=True))
    with pytest.raises(InputError, match="minet divides a picture by its brightest pixel"):
        at_network_size(theirs, (128, 128))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy"]
    for kind, refused in (("GlobalAveragePool", True), ("Relu", False)):
        graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], name="pool")], kind, info[:1], info[1:])
        if refused:
            with pytest.raises(InputError, match=r"csepnet cannot run at another size: pool \(GlobalAveragePool\)"):
                refuse_global_layers(helper.make_model(graph), "csepnet")
        else:
            refuse_global_layers(helper.make_model(graph), "csepnet")
