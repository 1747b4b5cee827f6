"""One evaluation: maps against masks, over all pictures, by defect class and by failure class; and clean steel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from sdi.runtime.common.classes import defect_class
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.progress import SILENT, Progress
from sdi.runtime.inspection.defects import gray_level
from sdi.train.data import Pair, read_truth
from sdi.train.evaluation.defects import OperatingPoints, PictureDefects, match_defects
from sdi.train.evaluation.failure_classes import FAILURE_CLASSES, failure_classes
from sdi.train.evaluation.maps import MapSource
from sdi.train.scores import Measured, PictureScores, Scorer, mean_scores

__all__ = [
    "ALL",
    "NO_DEFECT",
    "TEST",
    "TRAINING",
    "Case",
    "CleanSteel",
    "Evaluation",
    "Keep",
    "evaluate",
    "evaluate_clean",
    "scores_of",
    "thumbnail",
]

ALL = "all"
TEST = "test split"
TRAINING = "training split"
NO_DEFECT = "no defect"
_THUMBNAIL = 200  # pixels of the longer side: SD-saliency-900's own

Keep = Callable[[str, np.ndarray], None]  # is given a picture's name and map


@dataclass(frozen=True)
class Case:
    """One picture and how its map fared. `preview` is the map, (h, w) uint8, at most 200 pixels a side."""

    pair: Pair
    measured: Measured
    failures: tuple[str, ...]  # names of its failure classes
    preview: np.ndarray
    truth_sha256: str  # of the mask's pixels, 0 or 255
    has_defect: bool  # the mask shows any
    defects: PictureDefects  # its defects and regions at every operating point


@dataclass(frozen=True)
class Evaluation:
    """All pictures of one source of maps, in the order of the data set.

    Attributes:
        test_split: names of the pictures of the test split, where others are scored besides; else empty.
    """

    label: str
    detail: str
    cases: list[Case]
    test_split: frozenset[str] = frozenset()

    def groups(self) -> dict[str, list[Case]]:
        """Cases by group: all, both splits, each defect class that file names tell, pictures without a defect where
        others have one, and each failure class. No group is empty.

        Where some pictures have a defect and others none, those without are a group of their own and in no other one:
        S, F and E of an empty mask are 0 or 1, whatever the network is worth.
        """
        clean = [case for case in self.cases if not case.has_defect]
        if not 0 < len(clean) < len(self.cases):
            clean = []
        judged = [case for case in self.cases if case.has_defect] if clean else self.cases
        groups = {ALL: judged}
        for case in judged:
            if self.test_split:
                groups.setdefault(TEST if case.pair.name in self.test_split else TRAINING, []).append(case)
        for case in self.cases:
            if case.has_defect and (name := defect_class(case.pair.name)):
                groups.setdefault(f"class {name}", []).append(case)
        if clean:
            groups[NO_DEFECT] = clean
        for kind in FAILURE_CLASSES:
            if members := [case for case in self.cases if kind.name in case.failures]:
                groups[kind.name] = members
        return groups

    def table(self, *, stretched: bool = True) -> dict[str, dict[str, float]]:
        """Number of pictures and mean scores, by group."""
        return {
            name: {"pictures": len(cases), **mean_scores(scores_of(cases, stretched=stretched))}
            for name, cases in self.groups().items()
        }

    def ranked(self) -> list[Case]:
        """The best S-measure first; equal ones by name."""
        return sorted(self.cases, key=lambda case: (-case.measured.stretched.s, case.pair.name))


@dataclass(frozen=True)
class CleanSteel:
    """How much of defect-free pictures is taken for a defect.

    Attributes:
        areas: by picture, the share of pixels at or over the threshold, 0..1.
    """

    threshold: float
    areas: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.areas.values())))

    @property
    def worst(self) -> tuple[str, float]:
        """Name and area of the picture with the maximum area, the first where several have it."""
        return max(self.areas.items(), key=lambda item: item[1])

    def to_dict(self) -> dict[str, float | int | str]:
        name, area = self.worst
        return {
            "pictures": len(self.areas),
            "threshold": self.threshold,
            "mean_area": self.mean,
            "worst_area": area,
            "worst_picture": name,
            "pictures_with_any": sum(area > 0 for area in self.areas.values()),
        }


def evaluate(
    pairs: Sequence[Pair],
    source: MapSource,
    scorer: Scorer,
    *,
    points: OperatingPoints,
    keep: Keep | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score the maps of `pairs`.

    Args:
        points: thresholds and least areas at which defects and regions are matched, in maps as they are.
    Raises:
        InputError: a picture, mask or map is missing, unreadable or of the wrong size; the text names it.
        DeviceError: an engine or a worker failed.
    """
    gathered: list[tuple[tuple[str, ...], np.ndarray, str, bool, PictureDefects]] = []

    def maps() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for pair, saliency in zip(pairs, source.maps([pair.image for pair in pairs]), strict=True):
            truth = read_truth(pair.mask)
            if saliency.shape != truth.shape:
                raise InputError(
                    f"{source.origin(pair.image)} is {saliency.shape[1]}x{saliency.shape[0]}, its mask {pair.mask} "
                    f"{truth.shape[1]}x{truth.shape[0]}"
                )
            if keep is not None:
                keep(pair.name, saliency)
            digest = hashlib.sha256(truth.tobytes()).hexdigest()
            matched = match_defects(pair.name, saliency, truth, points)
            gathered.append((failure_classes(truth), thumbnail(saliency), digest, bool(truth.any()), matched))
            yield saliency, truth

    measured = list(progress.track(scorer.measure(maps()), source.label, len(pairs)))
    cases = [Case(pair, scores, *known) for pair, scores, known in zip(pairs, measured, gathered, strict=True)]
    return Evaluation(source.label, source.detail, cases)


def evaluate_clean(
    pictures: Sequence[Path],
    source: MapSource,
    threshold: float,
    *,
    keep: Keep | None = None,
    progress: Progress = SILENT,
) -> CleanSteel:
    """False-positive area of each defect-free picture; the maps are taken as they are, never stretched."""
    level = gray_level(threshold)
    clean = CleanSteel(threshold)
    maps = progress.track(source.maps(pictures), "clean steel", len(pictures))
    for picture, saliency in zip(pictures, maps, strict=True):
        if keep is not None:
            keep(picture.stem, saliency)
        clean.areas[picture.stem] = float((saliency >= level).mean())
    return clean


def scores_of(cases: Sequence[Case], *, stretched: bool = True) -> list[PictureScores]:
    """One of the two measurements of each case."""
    return [case.measured.stretched if stretched else case.measured.raw for case in cases]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """`image` at most 200 pixels a side, its proportions kept; as it is where it is small enough."""
    scale = _THUMBNAIL / max(image.shape[:2])
    if scale >= 1:
        return image
    size_wh = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
