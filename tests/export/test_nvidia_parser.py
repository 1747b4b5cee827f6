"""NVIDIA's own parser reads what is exported, and sees the same inputs and outputs. It needs no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdi.export.exporter import ExportRequest, ExportSource, Precision, export_onnx
from sdi.train.checkpoint import load_checkpoint
from support import nvidia_view

FACE = {"frame": "UINT8", "saliency": "UINT8"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_static_face(exports: Path, precision: Precision) -> None:
    view = nvidia_view(exports / f"tsernet-xs-{precision}.onnx")
    assert view.kinds == FACE
    assert view.shapes == {"frame": (1, 64, 64, 3), "saliency": (1, 64, 64)}


def test_dynamic_face(checkpoint_file: Path, tmp_path: Path) -> None:
    request = ExportRequest("fp16", dynamic=True)
    done = export_onnx(ExportSource(load_checkpoint(checkpoint_file), "0" * 64), request, tmp_path)
    view = nvidia_view(done.path)
    assert view.kinds == FACE
    assert view.shapes == {"frame": (-1, -1, -1, 3), "saliency": (-1, -1, -1)}
