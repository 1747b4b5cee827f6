"""The report: one HTML page that needs nothing beside it, no script, no style sheet, no picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from sdi.runtime.common.files import write_text
from sdi.train.evaluation.baseline import Baseline
from sdi.train.evaluation.cards import case_card, change_card, data_uri
from sdi.train.evaluation.evaluate import ALL, TEST, Evaluation, scores_of
from sdi.train.evaluation.failure_classes import FAILURE_CLASSES
from sdi.train.evaluation.page import render_page
from sdi.train.evaluation.paper_tables import KINDS, ORIGINS, paper_rows, remote_sensing_rows
from sdi.train.evaluation.results import Results
from sdi.train.evaluation.tables import before_and_now, defect_rows, operating_point
from sdi.train.scores import SCORE_NAMES, mean_curves

__all__ = ["report_html", "write_report"]

_SHOWN = 20  # best and worst cases
_EXAMPLES = 6  # of a failure class
_CHANGED = 10  # pictures that gained most, and that lost most
_ON_ALL = ("S", "maxF", "MAE")  # shown of all 900 pictures
_COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#475569")


@dataclass(frozen=True)
class _TableRow:
    """One row of the comparison. `origin` is "this run", "compared" or one of the papers' `ORIGINS`."""

    method: str
    kind: str
    origin: str
    metrics: dict[str, str]
    on_all: dict[str, str] = field(default_factory=dict)  # scores on all 900 pictures of SD-saliency-900
    source: str = ""
    url: str = ""


def write_report(folder: Path, results: Results) -> Path:
    """Write `index.html` into `folder`, which is ours to write in, whole or not at all; answer its path."""
    path = folder / "index.html"
    write_text(path, report_html(results))
    return path


