"""What other methods reach on the 360 test pictures of SD-saliency-900, from a data file that names each source."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sdi.train.scores import SCORE_NAMES

__all__ = ["KINDS", "PaperRow", "is_papers_test_split", "paper_rows"]

_TABLE = Path(__file__).parent / "papers" / "sd_saliency_900.csv"
# SHA-256 of the 360 names in `test.txt`, sorted, one a line: the figures hold for these pictures alone.
_TEST_SPLIT = "f3bc4fcfcd33fdec146d4dc440c9b5eb22c7c77feb548d7b7807dfb5bce6262b"

KINDS = {
    "published": "printed in the method's own paper",
    "measured": "measured with PySODMetrics from maps or weights that others published",
    "quoted": "passed on at second hand; the printed table was not at hand to check it",
}


@dataclass(frozen=True)
class PaperRow:
    """One method. `figures` are as printed (".886"), by score name; scores that no source gives are absent."""

    method: str
    kind: str  # one of `KINDS`
    figures: dict[str, str]
    source: str
    url: str  # of the method's paper; may be empty


def paper_rows() -> list[PaperRow]:
    """All rows, the best S first."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        rows = [
            PaperRow(
                row["method"],
                row["kind"],
                {name: row[name] for name in SCORE_NAMES if row[name]},
                row["source"],
                row["url"],
            )
            for row in csv.DictReader(file)
        ]
    return sorted(rows, key=lambda row: -float(row.figures["S"]))


def is_papers_test_split(names: Iterable[str]) -> bool:
    """Whether these pictures, by their names, are those that the figures hold for."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest() == _TEST_SPLIT
