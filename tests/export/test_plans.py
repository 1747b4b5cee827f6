"""Plans of all published networks, built by TensorRT-RTX without a GPU, as NVIDIA's parser sees them."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import get_args

import onnx
import pytest

from sdi.export.engines import BUILDERS, BuildOptions
from sdi.export.exporter import ExportRequest, ExportSource, Precision, export_engine, export_onnx
from sdi.export.int8 import Int8Options
from sdi.runtime.common.images import write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.engine.manifest import read_manifest
from sdi.train.checkpoint import Checkpoint, load_checkpoint, shipped_checkpoint
from support import ParsedView, command, lively_checkpoint, nvidia_view

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
RTX = BUILDERS["tensorrt-rtx"]
FACE = {"frame": "UINT8", "saliency": "UINT8"}


def looks_right(view: ParsedView, file: Path, height: int, width: int) -> None:
    """The parser's view of a whole network: our inputs and outputs, and every convolution of the file."""
    assert view.kinds == FACE
    assert view.shapes == {"frame": (1, height, width, 3), "saliency": (1, height, width)}
    kinds = [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]
    assert view.layer_kinds.count("CONVOLUTION") == kinds.count("Conv")
    assert view.layer_kinds.count("DECONVOLUTION") == kinds.count("ConvTranspose")
    assert view.layer_kinds.count("QUANTIZE") == kinds.count("QuantizeLinear")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic strip, chosen by the real command."""
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "images").mkdir()
    for kind in DEFECTS:
        for seed in range(3):
            write_image(folder / "images" / f"{kind}_{seed}.png", draw_strip(kind, seed, (64, 64))[0])
    done = command("sdi-calibrate", "--images", folder / "images", "--count", "6", "-o", folder / "chosen")
    assert done.returncode == 0, done.stderr
    return folder / "chosen"


@pytest.fixture(scope="module", params=["minet", "csepnet", "tsernet-xs"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """The shipped network where there is one; else one whose maps are worth comparing."""
    shipped = shipped_checkpoint(request.param)
    return load_checkpoint(shipped) if shipped else lively_checkpoint(request.param, 64)


@pytest.mark.slow
@pytest.mark.parametrize("precision", get_args(Precision)[1:])
def test_plan_of_a_network(checkpoint: Checkpoint, precision: Precision, calibration: Path, tmp_path: Path) -> None:
    # Nothing is kept in high precision: the parser is to see each layer quantised.
    int8 = Int8Options(calibration, keep=()) if precision == "int8" else None
    request = ExportRequest(precision, int8=int8)
    exported = export_onnx(ExportSource(checkpoint, "0" * 64), request, tmp_path)
    view = nvidia_view(exported.path)
    looks_right(view, exported.path, *checkpoint.input_hw)
    assert ("QUANTIZE" in view.layer_kinds) == (precision == "int8")
    plan = export_engine(exported, ExportSource(checkpoint, "0" * 64), request, RTX, BuildOptions())
    assert plan.manifest.build["layers"] == len(view.layers)
    assert plan.manifest.bytes > 0.9 * exported.manifest.bytes  # the weights are inside
    assert any("not INT8 arithmetic" in note for note in plan.manifest.notes) == (precision == "int8")


@pytest.mark.slow
def test_full_tsernet_in_half_becomes_a_plan(tmp_path: Path) -> None:
    """The widest network through the command, in less than 6 GiB of memory."""
    done = command("sdi-export", "--model", "tsernet", "--fp16", "--random-weights", "--json", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["path"].rpartition(".")[2]: row for row in json.loads(done.stdout)}
    onnx_file, plan = tmp_path / "tsernet-fp16.onnx", tmp_path / "tsernet-fp16.plan"
    assert {path.name for path in tmp_path.iterdir()} >= {file.name for file in (onnx_file, plan)}
    assert 370e6 < onnx_file.stat().st_size < 400e6
    assert 370e6 < plan.stat().st_size < 450e6
    view = nvidia_view(onnx_file)
    height, width = rows["onnx"]["frame_hw"]
    looks_right(view, onnx_file, height, width)
    if rows["plan"]["target"] == "tensorrt-rtx":
        assert rows["plan"]["build"]["layers"] == len(view.layers)
    manifest = read_manifest(plan)
    assert manifest is not None
    assert manifest.layers["fp16"]["macs"] == 1.0
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    assert peak < 6, f"{peak:.1f} GiB"
