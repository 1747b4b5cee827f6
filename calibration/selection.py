"""Choosing calibration pictures: from every defect class, spread over brightness, none twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sdi.runtime.classes import defect_class, fair_shares
from sdi.runtime.errors import InputError, some_of
from sdi.runtime.files import sha256_of, write_text
from sdi.runtime.images import list_images, read_image

__all__ = ["CalibrationPicture", "CalibrationSet", "choose_calibration_set"]

_FORMAT = "sdi-calibration"


@dataclass(frozen=True)
class CalibrationPicture:
    """One chosen file; `defect_class` is its name before the last `_`."""

    file: str
    defect_class: str
    sha256: str
    mean: float  # gray level, 0..255


@dataclass(frozen=True)
class CalibrationSet:
    """The chosen pictures, in the order of their names."""

    images: str  # the folder they lie in
    pictures: tuple[CalibrationPicture, ...]
    left_out: tuple[str, ...]  # exact copies of a picture that is in the folder under another name

    @property
    def fingerprint(self) -> str:
        """One SHA-256 over the pictures' contents; names and places do not matter."""
        return hashlib.sha256("".join(sorted(p.sha256 for p in self.pictures)).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the set as JSON, whole or not at all."""
        value = {"format": _FORMAT, "format_version": 1, "fingerprint": self.fingerprint, **asdict(self)}
        write_text(path, json.dumps(value, indent=2) + "\n")


def choose_calibration_set(
    folder: Path,
    size: int,
    names: list[str] | None = None,
    shown: Callable[[list[Path]], Iterable[Path]] = iter,
) -> CalibrationSet:
    """Pick `size` pictures of a folder: the same share of every class, evenly spaced in mean gray level.

    The choice depends on the pictures alone, so it needs no seed.

    Args:
        names: take only pictures with these stems, e.g. those of the training split.
        shown: wraps the list of paths while they are read, e.g. with a progress bar.
    Raises:
        InputError: pictures that cannot be read or are of one gray level (named), or too few different ones.
    """
    found: dict[str, CalibrationPicture] = {}  # by content
    copies, problems = [], []
    paths = list_images(folder)
    if names is not None:
        paths = [path for path in paths if path.stem in set(names)]
    for path in shown(paths):
        try:
            image = read_image(path)
        except InputError as error:
            problems.append(str(error))
            continue
        if image.min() == image.max():
            problems.append(f"image {path} is of one gray level")
            continue
        content = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if content in found:
            copies.append(f"{path.name} equals {found[content].file}")
            continue
        mean = round(float(image.mean()), 3)
        found[content] = CalibrationPicture(path.name, defect_class(path.stem), sha256_of(path), mean)
    if problems:
        raise InputError("these cannot calibrate anything:\n  " + some_of(problems, "\n  "))
    if len(found) < size:
        raise InputError(
            f"{folder} holds {len(found)} different pictures, {size} are asked for; add real pictures of the line "
            f"or pass --size {len(found)}"
        )
    chosen = _spread(list(found.values()), size)
    return CalibrationSet(str(folder), tuple(sorted(chosen, key=lambda p: p.file)), tuple(copies))


def _spread(pictures: list[CalibrationPicture], size: int) -> list[CalibrationPicture]:
    """Each class gives its share; within it, equal steps through the gray levels, both ends included."""
    classes: dict[str, list[CalibrationPicture]] = {}
    for picture in sorted(pictures, key=lambda p: (p.mean, p.sha256)):
        classes.setdefault(picture.defect_class, []).append(picture)
    shares = fair_shares({name: len(members) for name, members in classes.items()}, size)
    chosen = []
    for name, members in sorted(classes.items()):
        last = len(members) - 1
        # One alone is the middle one: an end would stand for nothing but itself.
        steps = np.linspace(0, last, shares[name]) if shares[name] != 1 else np.array([last / 2])
        chosen += [members[i] for i in steps.round().astype(int)]
    return chosen