def report_html(results: Results) -> str:
    """The page as text.

    Raises:
        InputError: a picture or mask can no longer be read, or the baseline is of others.
    """
    evaluation, clean = results.first, results.clean
    ranked = evaluation.ranked()
    groups = evaluation.groups()
    shown = min(_SHOWN, max(1, len(ranked) // 2))  # no picture is among the best and the worst
    card = partial(case_card, threshold=results.rule.threshold)
    comparison = _comparison(results)
    return render_page(
        Path(__file__).with_name("report.html.j2"),
        title=evaluation.label,
        detail=evaluation.detail,
        data=results.data,
        pictures=len(evaluation.cases),
        made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, sdi {version('sdi')}, "
        f"PySODMetrics {version('pysodmetrics')}",
        names=SCORE_NAMES,
        threshold=f"{results.rule.threshold:g}",
        headline=_printed(evaluation.table()[ALL]),
        tables=[
            (name, _group_rows(evaluation.table(stretched=stretched)))
            for name, stretched in (("Stretched, as in the papers", True), ("As the camera sees it", False))
        ],
        before=None if results.baseline is None else _before(results, results.baseline),
        comparison=comparison,
        dataset=results.dataset,
        on_all=_ON_ALL if any(row.on_all for _, rows in comparison for row in rows) else (),
        all_pictures=len(evaluation.cases),
        origins=ORIGINS if results.dataset else {},
        curves=_curves_svg(results.evaluations),
        defects=_defects(results),
        clean=None if clean is None else clean.to_dict(),
        failures=[
            {
                "name": kind.name,
                "rule": kind.rule,
                "pictures": len(groups[kind.name]),
                "scores": _printed(evaluation.table()[kind.name]),
                "cases": [card(case) for case in ranked[::-1] if kind.name in case.failures][:_EXAMPLES],
            }
            for kind in FAILURE_CLASSES
            if kind.name in groups
        ],
        worst=[card(case) for case in ranked[: -shown - 1 : -1]],
        best=[card(case) for case in ranked[:shown] if len(ranked) > 1],
    )


def _defects(results: Results) -> dict[str, Any]:
    """Which defects are found, which regions are false, and the trade between the two."""
    scores, rule = results.defects(results.first), results.rule
    return {
        "min_area": rule.min_area,
        "rows": [(name, count, f"{tenth:.1%}", f"{half:.1%}") for name, count, tenth, half in defect_rows(scores)],
        "false": scores.false_regions(),
        "iou": _four_digits(scores.iou()),
        "point": operating_point(results),
        "froc": _froc_svg(results),
    }


def _before(results: Results, baseline: Baseline) -> dict[str, Any]:
    """What changed since the baseline, and the pictures that changed most."""
    changes = baseline.changes(results.first)
    better, worse = baseline.counts(results.first)
    card = partial(change_card, threshold=results.rule.threshold)
    rows = before_and_now(baseline, results.first)
    return {
        "label": baseline.label,
        "detail": baseline.detail,
        "better": better,
        "worse": worse,
        "headings": [heading.removeprefix("+") for heading in next(iter(rows.values()))],
        "rows": [
            (group, [_change_cell(heading, value) for heading, value in row.items()]) for group, row in rows.items()
        ],
        "gained": [card(change) for change in changes[: min(_CHANGED, better)]],
        "lost": [card(change) for change in changes[::-1][: min(_CHANGED, worse)]],
    }


def _change_cell(heading: str, value: float) -> str:
    return f"{value:+.4f}".replace("0.", ".", 1) if heading.startswith("+") else _four_digits(value)


def _comparison(results: Results) -> list[tuple[str, list[_TableRow]]]:
    """This run, compared maps and the papers' rows, by what they were made for, the best S first in each.

    Where all 900 pictures of SD-saliency-900 are scored, the papers' rows stand beside the 360 of its test split.
    """
    rows = []
    kind = KINDS[0] if results.dataset == "SD-saliency-900" else ""
    for number, each in enumerate(results.evaluations):
        table = each.table()
        own = _printed(table[TEST] if each.test_split else table[ALL])
        on_all = _printed(table[ALL]) if each.test_split else {}
        origin = "compared" if number else "this run"
        rows.append(_TableRow(each.label, kind, origin, own, on_all, each.detail))
    if results.dataset is None:
        return [("", rows)] if len(rows) > 1 else []
    if results.dataset == "SD-saliency-900":
        on_all_of = {row.name: row.metrics for row in paper_rows(900)} if results.first.test_split else {}
        papers = paper_rows()
    else:
        on_all_of, papers = {}, remote_sensing_rows(results.dataset)
    for row in papers:
        on_all = on_all_of.get(row.name, {}) if row.origin == "measured" else {}
        rows.append(_TableRow(row.name, row.kind, row.origin, row.metrics, on_all, row.source, row.url))
    rows.sort(key=lambda row: -float(row.metrics["S"]))
    kinds = ("", *KINDS)
    return [(kind, group) for kind in kinds if (group := [row for row in rows if row.kind == kind])]


def _group_rows(table: dict[str, dict[str, float]]) -> list[tuple[str, int, dict[str, str]]]:
    return [(name, int(row["pictures"]), _printed(row)) for name, row in table.items()]


def _printed(row: dict[str, float]) -> dict[str, str]:
    """Four digits, as the papers write them: .8862."""
    return {name: _four_digits(row[name]) for name in SCORE_NAMES}


def _four_digits(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _curves_svg(evaluations: Sequence[Evaluation]) -> str:
    """Precision over recall, and F over the threshold, as one SVG in a data URI."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasSVG(figure)
    precision_recall, f_measure = figure.subplots(1, 2)
    thresholds = np.arange(256) / 255
    for number, each in enumerate(evaluations):
        style: dict[str, Any] = {
            "color": _COLOURS[number % len(_COLOURS)],
            "linewidth": 1.3 if number else 2.4,
            "zorder": 3 - bool(number),
        }
        curves = mean_curves(scores_of(each.cases))
        precision_recall.plot(curves["recall"], curves["precision"], label=each.label, **style)
        f_measure.plot(thresholds, curves["F"], label=each.label, **style)
        if not number:
            raw = mean_curves(scores_of(each.cases, stretched=False))
            f_measure.plot(thresholds, raw["F"], label=f"{each.label}, not stretched", **(style | {"linestyle": "--"}))
    precision_recall.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    f_measure.set(xlabel="threshold", ylabel="F-measure", title="F-measure at each threshold")
    for axes in (precision_recall, f_measure):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower left" if axes is precision_recall else "lower center", frameon=False, fontsize=8)
    return _svg_uri(figure)


def _froc_svg(results: Results) -> str:
    """Defects found over false regions a megapixel, one point a threshold, as one SVG in a data URI."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for number, each in enumerate(results.evaluations):
        points = results.defects(each).froc()
        false = [point["false_a_megapixel"] for point in points]
        colour = _COLOURS[number % len(_COLOURS)]
        for key, style, share in (("found_50", "-", "half"), ("found_10", "--", "a tenth")):
            found = [point[key] for point in points]
            axes.plot(false, found, style, color=colour, marker=".", label=f"{each.label}, by {share} of their pixels")
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set(xlabel="false regions a megapixel", ylabel="defects found", ylim=(0, 1.02), title="FROC")
    axes.axvline(results.rule.false_a_megapixel, color="#9ca3af", linewidth=0.8)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return _svg_uri(figure)


def _svg_uri(figure: Figure) -> str:
    """The figure as SVG in a data URI; equal figures give equal bytes."""
    page = io.BytesIO()
    figure.savefig(page, format="svg", metadata={"Date": None})
    return data_uri("image/svg+xml", page.getvalue())
