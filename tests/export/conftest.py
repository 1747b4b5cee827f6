"""Exports that several tests look at: made once, through the real commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdi.train.checkpoint import save_checkpoint
from support import command, lively_checkpoint


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    save_checkpoint(path, lively_checkpoint("tsernet-xs", 64))
    return path


@pytest.fixture(scope="session")
def exports(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with tsernet-xs-fp32.onnx, tsernet-xs-fp16.onnx and their manifests."""
    folder = tmp_path_factory.mktemp("exports")
    precisions = ("--fp32", "--fp16")
    done = command("sdi-export", "--checkpoint", checkpoint_file, *precisions, "--target", "onnx", "-o", folder)
    assert done.returncode == 0, done.stderr
    for precision in ("fp32", "fp16"):
        assert f"tsernet-xs-{precision}.onnx " in done.stdout
    return folder
