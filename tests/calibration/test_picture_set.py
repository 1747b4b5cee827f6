"""The calibration set at rest, and the command that writes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdi.calibration.picture_set import SET_FILE, CalibrationSet, read_calibration_set
from sdi.calibration.selection import choose_calibration_set
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.shipped import default_engine
from support import command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for kind in DEFECTS:
        for seed in range(3):
            write_image(images / f"{kind}_{seed}.png", draw_strip(kind, seed, (48, 48))[0])
    return images


@pytest.fixture
def chosen(folder: Path) -> CalibrationSet:
    return choose_calibration_set(folder, 6)


def test_what_is_written_is_read(chosen: CalibrationSet, tmp_path: Path) -> None:
    bound = replace(chosen, preprocessing={"mean": [0.5] * 3}, weights="a" * 64)
    for value in (chosen, bound):
        value.write(tmp_path / SET_FILE)
        assert read_calibration_set(tmp_path) == read_calibration_set(tmp_path / SET_FILE) == value
    assert bound.fingerprint != chosen.fingerprint
    assert bound.picture_fingerprint == chosen.picture_fingerprint


def test_changed_and_missing_pictures_are_named(chosen: CalibrationSet, folder: Path) -> None:
    chosen.verify()
    first, second = chosen.pictures[:2]
    write_image(folder / first.file, draw_strip("clean", 5, (48, 48))[0])
    (folder / second.file).unlink()
    with pytest.raises(InputError, match=rf"2 of 6 .*{first.file} has changed, {second.file} is missing"):
        chosen.verify()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no calibration set at"),
        ("{", "is damaged"),
        ("[]", "is not a calibration set of sdi"),
        ('{"format": "sdi-calibration", "format_version": 99}', "has format 99, this sdi reads 2"),
        ('{"format": "sdi-calibration", "format_version": 2}', "is damaged"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path: Path, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / SET_FILE).write_text(text)
    with pytest.raises(InputError, match=rf"{why}.*sdi-calibrate --images PICTURES"):
        read_calibration_set(tmp_path)


def test_edited_hashes_are_noticed(chosen: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / SET_FILE
    chosen.write(path)
    path.write_text(path.read_text().replace(chosen.pictures[0].sha256, "0" * 64))
    with pytest.raises(InputError, match="its fingerprint is not that of its pictures"):
        read_calibration_set(path)


def test_command_writes_a_set_and_keeps_an_earlier_one(folder: Path, tmp_path: Path) -> None:
    arguments = ("--images", folder, "--count", "6", "-o", tmp_path / "calib")
    done = command("sdi-calibrate", *arguments, "--json", "--engine", "tsernet-lite")
    assert done.returncode == 0, done.stderr
    found = read_calibration_set(tmp_path / "calib")
    answer = json.loads(done.stdout)
    assert answer["fingerprint"] == found.fingerprint
    assert answer["classes"] == dict.fromkeys(DEFECTS, 2)
    manifest = read_manifest(default_engine())
    assert manifest is not None
    assert (found.weights, found.preprocessing) == (manifest.checkpoint_sha256, manifest.preprocessing)
    assert "6 pictures are few" in done.stderr
    again = command("sdi-calibrate", *arguments)
    assert again.returncode == 2
    assert "exists" in again.stderr
    foreign = tmp_path / "calib" / SET_FILE
    foreign.write_text("somebody's")
    refused = command("sdi-calibrate", *arguments, "--overwrite")
    assert (refused.returncode, foreign.read_text()) == (2, "somebody's")
    assert "left alone" in refused.stderr
