"""Candidates beside the reference, picture by picture: maps, scores and seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sdi.export.parity.candidates import Candidate
from sdi.export.parity.metrics import Parity, to_levels
from sdi.export.parity.result import PictureMetrics
from sdi.export.runners import InputSpec, Runner
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import resize_image

if TYPE_CHECKING:
    from sdi.train.scores import PictureScores

__all__ = ["Comparison", "Measurement", "compare"]


def compare(
    reference: Runner, engine: Runner, frames: Iterable[tuple[str, np.ndarray]], threshold: float = 0.5
) -> Parity:
    """Run both over named frames, (H, W, 3) uint8 BGR at the engine's size.

    Raises:
        InputError: no frame, maps of different shapes, or a reference with values that are not finite. In the engine's
            map such a value counts as a difference of 1.
    """
    parity = Parity(threshold)
    for name, frame in frames:
        expected, answer = _finite(name, reference(frame[None])[0]), engine(frame[None])[0]
        _check_shape(name, answer, expected.shape)
        parity.update(name, expected, answer)
    if not parity.pictures:
        raise InputError("parity needs at least one picture")
    return parity


@dataclass(frozen=True)
class Measurement:
    """What was measured of one candidate.

    Attributes:
        metrics: name -> value; of scores, the candidate's, the reference's and their difference.
        quantiles: "reference" and "engine", each level in % -> probability.
        seconds_per_frame: median of one frame a call.
    """

    metrics: dict[str, float]
    pictures: tuple[PictureMetrics, ...]
    quantiles: dict[str, dict[str, float]]
    seconds_per_frame: float


@dataclass
class _Side:
    """What is gathered of one candidate."""

    parity: Parity
    rounding: float | None = None  # maximum of |gray level - 255 p|
    seconds: list[float] = field(default_factory=list)
    scores: list[PictureScores] = field(default_factory=list)
    reference_scores: list[PictureScores] = field(default_factory=list)


class Comparison:
    """Runs every candidate on each picture, and the reference once for each way in which they are shown it."""

    def __init__(self, reference: Runner, candidates: Sequence[Candidate], threshold: float) -> None:
        self.reference = reference
        self._candidates = candidates
        self._sides = [_Side(Parity(threshold)) for _ in candidates]
        self._seconds: list[float] = []

    def add(self, name: str, image: np.ndarray, truth: np.ndarray | None) -> None:
        """One picture, (H, W, 3) uint8 BGR, and its truth, (H, W) uint8, where it is known."""
        size_hw = (image.shape[0], image.shape[1])
        if truth is not None and truth.shape != size_hw:
            raise InputError(f"the mask of {name} is {truth.shape}, its picture {size_hw} (height, width)")
        expected: dict[object, tuple[np.ndarray, PictureScores | None]] = {}  # by frame size and windows
        for candidate, side in zip(self._candidates, self._sides, strict=True):
            if candidate.run is None:
                continue
            run = candidate.reference or self.reference
            way = (run, candidate.spec.frame_hw or size_hw, candidate.grid(image))
            if way not in expected:
                started = time.perf_counter()
                reference = _finite(name, candidate.answer(run, image))
                self._seconds.append(time.perf_counter() - started)
                expected[way] = reference, _scores(reference, truth, candidate.spec)
            reference, reference_scores = expected[way]
            started = time.perf_counter()
            answer = candidate.answer(candidate.run, image)
            _check_shape(f"{name} in {candidate.name}", answer, reference.shape)
            side.seconds.append(time.perf_counter() - started)
            side.parity.update(name, reference, answer)
            if candidate.rounder is not None:
                side.rounding = max(side.rounding or 0.0, _rounding(candidate.rounder, answer))
            scores = _scores(answer, truth, candidate.spec)
            if scores is not None and reference_scores is not None:
                side.scores.append(scores)
                side.reference_scores.append(reference_scores)

    @property
    def reference_seconds(self) -> float | None:
        """Of one frame in PyTorch, the median."""
        return statistics.median(self._seconds) if self._seconds else None

    def measurements(self) -> list[Measurement | None]:
        """In the order of the candidates; None of one that cannot run here."""
        return [
            None if candidate.run is None else _measurement(side)
            for candidate, side in zip(self._candidates, self._sides, strict=True)
        ]


def _finite(name: str, answer: np.ndarray) -> np.ndarray:
    if not np.isfinite(answer).all():
        raise InputError(f"{name}: the reference's own map holds values that are not finite; train it again")
    return answer


def _check_shape(name: str, answer: np.ndarray, shape: tuple[int, ...]) -> None:
    if answer.shape != shape:
        raise InputError(f"{name}: the reference answers {shape}, the engine {answer.shape}")


def _rounding(rounder: Runner, probability: np.ndarray) -> float:
    """Maximum error, in gray levels, of an engine's rounding of its probabilities, which are 0..1."""
    exact = np.nan_to_num(probability, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255.0
    return float(np.abs(rounder(probability[None])[0] - exact).max())


def _measurement(side: _Side) -> Measurement:
    metrics = side.parity.to_dict() | _score_metrics(side)
    if side.rounding is not None:
        metrics["rounding"] = side.rounding
    pictures = tuple(side.parity.pictures)
    return Measurement(metrics, pictures, side.parity.quantiles(), statistics.median(side.seconds))


def _scores(probability: np.ndarray, truth: np.ndarray | None, spec: InputSpec) -> PictureScores | None:
    """Of the map as the runtime gives it: 8 bits, at the picture's own size, never stretched."""
    if truth is None:
        return None
    from sdi.train.scores import score_picture

    if spec.fills:  # the first of the pictures that lie beside each other
        probability = probability[: truth.shape[0], : truth.shape[1]]
        truth = truth[: probability.shape[0], : probability.shape[1]]
    saliency = resize_image(to_levels(probability), (truth.shape[0], truth.shape[1]))
    return score_picture(saliency, truth, stretch=False)


def _score_metrics(side: _Side) -> dict[str, float]:
    if not side.scores:
        return {}
    from sdi.train.scores import mean_scores

    reference, engine = mean_scores(side.reference_scores), mean_scores(side.scores)
    return {
        "S_lost": reference["S"] - engine["S"],
        "F_lost": reference["maxF"] - engine["maxF"],
        "E_lost": reference["maxE"] - engine["maxE"],
        "MAE_gained": engine["MAE"] - reference["MAE"],
        **engine,
        **{f"reference_{name}": value for name, value in reference.items()},
    }
