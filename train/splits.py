"""Which pictures a network is trained on, which choose its best weights, and which stay untouched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdi.runtime.errors import InputError, some_of
from sdi.train.data import Pair, Sample, find_pairs, hold_out

__all__ = ["Place", "Splits", "choose_splits", "refuse_leaks"]


@dataclass(frozen=True)
class Place:
    """Where pictures and masks lie: a folder in the SD-saliency-900 layout, or two folders matched by stem."""

    data: Path | None = None
    images: Path | None = None
    masks: Path | None = None

    def to_dict(self) -> dict[str, str]:
        """Absolute paths of what is given, for a checkpoint to find its data again."""
        given = {"data": self.data, "images": self.images, "masks": self.masks}
        return {name: str(path.resolve()) for name, path in given.items() if path is not None}

    @staticmethod
    def from_dict(value: dict[str, str]) -> Place:
        """The inverse of `to_dict`."""
        return Place(**{name: Path(path) for name, path in value.items()})


@dataclass(frozen=True)
class Splits:
    """Disjoint pairs of a place."""

    train: list[Pair]
    validation: list[Pair]  # chooses best.pt; empty where nothing does
    test: list[Pair]  # never looked at in training; empty where the place has no test split, or it validates


def choose_splits(place: Place, validation: str, seed: int) -> Splits:
    """Divide what lies at a place.

    Args:
        validation: a share of the training pictures such as "0.1", "none", or "test" for the test split.
        seed: chooses which pictures are held out.
    Raises:
        InputError: pictures, masks or split files are missing or do not fit; see `find_pairs`.
    """
    folder = place.data
    found = [name for name in ("train", "test") if folder is not None and (folder / f"{name}.txt").is_file()]
    if found == ["test"]:
        raise InputError(
            f"{folder} has a test.txt but no train.txt; without one it would be trained on its test pictures"
        )
    pairs = find_pairs(folder, "train" if found else None, images=place.images, masks=place.masks)
    test = find_pairs(folder, "test") if "test" in found else []
    leaked = sorted({pair.name for pair in pairs} & {pair.name for pair in test})
    if leaked:
        raise InputError(f"{len(leaked)} pictures are both in train.txt and in test.txt: {some_of(leaked)}")
    if validation == "none":
        return Splits(pairs, [], test)
    if validation == "test":
        if not test:
            raise InputError("--val test needs --data with a test.txt; use a share, e.g. --val 0.1")
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
