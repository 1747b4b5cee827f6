"""`sdi-export`: which checkpoint it takes, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sdi.export.checkpoint_choice import choose_checkpoint
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.shipped import ShippedEngine, shipped_engines
from sdi.train.checkpoint import save_checkpoint, shipped_checkpoint
from support import command, lively_checkpoint, shipped_weights


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs of minet, the newer one named so that sorting by name would choose wrongly."""
    for age, name in ((1000, "b-older"), (10, "a-newer")):
        folder = tmp_path / "runs" / "minet" / name
        folder.mkdir(parents=True)
        save_checkpoint(folder / "best.pt", lively_checkpoint("minet", 64))
        moment = folder.stat().st_mtime - age
        os.utime(folder / "best.pt", (moment, moment))
    return tmp_path / "runs"


def test_newest_run_is_taken(runs: Path) -> None:
    path, why = choose_checkpoint("minet", None, runs)
    assert path.parent.name == "a-newer"
    assert why.startswith("newest of 2")


def test_named_checkpoint_wins(runs: Path) -> None:
    named = runs / "minet" / "b-older" / "best.pt"
    assert choose_checkpoint(None, named, runs)[0] == named


def test_shipped_checkpoint_is_the_last_resort(tmp_path: Path) -> None:
    assert choose_checkpoint("minet", None, tmp_path / "none") == (shipped_checkpoint("minet"), "comes with sdi")


@pytest.mark.parametrize("shipped", shipped_engines(), ids=lambda shipped: shipped.name)
def test_shipped_engines_were_made_from_shipped_checkpoints(shipped: ShippedEngine) -> None:
    manifest = read_manifest(shipped.path)
    assert manifest is not None
    assert manifest.checkpoint_sha256 == sha256_of(shipped_weights(manifest.model))


def test_no_checkpoint_names_the_commands_that_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sdi-train --model tsernet .* sdi-import --model tsernet"):
        choose_checkpoint("tsernet", None, tmp_path)


def test_another_models_checkpoint_is_refused(runs: Path) -> None:
    done = command("sdi-export", "--model", "tsernet", "--checkpoint", runs / "minet" / "a-newer" / "best.pt")
    assert done.returncode == 2
    assert "holds minet, not tsernet; use --model minet" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give --model NAME or --checkpoint FILE; models: csepnet, csepnet-resnet50, minet, tsernet"),
        (["--model", "unet"], "unknown model 'unet'; known: csepnet"),
        (["--model", "minet", "--frame", "1080"], "--frame takes height x width"),
        (["--model", "minet", "--dynamic", "--batch", "2"], "--dynamic leaves batch, height and width free"),
        (["--random-weights"], "--random-weights needs --model"),
        (["--model", "minet", "--raw", "--face", "planar"], "--face is now --io"),
        (["--checkpoint", "absent.pt"], "absent.pt does not exist"),
        (["--model", "minet", "-o", "/proc/nowhere"], "cannot write to folder /proc/nowhere"),
        (["--model", "minet", "--images", "absent"], "absent is not a folder"),
    ],
)
def test_wrong_use_is_one_clear_line(tmp_path: Path, arguments: Sequence[object], text: str) -> None:
    done = command("sdi-export", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
