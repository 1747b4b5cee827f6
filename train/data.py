"""Pictures with their masks: finding the pairs, checking them, and keeping them in memory.

Nothing is skipped silently: what does not fit is one error naming the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdi.runtime.common.classes import defect_class, fair_shares
from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.images import list_images, read_gray, read_image, read_split

__all__ = [
    "LAYOUTS",
    "Pair",
    "Sample",
    "choose_layout",
    "find_pairs",
    "hold_out",
    "load_samples",
    "read_split",
    "read_truth",
    "refuse_doubtful_masks",
    "splits_at",
]

IMAGES_FOLDER = "Source Images"
MASKS_FOLDER = "Ground truth"
# The layouts of data folders, each with what is looked for.
LAYOUTS = {
    "sd-saliency-900": f"'{IMAGES_FOLDER}' and '{MASKS_FOLDER}'",
    "orssd": "'train-images' and 'train-labels'",  # EORSSD's as well
}
_SPLITS = ("train", "test")
_MOSTLY_DEFECT = 0.5  # of the pixels; of SD-saliency-900 it is .12


@dataclass(frozen=True)
class Pair:
    """Paths of a picture and its mask; `name` is the stem they share."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Sample:
    """A pair in memory: image (H, W, 3) uint8 BGR, mask (H, W) uint8, 0 or 255."""

    name: str
    image: np.ndarray
    mask: np.ndarray


def find_pairs(
    data: Path | None = None,
    split: str | None = None,
    *,
    images: Path | None = None,
    masks: Path | None = None,
    layout: str | None = None,
) -> list[Pair]:
    """Match pictures with masks, by stem.

    Args:
        data: folder in one of the `LAYOUTS`; or give `images` and `masks`.
        split: "train" or "test", of `data`; None takes every pair.
        images, masks: two folders, instead of `data`.
        layout: of `data`; None recognises it, see `choose_layout`.
    Raises:
        InputError: a folder is missing or empty, a picture or a mask has no counterpart, two files share a stem,
            or the split file is missing, empty, repeats a name or names pictures that are not there.
    """
    if data is not None and (images is not None or masks is not None):
        raise InputError("give either a data folder or an images and a masks folder, not both")
    if data is not None:
        data = Path(data)
        if choose_layout(data, layout) == "orssd":
            return _orssd_pairs(data, split)
        images, masks = data / IMAGES_FOLDER, data / MASKS_FOLDER
    elif layout is not None:
        raise InputError(f"layout {layout} is that of a data folder; give one with --data DIR")
    if images is None or masks is None:
        raise InputError("no data given; use --data DIR (or set SDI_DATA), or --images DIR --masks DIR")
    if data is None or split is None:
        return _all_pairs(images, masks)
    image_of, mask_of = _by_stem(images), _by_stem(masks)
    names = read_split(data / f"{split}.txt")
    _refuse([n for n in names if n not in image_of], f"named in {split}.txt but without a picture in {images}")
    _refuse([n for n in names if n not in mask_of], f"named in {split}.txt but without a mask in {masks}")
    return [Pair(name, image_of[name], mask_of[name]) for name in names]


