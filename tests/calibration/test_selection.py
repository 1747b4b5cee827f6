"""The calibration set: stratified, spread, without copies, and never of broken pictures."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from sdi.calibration.selection import choose_calibration_set
from sdi.runtime.errors import InputError
from sdi.runtime.images import write_image
from sdi.runtime.strip import DEFECTS, draw_strip
from support import command


@pytest.fixture
def folder(tmp_path):
    """30 pictures, 10 of each class."""
    images = tmp_path / "images"
    images.mkdir()
    for kind in DEFECTS:
        for seed in range(10):
            write_image(images / f"{kind}_{seed}.png", draw_strip(kind, seed, (48, 48))[0])
    return images


def test_every_class_gives_its_share_and_the_extremes_are_in(folder):
    chosen = choose_calibration_set(folder, 9)
    assert Counter(p.defect_class for p in chosen.pictures) == dict.fromkeys(DEFECTS, 3)
    for kind in DEFECTS:
        means = [draw_strip(kind, seed, (48, 48))[0].mean() for seed in range(10)]
        picked = [p.mean for p in chosen.pictures if p.defect_class == kind]
        assert min(picked) == pytest.approx(min(means), abs=1e-3)
        assert max(picked) == pytest.approx(max(means), abs=1e-3)


def test_one_of_a_class_is_its_middle(folder):
    for picture in choose_calibration_set(folder, 3).pictures:
        means = sorted(draw_strip(picture.defect_class, seed, (48, 48))[0].mean() for seed in range(10))
        assert means[3] < picture.mean < means[6]


def test_names_narrow_the_choice(folder):
    names = ["patch_1", "patch_4", "scratch_2"]
    chosen = choose_calibration_set(folder, 3, names)
    assert [picture.file for picture in chosen.pictures] == [f"{name}.png" for name in names]


def test_choice_and_fingerprint_follow_the_pictures_alone(folder):
    first = choose_calibration_set(folder, 12)
    assert choose_calibration_set(folder, 12) == first
    write_image(folder / first.pictures[0].file, 255 - draw_strip("scratch", 99, (48, 48))[0])
    assert choose_calibration_set(folder, 12).fingerprint != first.fingerprint


def test_exact_copies_are_left_out_and_named(folder):
    # The same picture in another format is the same picture.
    write_image(folder / "patch_77.bmp", draw_strip("patch", 3, (48, 48))[0])
    chosen = choose_calibration_set(folder, 30)
    assert len(chosen.pictures) == 30
    assert chosen.left_out == ("patch_77.bmp equals patch_3.png",)


def test_broken_and_constant_pictures_are_named(folder):
    (folder / "scratch_50.png").write_bytes(b"no picture")
    write_image(folder / "scratch_51.png", np.full((48, 48), 7, np.uint8))
    with pytest.raises(InputError, match=r"(?s)scratch_50\.png.*scratch_51\.png is of one gray level"):
        choose_calibration_set(folder, 3)


def test_too_few_pictures_say_how_many_there_are(folder):
    with pytest.raises(InputError, match="holds 30 different pictures, 31 are asked for"):
        choose_calibration_set(folder, 31)


def test_command_writes_a_manifest_and_keeps_an_earlier_one(folder, tmp_path):
    arguments = ("--images", folder, "--size", "6", "-o", tmp_path / "calib")
    done = command("sdi-calibrate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "calib" / "calibration.json").read_text())
    assert json.loads(done.stdout)["fingerprint"] == written["fingerprint"]
    assert len(written["pictures"]) == 6
    again = command("sdi-calibrate", *arguments)
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_known_pair_of_the_data_set(steel_data):
    chosen = choose_calibration_set(steel_data / "Source Images", 128)
    assert chosen.left_out == ("Pa_105.bmp equals Pa_101.bmp",)
    assert Counter(p.defect_class for p in chosen.pictures) == {"In": 43, "Pa": 42, "Sc": 43}
