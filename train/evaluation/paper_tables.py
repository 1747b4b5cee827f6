"""What other methods reach: the tables of TSERNet's and of CSEPNet's paper as printed, and what was measured here.

The data files in `papers/` name the table that each row stands in. SD-saliency-900 is scored in two ways: on its 360
test pictures, as both papers do, and on all 900, of which 540 are training pictures and look like the test pictures.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sdi.train.scores import SCORE_NAMES

__all__ = [
    "KINDS",
    "ORIGINS",
    "PaperRow",
    "ablation_rows",
    "dataset_of",
    "is_papers_test_split",
    "paper_rows",
    "remote_sensing_rows",
]

_FOLDER = Path(__file__).parent / "papers"
# SHA-256 of the 360 names in `test.txt`, sorted, one a line: the printed scores hold for these pictures alone.
_TEST_SPLIT = "f3bc4fcfcd33fdec146d4dc440c9b5eb22c7c77feb548d7b7807dfb5bce6262b"
_TABLES = {"TSERNet, Table I": "tsernet_table1.csv", "CSEPNet, Table 1": "csepnet_table1.csv"}
_REMOTE_SENSING = {200: "ORSSD", 600: "EORSSD"}  # by their number of test pictures
_SAME = {"SUCANet": "SUCA"}  # CSEPNet's name of it -> TSERNet's

# What a method was made for, in the order that reports show.
KINDS = ("steel", "camouflaged objects", "natural images", "traditional")
ORIGINS = {
    "printed": "in the paper's table, with as many digits",
    "measured": "with PySODMetrics, from maps or weights that others published",
    "quoted": "passed on at second hand; the maps were not at hand to measure them",
}


@dataclass(frozen=True)
class PaperRow:
    """One method. Scores are as printed (".886"), by score name; those that no source gives are absent."""

    method: str
    year: int
    kind: str  # one of `KINDS`; empty where the table does not say
    origin: str  # one of `ORIGINS`
    metrics: dict[str, str]
    source: str  # where it stands
    url: str = ""  # of the method's own paper
    million_parameters: str = ""  # as printed; "56.16/56.7" where the two papers print different numbers
    gmac: str = ""  # 10^9 multiply-accumulates, which the papers call FLOPs
    model: str = ""  # the network of ours that it is

    @property
    def name(self) -> str:
        """Method and year: there are two called MINet."""
        return f"{self.method} {self.year}"


def paper_rows(pictures: int = 360) -> list[PaperRow]:
    """Rows for SD-saliency-900, best S first.

    A method that both papers compare with is one row: their scores agree to the last digit.

    Args:
        pictures: 360, the test pictures, or 900, all of them.
    """
    rows = [*_printed(), *_variants()] if pictures == 360 else []
    return sorted([*rows, *_measured(pictures)], key=lambda row: -float(row.metrics["S"]))


def ablation_rows() -> list[PaperRow]:
    """The ablations of both papers, table by table, on the 360 test pictures; `method` is the paper's name of it."""
    return [
        PaperRow(
            row["variant"],
            2022,
            "steel",
            "printed",
            _metrics(row),
            f"{row['paper']}, Table {row['table']}",
            model=row["model"],
        )
        for row in _read("ablations.csv")
    ]


def remote_sensing_rows(data: str) -> list[PaperRow]:
    """Rows of CSEPNet's Table 5 for "EORSSD" or "ORSSD", best S first."""
    rows = [
        PaperRow(
            row["method"],
            int(row["year"]),
            "",
            "printed",
            {name: row[f"{data}_{name}"] for name in SCORE_NAMES},
            "CSEPNet, Table 5",
            _links().get((row["method"], row["year"]), ""),
            row["parameters_M"],
            row["gflops"],
        )
        for row in _read("csepnet_table5.csv")
    ]
    return sorted(rows, key=lambda row: -float(row.metrics["S"]))


def dataset_of(names: Collection[str], layout: str | None) -> str | None:
    """The data set whose printed scores hold for these pictures; None: no printed score does.

    SD-saliency-900's test pictures are known by their names. ORSSD and EORSSD, whose pictures are numbered alike, are
    known by their layout and the number of their test pictures.
    """
    if is_papers_test_split(names):
        return "SD-saliency-900"
    return _REMOTE_SENSING.get(len(names)) if layout == "orssd" else None


def is_papers_test_split(names: Iterable[str]) -> bool:
    """Whether these pictures, by their names, are those that the printed scores hold for."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest() == _TEST_SPLIT


def _printed() -> Iterator[PaperRow]:
    found: dict[tuple[str, str], list[tuple[str, dict[str, str]]]] = {}
    for source, file in _TABLES.items():
        for row in _read(file):
            method = _SAME.get(row["method"], row["method"])
            found.setdefault((method, row["year"]), []).append((source, row))
    for (method, year), rows in found.items():
        yield PaperRow(
            method,
            int(year),
            rows[0][1]["kind"],
            "printed",
            {name: value for _, row in rows for name, value in _metrics(row).items()},
            "; ".join(source for source, _ in rows),
            _links().get((method, year), ""),
            _parameters([row["parameters_M"] for _, row in rows]),
            next((row["gflops"] for _, row in rows if row.get("gflops")), ""),
            {"TSERNet": "tsernet", "CSEPNet": "csepnet"}.get(method, ""),
        )


def _variants() -> Iterator[PaperRow]:
    """CSEPNet with either encoder, which only its ablations tell apart."""
    for row in ablation_rows():
        if row.method in ("CSEPNet-VGG", "CSEPNet-ResNet"):
            url = _links()["CSEPNet", "2022"]
            yield PaperRow(row.method, row.year, row.kind, row.origin, row.metrics, row.source, url, model=row.model)


def _measured(pictures: int) -> Iterator[PaperRow]:
    for row in _read("measured.csv"):
        if int(row["pictures"]) == pictures:
            url = _links().get((row["method"], row["year"]), "")
            yield PaperRow(
                row["method"], int(row["year"]), row["kind"], row["origin"], _metrics(row), row["source"], url
            )


def _parameters(printed: list[str]) -> str:
    """The number with the most digits; both, where the shorter one is not that number rounded."""
    longest = max(printed, key=len)
    for other in printed:
        digits = len(other.partition(".")[2])
        if other and f"{round(float(longest) + 1e-9, digits):.{digits}f}" != other:
            return "/".join(printed)
    return longest


def _metrics(row: dict[str, str]) -> dict[str, str]:
    return {name: row[name] for name in SCORE_NAMES if row.get(name)}


@cache
def _links() -> dict[tuple[str, str], str]:
    return {(row["method"], row["year"]): row["url"] for row in _read("links.csv")}


def _read(file: str) -> list[dict[str, str]]:
    with (_FOLDER / file).open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))
