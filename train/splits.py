"""Which pictures a network is trained on, which choose its best weights, and which stay untouched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdi.runtime.common.errors import InputError, some_of
from sdi.train.data import Pair, Sample, find_pairs, hold_out, splits_at

__all__ = ["DataLocation", "Splits", "choose_splits", "refuse_leaks"]


_FOLDERS = ("data", "images", "masks")


@dataclass(frozen=True)
class DataLocation:
    """Where pictures and masks lie, and their scale: a folder in a known layout, or two folders matched by stem.

    Raises:
        InputError: the scale is not above 0.
    """

    data: Path | None = None
    images: Path | None = None
    masks: Path | None = None
    layout: str | None = None  # of data; None recognises it
    mm_per_pixel: float | None = None  # of the pictures; None: unknown

    def __post_init__(self) -> None:
        if self.mm_per_pixel is not None and not 0 < self.mm_per_pixel < math.inf:
            raise InputError(f"mm-per-pixel must be above 0, e.g. 0.25, got {self.mm_per_pixel}")

    def folders(self) -> list[Path]:
        """The folders that are given."""
        return [path for path in (self.data, self.images, self.masks) if path is not None]

    def to_dict(self) -> dict[str, Any]:
        """What is given, with absolute paths, for a checkpoint to find its data again."""
        given = {name: value for name, value in vars(self).items() if value}
        return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in given.items()}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> DataLocation:
        """The inverse of `to_dict`."""
        known: dict[str, Any] = {name: Path(item) if name in _FOLDERS else item for name, item in value.items()}
        return DataLocation(**known)


@dataclass(frozen=True)
class Splits:
    """Disjoint pairs of one location."""

    train: list[Pair]
    validation: list[Pair]  # chooses best.pt; empty where nothing does
    test: list[Pair]  # never looked at in training; empty where there is no test split, or it validates


def choose_splits(location: DataLocation, validation: str, seed: int) -> Splits:
    """Divide the pictures of a location into training, validation and test.

    Args:
        validation: a share of the training pictures such as "0.1", "none", or "test" for the test split.
        seed: chooses which pictures are held out.
    Raises:
        InputError: pictures, masks or split files are missing or do not fit; see `find_pairs`.
    """
    folder = location.data
    found = splits_at(folder, location.layout) if folder is not None else []
    if found == ["test"]:
        raise InputError(
            f"{folder} has a test split but no train split (train.txt or train-images); without one it would be "
            "trained on its test pictures"
        )
    split = "train" if found else None
    pairs = find_pairs(folder, split, images=location.images, masks=location.masks, layout=location.layout)
    test = find_pairs(folder, "test", layout=location.layout) if "test" in found else []
    tested = {pair.image for pair in test}
    leaked = sorted(pair.name for pair in pairs if pair.image in tested)
    if leaked:
        raise InputError(f"{len(leaked)} pictures are both in train.txt and in test.txt: {some_of(leaked)}")
    if validation == "none":
        return Splits(pairs, [], test)
    if validation == "test":
        if not test:
            raise InputError("--val test needs --data with a test split; use a share, e.g. --val 0.1")
        return Splits(pairs, test, [])
    kept, held = hold_out(pairs, float(validation), seed)
    return Splits(kept, held, test)


def refuse_leaks(samples: list[Sample], validation: list[Sample]) -> None:
    """Make sure that no validation picture is trained on under another name.

    Raises:
        InputError: equal pictures on both sides; the text names them.
    """
    seen = {sample.image.tobytes(): sample.name for sample in samples}
    twins = [f"{s.name} equals {seen[s.image.tobytes()]}" for s in validation if s.image.tobytes() in seen]
    if twins:
        raise InputError(
            f"{len(twins)} validation pictures are also trained on: {some_of(twins)}; remove one of each, or choose "
            "another --seed"
        )
