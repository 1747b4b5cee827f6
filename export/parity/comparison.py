"""Runners beside each other, picture by picture: maps, scores and seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sdi.export.parity.contenders import Contender
from sdi.export.parity.figures import Parity, to_levels
from sdi.export.parity.result import RunnerResult
from sdi.export.parity.runners import Runner
from sdi.export.parity.tolerances import Tolerance
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import resize_image

if TYPE_CHECKING:
    from sdi.train.scores import PictureScores

__all__ = ["Comparison", "compare"]

# What rounding to 8 bits may add to a difference: half a level.
_ROUNDING = 0.5 / 255
_ROUNDED = ("max", "p999", "mean", "quantile", "peak")


def compare(
    reference: Runner, engine: Runner, frames: Iterable[tuple[str, np.ndarray]], threshold: float = 0.5
) -> Parity:
    """Run both over named frames, (H, W, 3) uint8 BGR at the engine's size.

    Raises:
        InputError: no frame, maps of different shapes, or a reference that is no number. What is no number in the
            engine's map counts as a difference of 1.
    """
    parity = Parity(threshold)
    for name, frame in frames:
        expected = _reference_map(reference, name, frame)
        parity.update(name, expected, _engine_map(engine, name, frame, expected.shape))
    if not parity.pictures:
        raise InputError("parity needs at least one picture")
    return parity


@dataclass
class _Side:
    """What is gathered of one contender."""

    parity: Parity
    rounding: float | None = None  # greatest |gray level - 255 p|
    seconds: list[float] = field(default_factory=list)
    scores: list[PictureScores] = field(default_factory=list)
    reference_scores: list[PictureScores] = field(default_factory=list)


class Comparison:
    """Runs every contender on each picture, and the reference once for each frame size among them."""

    def __init__(self, reference: Runner, contenders: Sequence[Contender], threshold: float) -> None:
        self.reference = reference
        self._contenders = contenders
        self._sides = [_Side(Parity(threshold)) for _ in contenders]
        self._seconds: list[float] = []

    def add(self, name: str, image: np.ndarray, truth: np.ndarray | None) -> None:
        """One picture, (H, W, 3) uint8 BGR, and its truth, (H, W) uint8, where it is known."""
        size_hw = (image.shape[0], image.shape[1])
        if truth is not None and truth.shape != size_hw:
            raise InputError(f"the mask of {name} is {truth.shape}, its picture {size_hw} (height, width)")
        expected: dict[tuple[int, int], tuple[np.ndarray, PictureScores | None]] = {}
        for contender, side in zip(self._contenders, self._sides, strict=True):
            if contender.run is None:
                continue
            frame = contender.feed.frame(image)
            frame_hw = (frame.shape[0], frame.shape[1])
            if frame_hw not in expected:
                started = time.perf_counter()
                reference = _reference_map(self.reference, name, frame)
                self._seconds.append(time.perf_counter() - started)
                expected[frame_hw] = reference, _scores(reference, truth)
            reference, reference_scores = expected[frame_hw]
            started = time.perf_counter()
            answer = _engine_map(contender.run, f"{name} in {contender.name}", frame, reference.shape)
            side.seconds.append(time.perf_counter() - started)
            side.parity.update(name, reference, answer)
            if contender.rounder is not None:
                side.rounding = max(side.rounding or 0.0, _rounding(contender.rounder, answer))
            scores = _scores(answer, truth)
            if scores is not None and reference_scores is not None:
                side.scores.append(scores)
                side.reference_scores.append(reference_scores)

    @property
    def reference_seconds(self) -> float | None:
        """Of one frame in PyTorch, the median."""
        return statistics.median(self._seconds) if self._seconds else None

    def results(self, tolerances: Mapping[str, Tolerance]) -> list[RunnerResult]:
        """Figures and verdicts, in the order of the contenders."""
        return [
            _result(contender, side, tolerances[contender.precision])
            for contender, side in zip(self._contenders, self._sides, strict=True)
        ]


def _reference_map(reference: Runner, name: str, frame: np.ndarray) -> np.ndarray:
    answer = reference(frame[None])[0]
    if not np.isfinite(answer).all():
        raise InputError(f"{name}: the reference's own map holds values that are no numbers; train it again")
    return answer


def _engine_map(engine: Runner, name: str, frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    answer = engine(frame[None])[0]
    if answer.shape != shape:
        raise InputError(f"{name}: the reference answers {shape}, the engine {answer.shape}")
    return answer


def _rounding(rounder: Runner, probability: np.ndarray) -> float:
    """Greatest distance, in gray levels, of what an engine makes of its probabilities, which are 0..1."""
    exact = np.nan_to_num(probability, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255.0
    return float(np.abs(rounder(probability[None])[0] - exact).max())


def _result(contender: Contender, side: _Side, tolerance: Tolerance) -> RunnerResult:
    result = RunnerResult(
        name=contender.name,
        kind=contender.kind,
        file=None if contender.file is None else str(contender.file),
        sha256=contender.sha256,
        precision=contender.precision,
        notes=list(contender.notes),
        unavailable=contender.unavailable,
    )
    if contender.run is None:
        return result
    if contender.rounded:
        tolerance = tolerance.widened(_ROUNDING, _ROUNDED, "half a gray level more, since a plan's maps come rounded")
        result.notes.append("a plan's maps come rounded to 8 bits, so its differences may be half a gray level more")
    result.figures = side.parity.to_dict() | _score_figures(side)
    if side.rounding is not None:
        result.figures["rounding"] = side.rounding
    result.rows = tolerance.rows(result.figures)
    result.pictures = side.parity.pictures
    result.quantiles = side.parity.quantiles()
    result.seconds_per_frame = statistics.median(side.seconds)
    return result


def _scores(probability: np.ndarray, truth: np.ndarray | None) -> PictureScores | None:
    """Of the map as the runtime gives it: 8 bits, at the picture's own size, never stretched."""
    if truth is None:
        return None
    from sdi.train.scores import score_picture

    saliency = resize_image(to_levels(probability), (truth.shape[0], truth.shape[1]))
    return score_picture(saliency, truth, stretch=False)


def _score_figures(side: _Side) -> dict[str, float]:
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
