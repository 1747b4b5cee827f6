"""Everything that one call of `sdi-eval` found, for tables, files and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdi.train.evaluation.baseline import Baseline
from sdi.train.evaluation.evaluate import CleanSteel, Evaluation

__all__ = ["Results"]


@dataclass(frozen=True)
class Results:
    """Evaluations of the same pictures.

    Attributes:
        evaluations: what is scored, and then other methods' maps of the same pictures.
        clean: what became of defect-free pictures, where some were given.
        data: what the pictures are, in words.
        dataset: whose printed tables hold for them, see `dataset_of`; None: no table does.
        baseline: an earlier evaluation of the same pictures.
        threshold: probability from which a pixel is taken for a defect, in overlays.
    """

    evaluations: Sequence[Evaluation]
    clean: CleanSteel | None = None
    data: str = ""
    dataset: str | None = None
    baseline: Baseline | None = None
    threshold: float = 0.5

    @property
    def first(self) -> Evaluation:
        """What is scored."""
        return self.evaluations[0]