def choose_layout(data: Path, layout: str | None = None) -> str:
    """How pictures and masks lie in `data`, by the folders that are there.

    sd-saliency-900: `Source Images` and `Ground truth`, with the splits in train.txt and test.txt. orssd, which is
    EORSSD's as well: `train-images` and `train-labels`, `test-images` and `test-labels`.

    Args:
        layout: one of `LAYOUTS`, to be checked; None recognises the one that fits.
    Raises:
        InputError: unknown, not what is there, none fits, or more than one does.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"unknown layout '{layout}'; known: {', '.join(LAYOUTS)}")
    wanted = [layout] if layout else list(LAYOUTS)
    fitting = [name for name in wanted if _folders(data, name)]
    if len(fitting) > 1:
        raise InputError(f"{data} fits the layouts {' and '.join(fitting)}; choose one with --layout")
    if not fitting:
        expected = "; ".join(f"{LAYOUTS[name]} ({name})" for name in wanted)
        raise InputError(
            f"{data} is in no layout known here: expected the folders {expected}; for others use --images DIR "
            "--masks DIR"
        )
    return fitting[0]


def splits_at(data: Path, layout: str | None = None) -> list[str]:
    """Which of "train" and "test" a folder tells apart; empty where it has no splits."""
    if choose_layout(data, layout) == "orssd":
        return _folders(data, "orssd")
    return [split for split in _SPLITS if (data / f"{split}.txt").is_file()]


def load_samples(pairs: list[Pair]) -> list[Sample]:
    """Read every pair into memory: 540 pictures of 200x200 take 86 MB.

    Raises:
        InputError: one text that names every pair with an unreadable file, a mask of another size, or a mask
            whose values are not 0 and 255.
    """
    samples, problems = [], []
    for pair in pairs:
        try:
            samples.append(Sample(pair.name, *_read_pair(pair)))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(f"{len(problems)} of {len(pairs)} pairs cannot be used:\n  " + some_of(problems, "\n  "))
    return samples


def read_truth(path: Path) -> np.ndarray:
    """A mask as (H, W) uint8, 0 or 255, cut at 128.

    Raises:
        InputError: unreadable, or nowhere as bright as 128 without being empty (a mask of 0 and 1, or of labels).
    """
    mask = read_gray(path)
    brightest = int(mask.max())
    if 0 < brightest < 128:
        raise InputError(f"mask {path} holds values 0..{brightest}; expected 0 and 255")
    return np.where(mask >= 128, np.uint8(255), np.uint8(0))


def refuse_doubtful_masks(masks: Iterable[np.ndarray]) -> None:
    """Make sure that masks, (H, W) uint8 of 0 and 255 each, can be what they should: defects on steel.

    Raises:
        InputError: more than half of the pixels, on average, are a defect, or not a single one is.
    """
    shares = [float((mask > 0).mean()) for mask in masks]
    trust = "if they are right as they are, pass --trust-masks"
    if not any(shares):
        raise InputError(f"none of {len(shares)} masks shows a defect; expected 255 where there is one; {trust}")
    if (mean := sum(shares) / len(shares)) > _MOSTLY_DEFECT:
        raise InputError(
            f"on average {mean:.0%} of a mask is a defect: are the {len(shares)} masks inverted? Expected 255 where "
            f"there is a defect and 0 elsewhere; {trust}"
        )


def hold_out(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split off a validation part, the same share of every defect class, as near as whole pictures allow.

    Returns:
        (kept, held out), each in the order of `pairs`. The choice depends on the names and the seed alone.
    """
    rng = np.random.default_rng(seed)
    classes: dict[str, list[str]] = {}
    for pair in pairs:
        classes.setdefault(defect_class(pair.name), []).append(pair.name)
    wanted = max(1, round(fraction * len(pairs))) if fraction > 0 and len(pairs) > 1 else 0
    shares = fair_shares({name: len(names) for name, names in sorted(classes.items())}, wanted)
    held: set[str] = set()
    for name, share in shares.items():
        names = sorted(classes[name])
        held |= {names[i] for i in rng.permutation(len(names))[:share]}
    return [p for p in pairs if p.name not in held], [p for p in pairs if p.name in held]


def _read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    image, mask = read_image(pair.image), read_truth(pair.mask)
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"mask {pair.mask} is {mask.shape[1]}x{mask.shape[0]}, its picture {pair.image.name} "
            f"{image.shape[1]}x{image.shape[0]}"
        )
    return image, mask


def _folders(data: Path, layout: str) -> list[str]:
    """The pairs of folders of a layout that are there: split names, or "all" where splits are files."""
    if layout == "orssd":
        return [s for s in _SPLITS if (data / f"{s}-images").is_dir() and (data / f"{s}-labels").is_dir()]
    return ["all"] if (data / IMAGES_FOLDER).is_dir() and (data / MASKS_FOLDER).is_dir() else []


def _orssd_pairs(data: Path, split: str | None) -> list[Pair]:
    there = _folders(data, "orssd")
    if split is not None and split not in there:
        raise InputError(f"{data} has no {split} split: expected the folders '{split}-images' and '{split}-labels'")
    pairs = [
        pair for s in ([split] if split else there) for pair in _all_pairs(data / f"{s}-images", data / f"{s}-labels")
    ]
    counts = Counter(pair.name for pair in pairs)
    _refuse([name for name, n in counts.items() if n > 1], f"names are both in train and in test of {data}; choose one")
    return pairs


def _all_pairs(images: Path, masks: Path) -> list[Pair]:
    image_of, mask_of = _by_stem(images), _by_stem(masks)
    _refuse(sorted(set(image_of) - set(mask_of)), f"without a mask of the same stem in {masks}")
    _refuse(sorted(set(mask_of) - set(image_of)), f"without a picture of the same stem in {images}")
    return [Pair(name, image_of[name], mask_of[name]) for name in image_of]


def _by_stem(folder: Path) -> dict[str, Path]:
    files = list_images(folder)
    stems = Counter(path.stem for path in files)
    _refuse([p.name for p in files if stems[p.stem] > 1], f"share their stem with another file in {folder}")
    return {path.stem: path for path in files}


def _refuse(names: list[str], why: str) -> None:
    if names:
        raise InputError(f"{len(names)} {why}: {some_of(names)}")
