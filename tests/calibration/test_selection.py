"""Choosing calibration pictures: stratified, spread, without copies, never of broken or of test pictures."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.calibration.appearance import appearance_of, descriptors
from sdi.calibration.picture_set import CalibrationSet
from sdi.calibration.selection import HeldOut, choose_calibration_set, find_held_out
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import list_images, read_image, write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip


def strip(kind: str, seed: int) -> np.ndarray:
    return draw_strip(kind, seed, (48, 48))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 pictures, 10 of each class."""
    images = tmp_path / "images"
    images.mkdir()
    for kind in DEFECTS:
        for seed in range(10):
            write_image(images / f"{kind}_{seed}.png", strip(kind, seed))
    return images


def files(chosen: CalibrationSet) -> list[str]:
    return [picture.file for picture in chosen.pictures]


def test_every_class_gives_its_share(folder: Path) -> None:
    chosen = choose_calibration_set(folder, 9)
    assert Counter(p.defect_class for p in chosen.pictures) == dict.fromkeys(DEFECTS, 3)
    assert files(chosen) == sorted(set(files(chosen)))
    picture = chosen.pictures[0]
    image = read_image(folder / picture.file)
    assert (picture.mean, picture.contrast) == pytest.approx((image.mean(), image.std()), abs=0.01)


def test_choice_is_spread_over_appearance(folder: Path) -> None:
    """The two nearest of those chosen are further apart than in a choice at random."""
    paths = list_images(folder)
    rows = dict(zip([p.name for p in paths], descriptors([appearance_of(read_image(p)) for p in paths]), strict=True))

    def least_distance(names: list[str]) -> float:
        chosen = [rows[name] for name in names]
        return min(float(np.linalg.norm(a - b)) for i, a in enumerate(chosen) for b in chosen[:i])

    rng = np.random.default_rng(0)
    patches = [path.name for path in paths if path.name.startswith("patch")]
    chosen = [name for name in files(choose_calibration_set(folder, 15)) if name in patches]
    at_random = [least_distance(list(rng.choice(patches, 5, replace=False))) for _ in range(50)]
    assert len(chosen) == 5
    assert least_distance(chosen) > np.quantile(at_random, 0.8)


def test_choice_follows_pictures_and_seed_alone(folder: Path, tmp_path: Path) -> None:
    first = choose_calibration_set(folder, 12)
    assert choose_calibration_set(folder, 12) == first
    assert any(files(choose_calibration_set(folder, 12, seed=seed)) != files(first) for seed in range(1, 4))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    assert choose_calibration_set(elsewhere, 12).fingerprint == first.fingerprint
    write_image(folder / first.pictures[0].file, 255 - strip("scratch", 99))
    assert choose_calibration_set(folder, 12).fingerprint != first.fingerprint


def test_names_narrow_the_choice(folder: Path) -> None:
    names = ["inclusion_0", "patch_4", "scratch_2"]
    assert files(choose_calibration_set(folder, 3, names)) == [f"{name}.png" for name in names]
    with pytest.raises(InputError, match=r"1 of --names have no picture in .*: patch_99"):
        choose_calibration_set(folder, 3, [*names, "patch_99"])


def test_exact_and_near_copies_are_left_out_and_named(folder: Path) -> None:
    # The same picture in another format is the same picture; stored with loss it is a near copy.
    write_image(folder / "patch_77.bmp", strip("patch", 3))
    cv2.imwrite(str(folder / "scratch_78.jpg"), strip("scratch", 3), [cv2.IMWRITE_JPEG_QUALITY, 80])
    chosen = choose_calibration_set(folder, 30)
    assert len(chosen.pictures) == 30
    assert chosen.left_out == ("patch_77.bmp equals patch_3.png", "scratch_78.jpg looks like scratch_3.png")


