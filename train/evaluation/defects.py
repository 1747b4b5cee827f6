"""Scores by defect: which are found, and which regions are false.

A defect is a connected region (8 neighbours) of the truth; it is found where enough of its pixels lie in regions that
count. A region is a connected one of the map over the threshold; it counts from the least area on, and is false where
it shares no pixel with a defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sdi.runtime.common.classes import defect_class
from sdi.runtime.inspection.defects import gray_level

__all__ = ["SIZE_CLASSES", "DefectScores", "OperatingPoints", "PictureDefects", "defect_regions", "match_defects"]

_THRESHOLDS = tuple(n / 50 for n in range(1, 50))
_MIN_AREAS = (1, 4, 9, 16, 25, 50, 100, 200, 400)
_SHARES = {"found_10": 0.1, "found_50": 0.5}  # of a defect's pixels
# Least pixels of a size class: squares of 10, 20 and 40 pixels a side part them.
SIZE_CLASSES = {"under 100 px": 0, "100 to 399 px": 100, "400 to 1599 px": 400, "1600 px and more": 1600}


@dataclass(frozen=True)
class OperatingPoints:
    """Where maps are judged: every threshold with every least area, both in rising order."""

    thresholds: tuple[float, ...]
    min_areas: tuple[int, ...]

    @staticmethod
    def around(threshold: float, min_area: int) -> OperatingPoints:
        """A grid that has this point in it."""
        return OperatingPoints(tuple(sorted({*_THRESHOLDS, threshold})), tuple(sorted({*_MIN_AREAS, min_area})))


@dataclass(frozen=True)
class PictureDefects:
    """How one picture's map fared. T thresholds, A least areas, D defects.

    Args:
        pixels: of the picture.
        classes: of each defect.
        sizes: (D,) int, pixels of each defect.
        covered: (D, T, A) int, pixels of it that lie in regions that count.
        marked: (T, A) int, pixels in regions that count.
        false: (T, A) int, regions that count and are false.
    """

    name: str
    pixels: int
    classes: tuple[str, ...]
    sizes: np.ndarray
    covered: np.ndarray
    marked: np.ndarray
    false: np.ndarray


def defect_regions(truth: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of defects in a mask, and (H, W) int32: 0 where there is none, else 1 and up."""
    count, labels = cv2.connectedComponents((truth >= 128).astype(np.uint8), connectivity=8)
    return count - 1, labels


