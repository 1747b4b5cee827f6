"""Choosing calibration pictures: from every defect class, spread over appearance, none twice, none of the test."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdi.calibration.appearance import Appearance, appearance_of, descriptors, near_copies
from sdi.calibration.picture_set import CalibrationPicture, CalibrationSet
from sdi.runtime.common.classes import defect_class, fair_shares
from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.files import sha256_of
from sdi.runtime.common.images import list_images, read_image, read_split
from sdi.runtime.common.progress import SILENT, Progress

__all__ = ["FEW", "HeldOut", "choose_calibration_set", "find_held_out"]

FEW = 32  # ranges of fewer pictures follow single ones


@dataclass(frozen=True)
class HeldOut:
    """What must stay untouched: stems, and the files whose content must not come in under another name."""

    names: frozenset[str] = frozenset()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    path: Path
    pixels: bytes  # equal for equal pictures, whatever their format
    looks: Appearance


def find_held_out(images: Path, test: Path | None) -> HeldOut:
    """The test pictures of a folder.

    Args:
        test: a split file of `images`, or another folder of pictures, whose names mean nothing here; None looks for
            `test.txt` in `images` and beside it, and for a folder `test-images` beside it.
    Raises:
        InputError: `test` is there but names or holds no picture.
    """
    if test is None:
        parent = images.resolve().parent
        candidates = (images / "test.txt", parent / "test.txt", parent / "test-images")
        test = next((path for path in candidates if path.exists() and path.resolve() != images.resolve()), None)
        if test is None:
            return HeldOut()
    if test.is_dir():
        return HeldOut(files=tuple(list_images(test)))
    names = frozenset(read_split(test))
    return HeldOut(names, tuple(path for path in list_images(images) if path.stem in names))


def choose_calibration_set(
    folder: Path,
    count: int,
    names: Collection[str] | None = None,
    *,
    held_out: HeldOut = HeldOut(),
    seed: int = 0,
    progress: Progress = SILENT,
) -> CalibrationSet:
    """Pick `count` pictures of a folder: the same share of every class, and within it as different as can be.

    Left out, by name: copies and near copies of another picture, and test pictures under whatever name.

    Args:
        names: take only pictures with these stems, e.g. those of the training split.
        held_out: pictures to stay away from.
        seed: chooses the first picture of each class.
        progress: shows how many pictures are read.
    Raises:
        InputError: pictures that cannot be read, are of one gray level or are noise (named), test pictures asked
            for by name, names without a picture, a class without a picture, or too few pictures.
    """
    everything = list_images(folder)
    paths = _narrowed(folder, everything, names, held_out)
    classes = {defect_class(name) for name in (*(path.stem for path in everything), *held_out.names)}
    candidates, problems = _read(progress.track(paths, "reading"))
    if problems:
        raise InputError("these cannot calibrate anything:\n  " + some_of(problems, "\n  "))
    candidates, left_out = _without_copies(candidates, _read(held_out.files)[0])
    outside = len(everything) - len(paths) if names is None else 0
    if outside:
        left_out.insert(0, f"{outside} pictures of the test split")
    missing = sorted(classes - {defect_class(c.path.stem) for c in candidates})
    if missing and count >= len(classes):
        raise InputError(
            f"no picture of class {', '.join(missing)} is left to choose from, though {folder} or the test split has "
            "that class: INT8 ranges would not cover it; widen --names, or add pictures"
        )
    if len(candidates) < count:
        raise InputError(
            f"{folder} holds {len(candidates)} different pictures to choose from, {count} are asked for; add real "
            f"pictures of the line or pass --count {len(candidates)}"
        )
    chosen = [
        CalibrationPicture(
            candidate.path.name,
            defect_class(candidate.path.stem),
            sha256_of(candidate.path),
            round(candidate.looks.mean, 3),
            round(candidate.looks.contrast, 3),
        )
        for candidate in _spread(candidates, count, seed)
    ]
    return CalibrationSet(
        str(folder.resolve()), seed, tuple(sorted(chosen, key=lambda picture: picture.file)), tuple(left_out)
    )


def _narrowed(folder: Path, everything: list[Path], names: Collection[str] | None, test: HeldOut) -> list[Path]:
    """The pictures that may be chosen, by their names."""
    if names is None:
        return [path for path in everything if path.stem not in test.names]
    wanted = set(names)
    if leaked := sorted(wanted & test.names):
        raise InputError(
            f"{len(leaked)} of --names are test pictures: {some_of(leaked)}; scores on them would prove nothing, "
            "so take them out"
        )
    if absent := sorted(wanted - {path.stem for path in everything}):
        raise InputError(f"{len(absent)} of --names have no picture in {folder}: {some_of(absent)}")
    return [path for path in everything if path.stem in wanted]


def _read(paths: Iterable[Path]) -> tuple[list[_Candidate], list[str]]:
    """What can calibrate, and what is wrong with the rest."""
    candidates, problems = [], []
    for path in paths:
        try:
            image = read_image(path)
        except InputError as error:
            problems.append(str(error))
            continue
        if image.min() == image.max():
            problems.append(f"image {path} is of one gray level")
            continue
        if min(image.shape[:2]) < 2:
            problems.append(f"image {path} is one row or one column of pixels")
            continue
        looks = appearance_of(image)
        if looks.is_random:
            problems.append(
                f"image {path} is random: neighbouring pixels correlate by {looks.correlation:.2f}, real steel by .9; "
                "ranges of noise are not those of steel"
            )
            continue
        candidates.append(_Candidate(path, repr(image.shape).encode() + image.tobytes(), looks))
    return candidates, problems


def _without_copies(candidates: list[_Candidate], test: list[_Candidate]) -> tuple[list[_Candidate], list[str]]:
    """Candidates without those that equal, or look like, one before them or a test picture; and why each went."""
    reasons: dict[int, str] = {}
    first: dict[bytes, int] = {}
    tested = {c.pixels: c.path.name for c in test}
    for i, candidate in enumerate(candidates):
        if candidate.pixels in tested:
            reasons[i] = f"{candidate.path.name} equals test picture {tested[candidate.pixels]}"
        elif candidate.pixels in first:
            reasons[i] = f"{candidate.path.name} equals {candidates[first[candidate.pixels]].path.name}"
        else:
            first[candidate.pixels] = i
    looks = [candidate.looks for candidate in candidates]
    for i, j in near_copies(looks, [c.looks for c in test]):
        reasons.setdefault(i, f"{candidates[i].path.name} looks like test picture {test[j].path.name}")
    for i, j in near_copies(looks):
        if j not in reasons:
            reasons.setdefault(i, f"{candidates[i].path.name} looks like {candidates[j].path.name}")
    return [c for i, c in enumerate(candidates) if i not in reasons], [reasons[i] for i in sorted(reasons)]


def _spread(candidates: list[_Candidate], count: int, seed: int) -> list[_Candidate]:
    """Each class gives its share; within it, every next picture is the one that is most unlike those already taken."""
    rows = descriptors([candidate.looks for candidate in candidates])
    members: dict[str, list[int]] = {}
    for i, candidate in enumerate(candidates):
        members.setdefault(defect_class(candidate.path.stem), []).append(i)
    shares = fair_shares({name: len(indices) for name, indices in members.items()}, count)
    rng = np.random.default_rng(seed)
    chosen: list[_Candidate] = []
    for name, indices in sorted(members.items()):
        own = rows[indices]
        taken: list[int] = []
        nearest = np.full(len(own), np.inf)  # of each picture: distance to the nearest one taken
        while len(taken) < shares[name]:
            pick = int(rng.integers(len(own))) if not taken else int(nearest.argmax())
            taken.append(pick)
            nearest = np.minimum(nearest, np.linalg.norm(own - own[pick], axis=1))
            nearest[taken] = -1.0
        chosen += [candidates[indices[i]] for i in taken]
    return chosen