def test_test_pictures_are_left_out_under_whatever_name(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "test.txt").write_text("patch_0\npatch_1\n")
    write_image(folder / "patch_90.bmp", strip("patch", 0))
    cv2.imwrite(str(folder / "patch_91.jpg"), strip("patch", 1), [cv2.IMWRITE_JPEG_QUALITY, 80])
    held_out = find_held_out(folder, None)
    assert held_out.names == {"patch_0", "patch_1"}
    chosen = choose_calibration_set(folder, 28, held_out=held_out)
    assert chosen.left_out == (
        "2 pictures of the test split",
        "patch_90.bmp equals test picture patch_0.png",
        "patch_91.jpg looks like test picture patch_1.png",
    )
    assert not {"patch_0.png", "patch_1.png", "patch_90.bmp", "patch_91.jpg"} & set(files(chosen))
    # A folder of test pictures elsewhere is compared by content as well.
    other = tmp_path / "other"
    other.mkdir()
    write_image(other / "unlike.png", strip("scratch", 5))
    chosen = choose_calibration_set(folder, 3, held_out=find_held_out(folder, other))
    assert "scratch_5.png equals test picture unlike.png" in chosen.left_out


def test_pictures_of_another_folder_are_known_by_content_alone(folder: Path) -> None:
    """Cameras number their pictures from 1 in every folder."""
    beside = folder.parent / "test-images"
    beside.mkdir()
    write_image(beside / "patch_0.png", strip("patch", 50))
    held_out = find_held_out(folder, None)
    assert [path.parent for path in held_out.files] == [beside]
    assert choose_calibration_set(folder, 30, held_out=held_out).left_out == ()


def test_test_pictures_asked_for_by_name_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="1 of --names are test pictures: patch_1"):
        choose_calibration_set(folder, 2, ["patch_1", "patch_2"], held_out=HeldOut(frozenset({"patch_1"})))


def test_a_class_that_would_be_missing_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="no picture of class scratch is left"):
        choose_calibration_set(folder, 4, [f"{kind}_{i}" for kind in ("inclusion", "patch") for i in range(4)])
    held_out = HeldOut(frozenset({"rolled_1"}))  # the test split knows a class that the folder has not
    with pytest.raises(InputError, match="no picture of class rolled is left"):
        choose_calibration_set(folder, 4, held_out=held_out)


def test_broken_constant_and_random_pictures_are_refused_by_name(folder: Path) -> None:
    (folder / "scratch_50.png").write_bytes(b"no picture")
    write_image(folder / "scratch_51.png", np.full((48, 48), 7, np.uint8))
    write_image(folder / "scratch_52.png", np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8))
    write_image(folder / "scratch_53.png", strip("scratch", 1)[:1])
    said = (r"50\.png", r"51\.png is of one gray level", r"52\.png is random", r"53\.png is one row")
    with pytest.raises(InputError, match="(?s)" + ".*".join(f"scratch_{text}" for text in said)):
        choose_calibration_set(folder, 3)


def test_a_folder_of_noise_is_refused(tmp_path: Path) -> None:
    for i in range(5):
        write_image(
            tmp_path / f"x_{i}.png", np.random.default_rng(i).normal(128, 40, (48, 48)).clip(0, 255).astype("u1")
        )
    with pytest.raises(InputError, match="ranges of noise are not those of steel"):
        choose_calibration_set(tmp_path, 3)


def test_too_few_pictures_say_how_many_there_are(folder: Path) -> None:
    with pytest.raises(InputError, match="holds 30 different pictures to choose from, 31 are asked for"):
        choose_calibration_set(folder, 31)


def test_known_pair_of_the_data_set(steel_data: Path) -> None:
    """All 900, as if none were for testing."""
    chosen = choose_calibration_set(steel_data / "Source Images", 128)
    assert chosen.left_out == ("Pa_105.bmp equals Pa_101.bmp",)
    assert Counter(p.defect_class for p in chosen.pictures) == {"In": 43, "Pa": 42, "Sc": 43}