def match_defects(
    name: str,
    saliency: np.ndarray,
    truth: np.ndarray,
    points: OperatingPoints,
    classes: Sequence[str] | None = None,
) -> PictureDefects:
    """Regions of the map against defects of the truth, at every point.

    Args:
        saliency: (H, W) uint8, probability x 255.
        truth: (H, W) uint8, 0 or 255.
        classes: of each defect, in the order of `defect_regions`; by default what the picture's name tells.
    """
    count, labels = defect_regions(truth)
    where = np.flatnonzero(labels)
    own = labels.ravel()[where] - 1
    areas_wanted = np.array(points.min_areas)
    shape = (len(points.thresholds), len(areas_wanted))
    covered = np.zeros((count, *shape), np.int64)
    marked, false = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    brightest = int(saliency.max())
    for t, threshold in enumerate(points.thresholds):
        level = gray_level(threshold)
        if level > brightest:
            break
        over = (saliency >= level).astype(np.uint8)
        _, regions, boxes, _ = cv2.connectedComponentsWithStats(over, connectivity=8)
        areas = boxes[:, cv2.CC_STAT_AREA].astype(np.int64)
        areas[0] = 0  # what lies under the threshold is no region
        counts = areas[:, None] >= areas_wanted
        region_of = regions.ravel()[where]
        is_false = np.ones(len(areas), bool)
        is_false[region_of] = False
        marked[t] = (counts * areas[:, None]).sum(0)
        false[t] = counts[is_false].sum(0)
        # Pixels that each region shares with each defect: few pairs, however many pixels.
        pairs, shared = np.unique(own.astype(np.int64) * len(areas) + region_of, return_counts=True)
        np.add.at(covered[:, t], pairs // len(areas), counts[pairs % len(areas)] * shared[:, None])
    sizes = np.bincount(own, minlength=count)
    names = tuple(classes) if classes is not None else (defect_class(name),) * count
    return PictureDefects(name, truth.size, names, sizes, covered, marked, false)


@dataclass(frozen=True)
class DefectScores:
    """Over all pictures, at one threshold and least area, which are among `points`; and over all points."""

    points: OperatingPoints
    pictures: Sequence[PictureDefects]
    threshold: float
    min_area: int
    mm_per_pixel: float | None = None

    def found(self) -> dict[str, dict[str, int]]:
        """Number of defects, and how many are found by a tenth and by half of their pixels: of all, by class, by size.

        No group is empty.
        """
        sizes = np.concatenate([picture.sizes for picture in self.pictures])
        classes = [name for picture in self.pictures for name in picture.classes]
        groups = {"all": np.ones(len(sizes), bool)}
        for name in sorted(set(classes) - {""}):
            groups[f"class {name}"] = np.array([own == name for own in classes])
        least = [*SIZE_CLASSES.values(), np.inf]
        for n, name in enumerate(SIZE_CLASSES):
            groups[name] = (sizes >= least[n]) & (sizes < least[n + 1])
        t, a = self._own
        found = {name: self._found(share)[:, t, a] for name, share in _SHARES.items()}
        return {
            name: {
                "defects": int(members.sum()),
                **{each: int(is_found[members].sum()) for each, is_found in found.items()},
            }
            for name, members in groups.items()
            if members.any() or name == "all"
        }

    def false_regions(self) -> dict[str, dict[str, float]]:
        """Number of false regions, and how many a picture, a megapixel and, with a scale, a square metre: of all
        pictures, of those with defects and of clean ones. No group is empty."""
        kinds = {
            "all": list(self.pictures),
            "with defects": [picture for picture in self.pictures if len(picture.sizes)],
            "clean": [picture for picture in self.pictures if not len(picture.sizes)],
        }
        return {name: self._false(members) for name, members in kinds.items() if members}

    def iou(self) -> float:
        """Intersection over union of regions that count and the truth, over all pixels of all pictures; 1 where there
        is neither."""
        t, a = self._own
        hits = sum(int(picture.covered[:, t, a].sum()) for picture in self.pictures)
        union = sum(int(picture.marked[t, a] + picture.sizes.sum()) for picture in self.pictures) - hits
        return hits / union if union else 1.0

    def froc(self) -> list[dict[str, float]]:
        """By rising threshold, at the least area chosen: shares of the defects found, and false regions a megapixel.

        Source: free-response receiver operating characteristic, Bunch et al., 1978.
        """
        return [self._point(t, self._own[1]) for t in range(len(self.points.thresholds))]

    def holding(self, false_a_megapixel: float) -> dict[str, float] | None:
        """Threshold and least area that hold this rate and find most defects by half of their pixels.

        Where several do: most by a tenth, then fewest false, then the highest threshold and the smallest area. None
        where no point holds it.
        """
        every = [
            self._point(t, a) for t in range(len(self.points.thresholds)) for a in range(len(self.points.min_areas))
        ]
        holding = [point for point in every if point["false_a_megapixel"] <= false_a_megapixel]
        if not holding:
            return None
        return max(
            holding,
            key=lambda p: (p["found_50"], p["found_10"], -p["false_a_megapixel"], p["threshold"], -p["min_area"]),
        )

    def to_dict(self, wished: float) -> dict[str, Any]:
        """Plain values for JSON, with the point that holds `wished` false regions a megapixel."""
        return {
            "threshold": self.threshold,
            "min_area": self.min_area,
            "found": self.found(),
            "false_regions": self.false_regions(),
            "iou": self.iou(),
            "froc": self.froc(),
            "wished_false_a_megapixel": wished,
            "holding": self.holding(wished),
        }

    @property
    def _own(self) -> tuple[int, int]:
        return self.points.thresholds.index(self.threshold), self.points.min_areas.index(self.min_area)

    @property
    def _megapixels(self) -> float:
        return sum(picture.pixels for picture in self.pictures) / 1e6

    def _found(self, share: float) -> np.ndarray:
        """(D, T, A) bool, of all pictures' defects."""
        return np.concatenate([p.covered >= share * p.sizes[:, None, None] for p in self.pictures])

    def _false(self, pictures: Sequence[PictureDefects]) -> dict[str, float]:
        t, a = self._own
        regions = sum(int(picture.false[t, a]) for picture in pictures)
        megapixels = sum(picture.pixels for picture in pictures) / 1e6
        rates = {
            "pictures": len(pictures),
            "regions": regions,
            "a_picture": regions / len(pictures),
            "a_megapixel": regions / megapixels,
        }
        if self.mm_per_pixel is not None:
            # A megapixel of 1 mm a pixel is a square metre.
            rates["a_square_metre"] = regions / (megapixels * self.mm_per_pixel**2)
        return rates

    def _point(self, t: int, a: int) -> dict[str, float]:
        defects = sum(len(picture.sizes) for picture in self.pictures)
        shares = {
            name: float(self._found(share)[:, t, a].sum()) / defects if defects else 1.0
            for name, share in _SHARES.items()
        }
        false = sum(int(picture.false[t, a]) for picture in self.pictures)
        return {
            "threshold": self.points.thresholds[t],
            "min_area": self.points.min_areas[a],
            **shares,
            "false_a_megapixel": false / self._megapixels,
        }
