"""The gate as a CI runs it: `sdi-parity` on real networks, passing where it should and biting where it should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdi.runtime.common.images import write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.train.checkpoint import load_checkpoint, save_checkpoint
from support import command, shipped_weights


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for kind in DEFECTS:
        write_image(folder / f"{kind}.png", draw_strip(kind, 5)[0])
    return folder


@pytest.fixture(scope="module")
def trained_xs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tsernet-xs after a few real training steps on synthetic strip."""
    root = tmp_path_factory.mktemp("train")
    for part in ("images", "masks"):
        (root / part).mkdir()
    for kind in DEFECTS:
        for seed in range(4):
            image, mask = draw_strip(kind, seed)
            write_image(root / "images" / f"{kind}_{seed}.png", image)
            write_image(root / "masks" / f"{kind}_{seed}.png", mask)
    data = ("--images", root / "images", "--masks", root / "masks", "--val", "none")
    settings = ("--size", "64", "--batch", "4", "--limit-steps", "6", "--device", "cpu", "-o", root / "run")
    done = command("sdi-train", "--model", "tsernet-xs", "--recipe", "quick", *data, *settings)
    assert done.returncode == 0, done.stderr
    return root / "run" / "best.pt"


@pytest.fixture(scope="module", params=["minet", "tsernet-xs"])
def exported(
    request: pytest.FixtureRequest, trained_xs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    checkpoint = shipped_weights("minet") if request.param == "minet" else trained_xs
    folder = tmp_path_factory.mktemp(request.param)
    done = command("sdi-export", "--checkpoint", checkpoint, "--fp32", "--fp16", "--target", "onnx", "-o", folder)
    assert done.returncode == 0, done.stderr
    return checkpoint, folder, request.param


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engine_answers_what_was_trained(exported: tuple[Path, Path, str], pictures: Path, precision: str) -> None:
    checkpoint, folder, model = exported
    engine = folder / f"{model}-{precision}.onnx"
    done = command("sdi-parity", "--checkpoint", checkpoint, "--engine", engine, "--images", pictures, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    (runner,) = report["runners"]
    assert runner["precision"] == precision
    assert [picture["name"] for picture in runner["pictures"]] == sorted(DEFECTS)
    first = runner["rows"][0]
    assert first["figure"] == "max"
    assert 0 < first["measured"] <= first["bound"]


@pytest.mark.slow
def test_weights_of_another_training_fail_the_gate(
    exported: tuple[Path, Path, str], pictures: Path, tmp_path: Path
) -> None:
    checkpoint, folder, model = exported
    other = load_checkpoint(checkpoint)
    head = "heads.0.1.bias" if model == "minet" else "subnet.residual.bias"
    other = replace(other, weights={**other.weights, head: other.weights[head] + 1})
    save_checkpoint(tmp_path / "other.pt", other)
    engine = folder / f"{model}-fp32.onnx"
    chosen = ("--checkpoint", tmp_path / "other.pt", "--engine", engine, "--images", pictures)
    done = command("sdi-parity", *chosen, cwd=tmp_path)
    assert done.returncode == 1
    assert "fails the fp32 gate: max difference" in done.stderr


@pytest.mark.slow
def test_engine_of_another_network_is_wrong_use(
    exported: tuple[Path, Path, str], trained_xs: Path, tmp_path: Path
) -> None:
    _, folder, model = exported
    other = trained_xs if model == "minet" else shipped_weights("minet")
    engine = folder / f"{model}-fp32.onnx"
    done = command("sdi-parity", "--checkpoint", other, "--engine", engine)
    assert done.returncode == 2
    assert f"not {model}" in done.stderr
