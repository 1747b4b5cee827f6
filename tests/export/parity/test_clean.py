"""The clean-steel gate: what is cut, what is measured, and what fails by it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.export.parity.candidates import open_candidate
from sdi.export.parity.clean import CleanPatch, clean_areas, clean_patches, worst_patch_picture
from sdi.export.parity.gate import GateRequest, run_gate
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.tolerances import TOLERANCES, read_tolerances
from sdi.export.runners import InputSpec
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import read_image, write_image
from sdi.runtime.common.strip import draw_strip
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import default_engine, find_engine
from sdi.train.checkpoint import load_checkpoint
from sdi.train.data import Pair, find_pairs
from support import command, shipped_weights

MINET = find_engine("minet")


def brightness(frames: np.ndarray) -> np.ndarray:
    """A runner whose map is the picture: what it takes for a defect can be counted by hand."""
    return frames.mean(axis=3, dtype=np.float32) / 255


@pytest.fixture
def labelled(tmp_path: Path) -> list[Pair]:
    """Pictures whose defect is white on black, in the right half alone, each with a level of its own on the left."""
    pairs = []
    for i in range(4):
        image, mask = np.full((160, 200, 3), 10 + i, np.uint8), np.zeros((160, 200), np.uint8)
        image[20:140, 120:190], mask[20:140, 120:190] = 255, 255
        pair = Pair(f"Pa_{i}", tmp_path / f"Pa_{i}.png", tmp_path / f"mask_{i}.png")
        write_image(pair.image, image)
        write_image(pair.mask, mask)
        pairs.append(pair)
    return pairs


def test_windows_are_cut_from_the_background_of_many_pictures(labelled: list[Pair]) -> None:
    patches = clean_patches(labelled, windows=40, strips=3)
    windows = [patch for patch in patches if not patch.drawn]
    assert (len(windows), len(patches)) == (40, 43)
    for patch in windows:
        height, width = patch.image.shape[:2]
        assert height == width >= 64
        assert len(np.unique(patch.image)) == 1  # no pixel of the defect
    assert {int(patch.image[0, 0, 0]) for patch in windows} == {10, 11, 12, 13}
    assert {len(patch.image) for patch in windows} == {64, 96}
    assert len({patch.name for patch in patches}) == len(patches)
    for patch, again in zip(patches, clean_patches(labelled, windows=40, strips=3), strict=True):
        assert patch.name == again.name
        assert np.array_equal(patch.image, again.image)


def test_drawn_strip_is_clean_and_no_two_are_alike() -> None:
    patches = clean_patches(strips=5)
    assert all(patch.drawn for patch in patches)
    assert [patch.image.tobytes() for patch in patches] == [draw_strip("clean", i)[0].tobytes() for i in range(5)]
    assert len({patch.image.tobytes() for patch in patches}) == 5


def test_a_folder_of_clean_steel_is_taken_whole(tmp_path: Path) -> None:
    write_image(tmp_path / "good.png", draw_strip("clean", 9, (70, 300))[0])
    (patch,) = clean_patches(folder=tmp_path, strips=0)
    assert (patch.name, patch.drawn) == ("good", False)
    assert np.array_equal(patch.image, read_image(tmp_path / "good.png"))
    with pytest.raises(InputError, match="is not a folder"):
        clean_patches(folder=tmp_path / "gone")


def test_pictures_without_background_say_what_to_do(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((80, 80, 3), np.uint8))
    mask = np.zeros((80, 80), np.uint8)
    mask[40, 40] = 255
    write_image(tmp_path / "m.png", mask)
    with pytest.raises(InputError, match=r"no picture has 64x64 pixels without a defect.*--clean DIR"):
        clean_patches([Pair("a", tmp_path / "a.png", tmp_path / "m.png")])


def test_areas_are_counted_as_the_runtime_counts() -> None:
    image = np.full((10, 20, 3), 127, np.uint8)
    image[:5, :4] = 128  # the least level of probability 0.5, on a tenth of the picture
    dark = np.zeros((8, 8, 3), np.uint8)
    patches = [CleanPatch("a", image, drawn=False), CleanPatch("b", dark, False), CleanPatch("c", dark + 200, True)]
    areas = clean_areas(brightness, InputSpec(None), patches, 0.5)
    assert areas.areas.tolist() == [0.1, 0.0, 1.0]
    assert areas.metrics(clean_areas(lambda frames: brightness(frames) * 0, InputSpec(None), patches, 0.5)) == {
        "clean": pytest.approx(0.05),
        "clean_strip": 1.0,
        "clean_worst": 1.0,
        "clean_gained": pytest.approx(1.1 / 3),
    }
    assert asdict(areas.summary()) == {
        "patches": 3,
        "drawn": 1,
        "with_any": 2,
        "mean": pytest.approx(1.1 / 3),
        "worst": "c",
        "worst_area": 1.0,
    }
    only_drawn = clean_areas(brightness, InputSpec(None), patches[2:], 0.5)
    assert "clean" not in only_drawn.metrics(only_drawn)
    with pytest.raises(InputError, match="no patch"):
        clean_areas(brightness, InputSpec(None), [], 0.5)


def test_a_patch_is_shown_as_the_runtime_shows_a_picture() -> None:
    """The raw twin in the gate and the engine in the runtime take the same pixels for a defect."""
    file = shipped_weights("minet")
    candidate = open_candidate(MINET, load_checkpoint(file), file)
    assert candidate.run is not None
    strips = [draw_strip("patch", i, (64 + 40 * i, 96))[0] for i in range(3)]
    found = clean_areas(candidate.run, candidate.spec, [CleanPatch(str(i), s, True) for i, s in enumerate(strips)], 0.3)
    with open_engine(MINET) as engine:
        wanted = [float((engine(strip) >= 0.3 * 255).mean()) for strip in strips]
    assert found.areas.tolist() == wanted
    assert min(wanted) > 0


def test_the_picture_of_a_patch_shows_what_was_taken() -> None:
    image = np.full((64, 64, 3), 30, np.uint8)
    image[:, 32:] = 220
    areas = clean_areas(brightness, InputSpec(None), [CleanPatch("half", image, drawn=False)], 0.5)
    shown = worst_patch_picture("engine", brightness, InputSpec(None), areas, 0.5)
    red = (shown == (0, 0, 255)).all(axis=2)
    assert red.sum() == 320 * 160  # half of a panel of 320 x 320, enlarged
    left, width = np.flatnonzero(red.any(axis=0))[[0, -1]]
    assert width - left == 159
    assert (cv2.cvtColor(shown, cv2.COLOR_BGR2GRAY) == 30).sum() >= 2 * 320 * 160  # the steel, and its map


@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_precision_has_bounds_for_clean_steel(precision: str) -> None:
    bounds = TOLERANCES[precision].bounds
    assert {name for name in bounds if name.startswith("clean")} == {
        *("clean", "clean_strip", "clean_worst", "clean_gained")
    }


def test_a_network_that_lights_up_on_clean_steel_fails_and_shows_where(tmp_path: Path) -> None:
    """Said to be clean, and it is not: the gate says how much, of what, and draws it."""
    spots, clean = draw_strip("patch", 3)[0], draw_strip("clean", 0)[0]
    request = GateRequest(shipped_weights("minet"), [MINET], evidence=tmp_path / "evidence")
    dark, lit = CleanPatch("dark", clean, drawn=False), CleanPatch("spots", spots, drawn=False)
    assert run_gate(replace(request, clean=[dark]), Pictures()).passed
    assert not (tmp_path / "evidence").exists()

    result = run_gate(replace(request, clean=[dark, lit]), Pictures())
    (runner,) = result.candidates
    assert not result.passed
    assert [row.metric for row in runner.failures] == ["clean"]
    assert runner.clean is not None
    assert (runner.clean.worst, runner.clean.with_any) == ("spots", 1)
    assert runner.clean.worst_area == pytest.approx(2 * runner.metrics["clean"])
    (evidence,) = runner.evidence
    assert read_image(Path(evidence)).shape[1] == 3 * 320 + 2 * 6


def test_bounds_for_clean_steel_can_be_set(tmp_path: Path) -> None:
    spots = CleanPatch("spots", draw_strip("patch", 3)[0], drawn=False)
    file = tmp_path / "bounds.toml"
    file.write_text("[fp32]\nclean = 1\nclean_worst = { bound = 1, reason = 'a defect' }\n")
    request = GateRequest(shipped_weights("minet"), [MINET], tolerances=read_tolerances(file), clean=[spots])
    result = run_gate(request, Pictures())
    assert result.passed
    assert "a defect" in [row.reason for row in result.candidates[0].rows]


def test_the_command_judges_clean_steel(tmp_path: Path) -> None:
    write_image(tmp_path / "spots.png", draw_strip("patch", 3)[0])
    given = ("--checkpoint", shipped_weights("minet"), "--engine", MINET, "--evidence", tmp_path / "evidence")
    done = command("sdi-parity", *given, "--clean", tmp_path, "--json")
    assert done.returncode == 1
    (runner,) = json.loads(done.stdout)["runners"]
    assert runner["clean"]["patches"] == 51  # and fifty of drawn strip
    assert f"worst patch {runner['clean']['worst']}" in done.stderr
    assert (tmp_path / "evidence" / f"{MINET.name}-clean steel.png").is_file()


def test_the_shipped_default_keeps_clean_steel_dark(steel_data: Path) -> None:
    """On windows of the test pictures' background, and on drawn strip, by the bounds of the gate."""
    engine = default_engine()
    manifest = read_manifest(engine)
    assert manifest is not None
    patches = clean_patches(find_pairs(steel_data, "test"), windows=100, strips=20)
    with open_engine(engine) as opened:
        areas = clean_areas(
            lambda frames: opened.execute(frames) / np.float32(255), InputSpec(opened.frame_hw), patches, 0.5
        )
    assert TOLERANCES[manifest.precision].failures(areas.metrics(areas)) == []
