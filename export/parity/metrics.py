"""The metrics of parity: how far an engine's maps are from the reference's, on raw probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sdi.export.parity.result import PictureMetrics
from sdi.runtime.inspection.defects import Blob, DefectRule, find_blobs

__all__ = ["METRICS", "QUANTILES", "Metric", "Parity", "region_agreement", "to_levels"]


@dataclass(frozen=True)
class Metric:
    """What a metric is called, and which side of a bound is good."""

    title: str
    at_least: bool = False  # more is better


METRICS = {
    "max": Metric("max difference"),
    "p999": Metric("p99.9 difference"),
    "mean": Metric("mean difference"),
    "iou": Metric("mask IoU", at_least=True),
    "regions": Metric("region agreement", at_least=True),
    "saturation": Metric("saturation, |slope - 1|"),
    "quantile": Metric("quantile shift"),
    "peak": Metric("peak shift"),
    "rounding": Metric("gray level off 255 x probability"),
    "S_lost": Metric("S-measure lost"),
    "F_lost": Metric("max F-measure lost"),
    "E_lost": Metric("max E-measure lost"),
    "MAE_gained": Metric("MAE gained"),
    "clean": Metric("clean steel taken for a defect"),
    "clean_worst": Metric("clean steel, worst patch"),
    "clean_strip": Metric("clean strip, drawn"),
    "clean_gained": Metric("clean steel, more than PyTorch"),
}
"""Metrics that can have a bound; scores only where truth is given, `clean` ones where clean steel is looked at."""

QUANTILES = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9)  # per cent of all pixels
MIN_REGION = 16  # pixels: smaller ones come and go with a rounding

# Differences are counted in bins, so that memory does not grow with the pictures.
_EDGES = np.concatenate([[0.0], np.geomspace(1e-9, 1.0, 3_500)])
_BINS = 1 << 14  # of probability: 6e-5 wide
_RANKS = (np.arange(10_000) + 0.5) / 10_000
_RANK_ROOM = 0.005  # share of the pixels that may lie on the other side of a quantile
_PARTNER_IOU = 0.5
_THRESHOLD_ROOM = 0.02


@dataclass
class Parity:
    """Differences of an engine from the reference over all pixels of all pictures.

    Attributes:
        threshold: probability from which a pixel belongs to a mask.
        pictures: the metrics of each.
    """

    threshold: float = 0.5
    pictures: list[PictureMetrics] = field(default_factory=list)
    _differences: np.ndarray = field(default_factory=lambda: np.zeros(len(_EDGES) - 1, np.int64))
    _values: np.ndarray = field(default_factory=lambda: np.zeros((2, _BINS), np.int64))  # reference's, engine's
    _both: int = 0
    _either: int = 0
    _partnered: int = 0
    _regions: int = 0

    def update(self, name: str, reference: np.ndarray, engine: np.ndarray) -> None:
        """Add one picture: (H, W) float32 probabilities of both. A value that is not finite differs by 1."""
        difference = np.abs(engine.astype(np.float64) - reference.astype(np.float64))
        difference[~np.isfinite(difference)] = 1.0
        masks = reference >= self.threshold, engine >= self.threshold
        both, either = int((masks[0] & masks[1]).sum()), int((masks[0] | masks[1]).sum())
        partnered, regions = region_agreement(to_levels(reference), to_levels(engine), self.threshold)
        maps = [np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) for values in (reference, engine)]
        for counts, values in zip(self._values, maps, strict=True):
            counts += np.bincount(np.minimum(values.ravel() * _BINS, _BINS - 1).astype(np.int64), minlength=_BINS)
        self._differences += np.histogram(difference.clip(_EDGES[0], _EDGES[-1]), _EDGES)[0]
        self._both, self._either = self._both + both, self._either + either
        self._partnered, self._regions = self._partnered + partnered, self._regions + regions
        self.pictures.append(
            PictureMetrics(
                name=name,
                pixels=difference.size,
                max=float(difference.max()),
                mean=float(difference.mean()),
                iou=both / either if either else 1.0,
                regions=partnered / regions if regions else 1.0,
                peak=abs(float(maps[1].max()) - float(maps[0].max())),
            )
        )

    @property
    def max(self) -> float:
        return max(picture.max for picture in self.pictures)

    @property
    def mean(self) -> float:
        pixels = sum(picture.pixels for picture in self.pictures)
        return sum(picture.mean * picture.pixels for picture in self.pictures) / pixels

    @property
    def p999(self) -> float:
        """99.9 % of all pixels differ by no more; to 0.6 %, the width of the histogram's bins."""
        share = self._differences.cumsum() / self._differences.sum()
        return min(float(_EDGES[np.searchsorted(share, 0.999) + 1]), self.max)

    @property
    def iou(self) -> float:
        """Over all pictures at once, so that a tiny defect does not weigh as much as a large one."""
        return self._both / self._either if self._either else 1.0

    @property
    def regions(self) -> float:
        """Share of both sides' regions that find a partner on the other; see `region_agreement`."""
        return self._partnered / self._regions if self._regions else 1.0

    @property
    def slope(self) -> float:
        """Slope of the engine's sorted probabilities on the reference's, by least squares.

        0.8 where every probability is multiplied by 0.8, wherever it lies: an edge that moved does not change it. 1
        where the reference's maps are of one value, and so have no slope.
        """
        reference, engine = (self._quantiles(side, _RANKS) for side in (0, 1))
        spread = reference - reference.mean()
        variance = float(spread @ spread)
        return float(spread @ engine) / variance if variance > _RANKS.size / _BINS**2 else 1.0

    @property
    def quantile(self) -> float:
        """Maximum distance of an engine's quantile from the reference's at the same rank, give or take 0.5 %.

        The room in rank is for maps that are nearly black and white, where a quantile at the step between them says
        nothing.
        """
        ranks = np.array(QUANTILES) / 100
        engine = self._quantiles(1, ranks)
        low = self._quantiles(0, (ranks - _RANK_ROOM).clip(0, 1))
        high = self._quantiles(0, (ranks + _RANK_ROOM).clip(0, 1))
        return float(np.maximum(np.maximum(low - engine, engine - high), 0.0).max())

    @property
    def peak(self) -> float:
        """Maximum change of a picture's maximum probability. A stretch of each map to 0..1 changes it in dark maps."""
        return max(picture.peak for picture in self.pictures)

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Probabilities at `QUANTILES` of all pixels: "reference" and "engine", each per cent -> probability."""
        ranks = np.array(QUANTILES) / 100
        return {
            side: {f"{level:g}": round(float(value), 5) for level, value in zip(QUANTILES, values, strict=True)}
            for side, values in (("reference", self._quantiles(0, ranks)), ("engine", self._quantiles(1, ranks)))
        }

    def to_dict(self) -> dict[str, float]:
        """All metrics, and the slope that `saturation` comes from."""
        slope = self.slope
        return {
            "max": self.max,
            "p999": self.p999,
            "mean": self.mean,
            "iou": self.iou,
            "regions": self.regions,
            "saturation": abs(slope - 1),
            "quantile": self.quantile,
            "peak": self.peak,
            "slope": slope,
        }

    def _quantiles(self, side: int, ranks: np.ndarray) -> np.ndarray:
        """Probabilities at shares of all pixels, linear within a bin."""
        counts = self._values[side]
        filled = np.flatnonzero(counts)
        upto = counts[filled].cumsum() / counts.sum()
        before = np.concatenate([[0.0], upto[:-1]])
        bins = np.searchsorted(upto, ranks).clip(max=len(filled) - 1)
        within = (ranks - before[bins]) / (upto[bins] - before[bins])
        return (filled[bins] + within.clip(0, 1)) / _BINS


def to_levels(probability: np.ndarray) -> np.ndarray:
    """(H, W) probabilities as the runtime gives them: uint8, probability x 255, rounded."""
    return np.rint(np.nan_to_num(probability, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).astype(np.uint8)


def region_agreement(reference: np.ndarray, engine: np.ndarray, threshold: float) -> tuple[int, int]:
    """How many of both maps' regions have a partner in the other map.

    Partners are regions, as the runtime finds them, whose IoU is 0.5 or more. The partner may be one of the other map
    at a threshold 0.02 lower or higher, since one pixel may part what hangs together. Regions under 16 pixels serve
    as partners but are not counted.

    Args:
        reference, engine: (H, W) uint8, probability x 255.
    Returns:
        (regions with a partner, regions), of both maps together.
    """
    alone = counted = 0
    for own, other in ((reference, engine), (engine, reference)):
        missing = find_blobs(own, DefectRule(threshold, MIN_REGION))
        counted += len(missing)
        for room in (0.0, -_THRESHOLD_ROOM, _THRESHOLD_ROOM):
            if missing and 0 < threshold + room <= 1:
                others = find_blobs(other, DefectRule(threshold + room))
                labels = _labelled(others, other.shape)
                missing = [blob for blob in missing if _best_iou(blob, labels, others) < _PARTNER_IOU]
        alone += len(missing)
    return counted - alone, counted


def _labelled(blobs: list[Blob], shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) int32: 0 outside, else the number of the blob from 1."""
    labels = np.zeros(shape, np.int32)
    for number, blob in enumerate(blobs, 1):
        _window(labels, blob)[blob.inside] = number
    return labels


def _best_iou(blob: Blob, labels: np.ndarray, others: list[Blob]) -> float:
    shared = np.bincount(_window(labels, blob)[blob.inside], minlength=len(others) + 1)[1:]
    areas = np.array([other.region.area for other in others])
    return float((shared / (blob.region.area + areas - shared)).max(initial=0.0))


def _window(labels: np.ndarray, blob: Blob) -> np.ndarray:
    region = blob.region
    return labels[region.y : region.y + region.height, region.x : region.x + region.width]
