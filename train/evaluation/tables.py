"""Evaluations in figures: on the terminal, as plain values for JSON, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from sdi.runtime.common.console import out
from sdi.train.evaluation.evaluate import ALL, CleanSteel, Evaluation, scores_of
from sdi.train.scores import SCORE_NAMES, mean_curves, mean_scores

__all__ = ["CSV_HEADER", "csv_text", "print_tables", "to_dict"]

CSV_HEADER = ("maps", "rows", "name", "stretched", "pictures", *SCORE_NAMES, "false_positive_area")


def print_tables(evaluations: Sequence[Evaluation], clean: CleanSteel | None) -> None:
    """All tables for people, on stdout."""
    first, *others = evaluations
    _print_table(first.table())
    out.print("\nnot stretched, as a camera sees it")
    _print_table(first.table(stretched=False))
    if others:
        out.print("\nbeside others, all pictures")
        _print_table({evaluation.label: evaluation.table()[ALL] for evaluation in evaluations})
    if clean is not None:
        figures = clean.to_dict()
        out.print(
            f"\nclean steel, {figures['pictures']} pictures at threshold {clean.threshold:g}: {clean.mean:.4%} of a "
            f"picture is taken for a defect, at worst {clean.worst[1]:.4%} ({clean.worst[0]}); "
            f"{figures['pictures_with_any']} have any"
        )


def to_dict(evaluations: Sequence[Evaluation], clean: CleanSteel | None) -> dict[str, Any]:
    """The first evaluation, those that it is compared with by name, and clean steel."""
    first, *others = (_one_to_dict(evaluation) for evaluation in evaluations)
    compared = {other["label"]: other for other in others}
    return {**first, "clean": None if clean is None else clean.to_dict(), "compared": compared}


def _one_to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Both tables, and precision, recall and F over all pictures at thresholds 0..255."""
    curves = mean_curves(scores_of(evaluation.cases))
    return {
        "label": evaluation.label,
        "maps": evaluation.detail,
        "scores": evaluation.table(),
        "unstretched": evaluation.table(stretched=False),
        "curves": {name: values.tolist() for name, values in curves.items()},
    }


def csv_text(evaluations: Sequence[Evaluation], clean: CleanSteel | None) -> str:
    """One line a group and one a picture, of each source of maps; then one a defect-free picture."""
    lines = io.StringIO()
    table = csv.DictWriter(lines, CSV_HEADER, lineterminator="\n")
    table.writeheader()
    for evaluation in evaluations:
        for stretched in (True, False):
            common = {"maps": evaluation.label, "stretched": int(stretched)}
            for name, row in evaluation.table(stretched=stretched).items():
                table.writerow({**common, "rows": "group", "name": name, **row})
            for case, scores in zip(evaluation.cases, scores_of(evaluation.cases, stretched=stretched), strict=True):
                table.writerow({**common, "rows": "picture", "name": case.pair.name, **mean_scores([scores])})
    for name, area in clean.areas.items() if clean else ():
        table.writerow({"maps": evaluations[0].label, "rows": "clean", "name": name, "false_positive_area": area})
    return lines.getvalue()


def _print_table(rows: dict[str, dict[str, float]]) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0))  # ten columns in 80 characters
    for heading in ("", *next(iter(rows.values()))):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(str(v) if isinstance(v, int) else f"{v:.4f}" for v in row.values()))
    out.print(table)
