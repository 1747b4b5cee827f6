"""Scores as tables on the terminal, as plain values for JSON, and as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.table import Table

from sdi.runtime.common.console import out
from sdi.train.evaluation.baseline import Baseline
from sdi.train.evaluation.defects import DefectScores
from sdi.train.evaluation.evaluate import ALL, Evaluation, scores_of
from sdi.train.evaluation.results import Results
from sdi.train.scores import SCORE_NAMES, mean_curves, mean_scores

__all__ = ["CSV_HEADER", "before_and_now", "csv_text", "defect_rows", "operating_point", "print_tables", "to_dict"]

CSV_HEADER = ("maps", "rows", "name", "stretched", "pictures", *SCORE_NAMES, "false_positive_area")


def print_tables(results: Results) -> None:
    """All tables for people, on stdout."""
    first, clean = results.first, results.clean
    _print_table(first.table())
    out.print("\nnot stretched, as a camera sees it")
    _print_table(first.table(stretched=False))
    if len(results.evaluations) > 1:
        out.print("\nbeside others, all pictures")
        _print_table({evaluation.label: evaluation.table()[ALL] for evaluation in results.evaluations})
    if results.baseline is not None:
        better, worse = results.baseline.counts(first)
        out.print(
            f"\nnow, and the change since {results.baseline.label}: S of {better} pictures is higher, of {worse} lower"
        )
        changes = before_and_now(results.baseline, first)
        shown = ("S now", "+S", "maxF now", "+maxF", "MAE now", "+MAE")  # all nine are too wide for a terminal
        _print_table({group: {heading: row[heading] for heading in shown} for group, row in changes.items()})
    _print_defects(results)
    if clean is not None:
        pictures = sum(area > 0 for area in clean.areas.values())
        out.print(
            f"\nclean steel, {len(clean.areas)} pictures at threshold {clean.threshold:g}: {clean.mean:.4%} of a "
            f"picture is taken for a defect, at worst {clean.worst[1]:.4%} ({clean.worst[0]}); {pictures} have any"
        )


def before_and_now(baseline: Baseline, evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Three scores of each group that both have: before, now and their difference."""
    rows: dict[str, dict[str, float]] = {}
    for group, now in evaluation.table().items():
        if before := baseline.scores.get(group):
            rows[group] = {}
            for name in ("S", "maxF", "MAE"):
                rows[group] |= {name: before[name], f"{name} now": now[name], f"+{name}": now[name] - before[name]}
    return rows


def to_dict(results: Results) -> dict[str, Any]:
    """The first evaluation, those that it is compared with by name, what was before, and clean steel."""
    first, *others = (_one_to_dict(evaluation) for evaluation in results.evaluations)
    baseline = results.baseline
    before = None
    if baseline is not None:
        better, worse = baseline.counts(results.first)
        before = {
            "label": baseline.label,
            "maps": baseline.detail,
            "scores": baseline.scores,
            "unstretched": baseline.unstretched,
            "better": better,
            "worse": worse,
        }
    return {
        **first,
        "defects": results.defects(results.first).to_dict(results.rule.false_a_megapixel),
        "clean": None if results.clean is None else results.clean.to_dict(),
        "compared": {other["label"]: other for other in others},
        "baseline": before,
    }


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


def csv_text(results: Results) -> str:
    """One line a group and one a picture, of each source of maps; then one a defect-free picture."""
    lines = io.StringIO()
    table = csv.DictWriter(lines, CSV_HEADER, lineterminator="\n")
    table.writeheader()
    for evaluation in results.evaluations:
        for stretched in (True, False):
            common = {"maps": evaluation.label, "stretched": int(stretched)}
            for name, row in evaluation.table(stretched=stretched).items():
                table.writerow({**common, "rows": "group", "name": name, **row})
            for case, scores in zip(evaluation.cases, scores_of(evaluation.cases, stretched=stretched), strict=True):
                table.writerow({**common, "rows": "picture", "name": case.pair.name, **mean_scores([scores])})
    for name, area in results.clean.areas.items() if results.clean else ():
        table.writerow({"maps": results.first.label, "rows": "clean", "name": name, "false_positive_area": area})
    return lines.getvalue()


def defect_rows(scores: DefectScores) -> list[tuple[str, int, float, float]]:
    """Of each group of defects: its name, their number, and the shares found by a tenth and by half of their pixels."""
    return [
        (name, row["defects"], row["found_10"] / row["defects"], row["found_50"] / row["defects"])
        for name, row in scores.found().items()
        if row["defects"]
    ]


def operating_point(results: Results) -> str:
    """In words: threshold and least area that hold the rate of false regions that is wished."""
    wished = results.rule.false_a_megapixel
    point = results.defects(results.first).holding(wished)
    if point is None:
        return f"no threshold and least area hold {wished:g} false regions a megapixel"
    return (
        f"at most {wished:g} false regions a megapixel: --threshold {point['threshold']:g} --min-area "
        f"{point['min_area']}, which finds {point['found_50']:.1%}"
    )


def _print_defects(results: Results) -> None:
    scores, rule = results.defects(results.first), results.rule
    out.print(f"\nby defect, at threshold {rule.threshold:g} and from {rule.min_area} pixels on")
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("", "defects", "found by 10 %", "found by 50 %"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, defects, tenth, half in defect_rows(scores):
        table.add_row(name, str(defects), f"{tenth:.1%}", f"{half:.1%}")
    out.print(table)
    for name, rates in scores.false_regions().items():
        metre = f", {rates['a_square_metre']:.2f} a square metre" if "a_square_metre" in rates else ""
        out.print(
            f"false regions, {name}: {rates['regions']} in {rates['pictures']} pictures, {rates['a_picture']:.2f} a "
            f"picture, {rates['a_megapixel']:.2f} a megapixel{metre}"
        )
    out.print(operating_point(results))


def _print_table(rows: dict[str, dict[str, float]]) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0))  # ten columns in 80 characters
    for heading in ("", *next(iter(rows.values()))):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(_cell(heading, v) for heading, v in row.items()))
    out.print(table)


def _cell(heading: str, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:+.4f}" if heading.startswith("+") else f"{value:.4f}"
