from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.train.data import (
    Pair,
    choose_layout,
    find_pairs,
    hold_out,
    load_samples,
    read_split,
    read_truth,
    splits_at,
)
from sdi.train.splits import DataLocation, choose_splits


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def ramp(height: int = 12, width: int = 16) -> np.ndarray:
    """Gray, 0..255, another value at every pixel of a row."""
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


def half(height: int = 12, width: int = 16) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures a, b, c and their masks, in two folders."""
    for name in "abc":
        save(tmp_path / "images" / f"{name}.png", ramp())
        save(tmp_path / "masks" / f"{name}.png", half())
    return tmp_path / "images", tmp_path / "masks"


def error_of(function: Callable[..., object], *arguments, **options) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments, **options)
    return str(error.value)


def test_the_real_data_set(steel_data: Path) -> None:
    train, test = (find_pairs(steel_data, split) for split in ("train", "test"))
    assert (len(train), len(test), len(find_pairs(steel_data))) == (540, 360, 900)
    assert not {p.name for p in train} & {p.name for p in test}
    for pairs, share in ((train, 180), (test, 120)):
        for defect in ("In", "Pa", "Sc"):
            assert sum(p.name.startswith(f"{defect}_") for p in pairs) == share
    sample = load_samples(test[:1])[0]
    assert sample.image.shape == (200, 200, 3)
    assert set(np.unique(sample.mask)) == {0, 255}


def test_finds_the_splits_of_the_known_layout(steel_tree: Callable[..., Path]) -> None:
    folder = steel_tree(["In_1", "Pa_2"], ["Sc_10", "In_9"])
    assert [p.name for p in find_pairs(folder, "train")] == ["In_1", "Pa_2"]
    assert [p.name for p in find_pairs(folder, "test")] == ["Sc_10", "In_9"]
    assert sorted(p.name for p in find_pairs(folder)) == ["In_1", "In_9", "Pa_2", "Sc_10"]
    pair = find_pairs(folder, "test")[0]
    assert pair == Pair("Sc_10", folder / "Source Images" / "Sc_10.bmp", folder / "Ground truth" / "Sc_10.png")


def test_matches_two_folders_by_stem(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    save(images / "d.jpg", ramp())
    save(masks / "d.bmp", half())
    (images / "notes.txt").write_text("not a picture")
    pairs = find_pairs(images=images, masks=masks)
    assert [(p.name, p.image.name, p.mask.name) for p in pairs] == [
        *((n, f"{n}.png", f"{n}.png") for n in "abc"),
        ("d", "d.jpg", "d.bmp"),
    ]


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("colour", [False, True])
def test_reads_8_bit_pictures_of_every_format(tmp_path: Path, suffix: str, colour: bool) -> None:
    gray = ramp(32, 32)
    image = np.stack([gray, gray[::-1], 255 - gray], axis=2) if colour else gray
    pair = Pair("a", save(tmp_path / f"a{suffix}", image), save(tmp_path / "mask.png", half(32, 32)))
    answer = load_samples([pair])[0].image
    wanted = image if colour else np.repeat(gray[:, :, None], 3, axis=2)
    assert answer.dtype == np.uint8
    assert answer.shape == (32, 32, 3)
    lossy = suffix in (".jpg", ".jpeg")
    np.testing.assert_allclose(answer.astype(int), wanted.astype(int), atol=16 if lossy else 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("colour", [False, True])
def test_reads_16_bit_pictures_by_their_full_range(tmp_path: Path, suffix: str, colour: bool) -> None:
    dark = ramp().astype(np.uint16) * 100  # far from 65535: nothing may stretch it
    image = np.stack([dark, dark * 2, dark // 2], axis=2) if colour else dark
    pair = Pair("a", save(tmp_path / f"a{suffix}", image), save(tmp_path / "mask.png", half()))
    wanted = image if colour else np.repeat(dark[:, :, None], 3, axis=2)
    answer = load_samples([pair])[0].image
    np.testing.assert_allclose(answer, wanted / 65535 * 255, atol=0.5 + 1e-6)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(s, k) for s in (".png", ".bmp", ".tif") for k in ("gray", "colour", "16 bit") if (s, k) != (".bmp", "16 bit")],
)
def test_reads_masks_of_every_kind(tmp_path: Path, suffix: str, kind: str) -> None:
    mask = half()
    if kind == "colour":
        mask = np.repeat(mask[:, :, None], 3, axis=2)
    if kind == "16 bit":
        mask = mask.astype(np.uint16) * 257
    assert np.array_equal(read_truth(save(tmp_path / f"m{suffix}", mask)), half())


def test_soft_masks_are_cut_at_one_half(tmp_path: Path) -> None:
    answer = read_truth(save(tmp_path / "m.png", ramp()))
    assert np.array_equal(answer, np.where(ramp() >= 128, 255, 0))


def test_empty_and_full_masks_are_masks(tmp_path: Path) -> None:
    assert not read_truth(save(tmp_path / "empty.png", half() * 0)).any()
    assert (read_truth(save(tmp_path / "full.png", half() * 0 + 255)) == 255).all()


def test_masks_of_0_and_1_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", half() // 255)
    assert error_of(read_truth, path) == f"mask {path} holds values 0..1; expected 0 and 255"


def test_all_bad_pairs_are_named_at_once(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    (images / "a.png").write_bytes(b"not a picture")
    save(masks / "b.png", half(20, 10))
    text = error_of(load_samples, find_pairs(images=images, masks=masks))
    assert text.startswith("2 of 3 pairs cannot be used:\n")
    assert f"cannot decode image {images / 'a.png'}" in text
    assert f"mask {masks / 'b.png'} is 10x20, its picture b.png 16x12" in text


@pytest.mark.parametrize("left", [0, 50])
def test_empty_and_truncated_files_are_named(folders: tuple[Path, Path], left: int) -> None:
    images, masks = folders
    path = images / "b.png"
    path.write_bytes(path.read_bytes()[:left])
    text = error_of(load_samples, find_pairs(images=images, masks=masks))
    assert text.startswith("1 of 3 pairs cannot be used:")
    assert f"image {path} is {'truncated' if left else 'empty'}" in text


def test_many_bad_pairs_are_counted(tmp_path: Path) -> None:
    pairs = [Pair(f"p{i}", tmp_path / f"p{i}.png", tmp_path / f"p{i}.png") for i in range(20)]
    text = error_of(load_samples, pairs)
    assert text.startswith("20 of 20 pairs cannot be used:")
    assert text.endswith("and 12 more")
    assert len(text.splitlines()) == 1 + 8 + 1


def test_a_picture_without_a_mask_is_refused(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    (masks / "b.png").unlink()
    text = error_of(find_pairs, images=images, masks=masks)
    assert text == f"1 without a mask of the same stem in {masks}: b"


def test_a_mask_without_a_picture_is_refused(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    (images / "c.png").unlink()
    text = error_of(find_pairs, images=images, masks=masks)
    assert text == f"1 without a picture of the same stem in {images}: c"


def test_two_files_of_one_stem_are_refused(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    save(images / "a.bmp", ramp())
    text = error_of(find_pairs, images=images, masks=masks)
    assert text == f"2 share their stem with another file in {images}: a.bmp, a.png"


def test_an_empty_folder_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    text = error_of(find_pairs, images=folders[0], masks=tmp_path / "nothing")
    assert text.startswith(f"no image in folder {tmp_path / 'nothing'}")


def test_a_missing_folder_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    text = error_of(find_pairs, images=tmp_path / "nowhere", masks=folders[1])
    assert text.startswith(f"{tmp_path / 'nowhere'} is not a folder")


def test_another_layout_is_refused_with_a_way_out(folders: tuple[Path, Path], tmp_path: Path) -> None:
    text = error_of(find_pairs, tmp_path)
    assert f"{tmp_path} is in no layout known here: expected the folders 'Source Images' and 'Ground truth'" in text
    assert "'train-images' and 'train-labels' (orssd)" in text
    assert "use --images DIR --masks DIR" in text


def test_no_data_and_too_much_data_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert "no data given" in error_of(find_pairs)
    assert "no data given" in error_of(find_pairs, images=folders[0])
    assert "not both" in error_of(find_pairs, tmp_path, images=folders[0], masks=folders[1])


def test_a_split_that_names_absent_pictures_is_refused(steel_tree: Callable[..., Path]) -> None:
    folder = steel_tree(["In_1", "In_2"])
    (folder / "train.txt").write_text("In_1\nIn_3\nIn_2\nIn_4\n")
    text = error_of(find_pairs, folder, "train")
    assert text == f"2 named in train.txt but without a picture in {folder / 'Source Images'}: In_3, In_4"
    save(folder / "Source Images" / "In_3.bmp", ramp())
    save(folder / "Source Images" / "In_4.bmp", ramp())
    text = error_of(find_pairs, folder, "train")
    assert text == f"2 named in train.txt but without a mask in {folder / 'Ground truth'}: In_3, In_4"


def test_a_long_list_of_absent_pictures_is_shortened(steel_tree: Callable[..., Path]) -> None:
    folder = steel_tree(["In_1"])
    (folder / "train.txt").write_text("\n".join(f"Pa_{i}" for i in range(11)))
    text = error_of(find_pairs, folder, "train")
    assert text.startswith("11 named in train.txt but without a picture")
    assert text.endswith("Pa_0, Pa_1, Pa_2, Pa_3, Pa_4, Pa_5, Pa_6, Pa_7, and 3 more")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "lists no picture"),
        (b" \n\n", "lists no picture"),
        (b"a\nb\na\n", "1 listed more than once in"),
        (b"\xff\xfe", "cannot read split file"),
        (None, "cannot read split file"),
    ],
)
def test_bad_split_files_are_refused(tmp_path: Path, content: bytes | None, wanted: str) -> None:
    path = tmp_path / "train.txt"
    if content is not None:
        path.write_bytes(content)
    text = error_of(read_split, path)
    assert wanted in text
    assert str(path) in text


def test_split_files_may_have_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"In_1\r\n\r\n  In_2 \r\n")
    assert read_split(path) == ["In_1", "In_2"]


def pairs_named(*names: str) -> list[Pair]:
    return [Pair(name, Path(f"{name}.bmp"), Path(f"{name}.png")) for name in names]


def test_hold_out_takes_the_same_share_of_every_class() -> None:
    pairs = pairs_named(*(f"{defect}_{i}" for i in range(30) for defect in ("In", "Pa", "Sc")))
    kept, held = hold_out(pairs, 0.1, seed=0)
    assert [sum(p.name.startswith(d) for p in held) for d in ("In", "Pa", "Sc")] == [3, 3, 3]
    assert sorted(p.name for p in kept + held) == sorted(p.name for p in pairs)
    for part in (kept, held):
        assert part == [p for p in pairs if p in part]


def test_hold_out_of_many_small_classes_is_still_the_share_asked_for() -> None:
    for pairs in (
        pairs_named(*(f"coil{c}_{i}" for c in range(100) for i in range(4))),
        pairs_named(*(f"2026-01-01T00-00-{i:02d}.000_{i:06d}" for i in range(60))),
    ):
        kept, held = hold_out(pairs, 0.1, seed=0)
        assert len(held) == len(pairs) // 10
        assert len(kept) + len(held) == len(pairs)


def test_hold_out_depends_on_names_and_seed_alone() -> None:
    pairs = pairs_named(*(f"In_{i}" for i in range(40)))
    held = {p.name for p in hold_out(pairs, 0.2, seed=1)[1]}
    assert held == {p.name for p in hold_out(pairs[::-1], 0.2, seed=1)[1]}
    assert held != {p.name for p in hold_out(pairs, 0.2, seed=2)[1]}


def test_hold_out_of_a_few_pictures_still_holds_one() -> None:
    kept, held = hold_out(pairs_named("a_1", "b_1", "c_1"), 0.1, seed=0)
    assert (len(kept), len(held)) == (2, 1)


def test_finds_the_splits_of_orssd_and_eorssd(orssd_tree: Callable[..., Path]) -> None:
    folder = orssd_tree(["0002", "0010", "0001"], ["0003"])
    (folder / "train-edges").mkdir()  # what else lies there is none of ours
    assert choose_layout(folder) == choose_layout(folder, "orssd") == "orssd"
    assert splits_at(folder) == ["train", "test"]
    assert [p.name for p in find_pairs(folder, "train")] == ["0001", "0002", "0010"]
    pair = Pair("0003", folder / "test-images" / "0003.jpg", folder / "test-labels" / "0003.png")
    assert find_pairs(folder, "test") == [pair]
    assert [p.name for p in find_pairs(folder)] == ["0001", "0002", "0010", "0003"]
    assert load_samples([pair])[0].mask.any()


def test_orssds_splits_may_number_their_pictures_alike(orssd_tree: Callable[..., Path]) -> None:
    """They lie in two folders: equal names are other pictures, which one list of all cannot tell apart."""
    folder = orssd_tree(["0001", "0002"], ["0001"])
    splits = choose_splits(DataLocation(data=folder), "none", 0)
    assert (len(splits.train), len(splits.test)) == (2, 1)
    assert error_of(find_pairs, folder) == f"1 names are both in train and in test of {folder}; choose one: 0001"


def test_orssds_pictures_and_masks_must_match(orssd_tree: Callable[..., Path]) -> None:
    folder = orssd_tree(["0001", "0002"], ["0003"])
    (folder / "train-labels" / "0002.png").unlink()
    assert (
        error_of(find_pairs, folder, "train") == f"1 without a mask of the same stem in {folder / 'train-labels'}: 0002"
    )
    shutil.rmtree(folder / "test-labels")
    text = error_of(find_pairs, folder, "test")
    assert text == f"{folder} has no test split: expected the folders 'test-images' and 'test-labels'"


def test_test_pictures_of_orssd_are_never_trained_on(orssd_tree: Callable[..., Path]) -> None:
    folder = orssd_tree(["0001"], ["0003"])
    shutil.rmtree(folder / "train-images")
    assert "has a test split but no train split" in error_of(choose_splits, DataLocation(data=folder), "none", 0)


def test_a_folder_that_fits_two_layouts_is_not_guessed_at(
    steel_tree: Callable[..., Path], orssd_tree: Callable[..., Path]
) -> None:
    folder = steel_tree(["In_1"])
    orssd = orssd_tree(["0001"], ["0002"])
    for part in orssd.iterdir():
        part.rename(folder / part.name)
    text = error_of(find_pairs, folder, "train")
    assert text == f"{folder} fits the layouts sd-saliency-900 and orssd; choose one with --layout"
    assert [p.name for p in find_pairs(folder, "train", layout="orssd")] == ["0001"]
    assert [p.name for p in find_pairs(folder, "train", layout="sd-saliency-900")] == ["In_1"]


def test_a_layout_that_is_not_there_is_refused(steel_tree: Callable[..., Path], folders: tuple[Path, Path]) -> None:
    folder = steel_tree(["In_1"])
    text = error_of(find_pairs, folder, layout="orssd")
    assert (
        f"{folder} is in no layout known here: expected the folders 'train-images' and 'train-labels' (orssd);" in text
    )
    assert error_of(find_pairs, folder, layout="voc") == "unknown layout 'voc'; known: sd-saliency-900, orssd"
    text = error_of(find_pairs, images=folders[0], masks=folders[1], layout="orssd")
    assert text == "layout orssd is that of a data folder; give one with --data DIR"


def test_a_location_is_remembered_with_its_layout(tmp_path: Path) -> None:
    for location in (DataLocation(data=tmp_path, layout="orssd"), DataLocation(images=tmp_path, masks=tmp_path)):
        assert DataLocation.from_dict(location.to_dict()) == location
