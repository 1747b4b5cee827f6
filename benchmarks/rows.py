"""What a benchmark answers: tables of measured figures, some with a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Row", "Table"]


@dataclass(frozen=True)
class Row:
    """One figure: the median over the rounds, with its quartiles."""

    what: str
    unit: str  # "x" marks a ratio
    rounds: list[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile."""
        low, median, high = np.percentile(self.rounds, (25, 50, 75)).tolist()
        return low, median, high

    @property
    def passed(self) -> bool | None:
        """Whether the median keeps the bound; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        median = self.quartiles[1]
        return (self.at_least is None or median >= self.at_least) and (self.at_most is None or median <= self.at_most)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        low, median, high = self.quartiles
        return {
            "what": self.what,
            "unit": self.unit,
            "median": median,
            "quartiles": [low, high],
            "rounds": self.rounds,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class Table:
    """The figures of one benchmark."""

    name: str  # what `--only` takes
    title: str
    notes: str  # what was compared and how
    rows: list[Row]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "notes": self.notes,
            "rows": [row.to_dict() for row in self.rows],
        }
