"""Everything that one call of `sdi-eval` found, for tables, files and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdi.train.evaluation.baseline import Baseline
from sdi.train.evaluation.defects import DefectScores, OperatingPoints
from sdi.train.evaluation.evaluate import CleanSteel, Evaluation

__all__ = ["DefectRule", "Results"]


@dataclass(frozen=True)
class DefectRule:
    """What counts as a defect in a map, as `sdi-run` has it, and which rate of false ones is wished.

    Args:
        threshold: probability from which a pixel belongs to a region.
        min_area: pixels that a region has at the least.
        mm_per_pixel: of the pictures; None: rates are not given a square metre.
        false_a_megapixel: false regions a megapixel for which threshold and least area are looked for.
    """

    threshold: float = 0.5
    min_area: int = 1
    mm_per_pixel: float | None = None
    false_a_megapixel: float = 1.0

    @property
    def points(self) -> OperatingPoints:
        """Where maps are judged."""
        return OperatingPoints.around(self.threshold, self.min_area)


@dataclass(frozen=True)
class Results:
    """Evaluations of the same pictures.

    Attributes:
        evaluations: what is scored, and then other methods' maps of the same pictures.
        clean: what became of defect-free pictures, where some were given.
        data: what the pictures are, in words.
        dataset: whose printed tables hold for them, see `dataset_of`; None: no table does.
        baseline: an earlier evaluation of the same pictures.
        rule: what counts as a defect, in overlays and in scores by defect.
    """

    evaluations: Sequence[Evaluation]
    clean: CleanSteel | None = None
    data: str = ""
    dataset: str | None = None
    baseline: Baseline | None = None
    rule: DefectRule = DefectRule()

    @property
    def first(self) -> Evaluation:
        """What is scored."""
        return self.evaluations[0]

    def defects(self, evaluation: Evaluation) -> DefectScores:
        """Scores by defect of one of the evaluations."""
        matched = [case.defects for case in evaluation.cases]
        return DefectScores(self.rule.points, matched, self.rule.threshold, self.rule.min_area, self.rule.mm_per_pixel)
