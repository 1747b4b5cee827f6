"""The report: one HTML page that needs nothing beside it, no script, no style sheet, no picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from sdi.runtime.common.files import write_text
from sdi.runtime.common.images import read_image
from sdi.train.data import read_truth
from sdi.train.evaluation.evaluate import ALL, Case, CleanSteel, Evaluation, scores_of, thumbnail
from sdi.train.evaluation.failure_classes import FAILURE_CLASSES
from sdi.train.evaluation.page import render_page
from sdi.train.evaluation.paper_tables import KINDS, is_papers_test_split, paper_rows
from sdi.train.scores import SCORE_NAMES, mean_curves

__all__ = ["report_html", "write_report"]

_SHOWN = 20  # best and worst cases
_EXAMPLES = 6  # of a failure class
_COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#475569")


@dataclass(frozen=True)
class _TableRow:
    """One row of the comparison. `kind` is "this run", "compared" or one of the papers' `KINDS`."""

    method: str
    kind: str
    figures: dict[str, str]
    source: str = ""
    url: str = ""


def write_report(folder: Path, evaluations: Sequence[Evaluation], clean: CleanSteel | None, data: str) -> Path:
    """Write `index.html` into `folder`, which is ours to write in, whole or not at all; answer its path."""
    path = folder / "index.html"
    write_text(path, report_html(evaluations, clean, data))
    return path


def report_html(evaluations: Sequence[Evaluation], clean: CleanSteel | None, data: str) -> str:
    """The page as text.

    Args:
        evaluations: what the page is about, and then other methods' maps of the same pictures.
        clean: what became of defect-free pictures, where some were given.
        data: what the pictures are, in words.
    Raises:
        InputError: a picture or mask can no longer be read.
    """
    evaluation = evaluations[0]
    ranked = evaluation.ranked()
    groups = evaluation.groups()
    shown = min(_SHOWN, max(1, len(ranked) // 2))  # no picture is among the best and the worst
    return render_page(
        Path(__file__).with_name("report.html.j2"),
        title=evaluation.label,
        detail=evaluation.detail,
        data=data,
        pictures=len(evaluation.cases),
        made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, sdi {version('sdi')}, "
        f"PySODMetrics {version('pysodmetrics')}",
        names=SCORE_NAMES,
        headline=_figures(evaluation.table()[ALL]),
        tables=[
            (name, _group_rows(evaluation.table(stretched=stretched)))
            for name, stretched in (("Stretched, as in the papers", True), ("As the camera sees it", False))
        ],
        comparison=_comparison(evaluations),
        comparable=is_papers_test_split(case.pair.name for case in evaluation.cases),
        kinds=KINDS,
        curves=_curves_svg(evaluations),
        clean=None if clean is None else clean.to_dict(),
        failures=[
            {
                "name": kind.name,
                "rule": kind.rule,
                "pictures": len(groups[kind.name]),
                "scores": _figures(evaluation.table()[kind.name]),
                "cases": [_card(case) for case in ranked[::-1] if kind.name in case.failures][:_EXAMPLES],
            }
            for kind in FAILURE_CLASSES
            if kind.name in groups
        ],
        worst=[_card(case) for case in ranked[: -shown - 1 : -1]],
        best=[_card(case) for case in ranked[:shown] if len(ranked) > 1],
    )


def _comparison(evaluations: Sequence[Evaluation]) -> list[_TableRow]:
    """This run, the compared maps and the papers' rows, the best S first."""
    rows = [
        _TableRow(each.label, "compared" if number else "this run", _figures(each.table()[ALL]), each.detail)
        for number, each in enumerate(evaluations)
    ]
    rows += [_TableRow(row.method, row.kind, row.metrics, row.source, row.url) for row in paper_rows()]
    return sorted(rows, key=lambda row: -float(row.figures["S"]))


def _group_rows(table: dict[str, dict[str, float]]) -> list[tuple[str, int, dict[str, str]]]:
    return [(name, int(row["pictures"]), _figures(row)) for name, row in table.items()]


def _figures(row: dict[str, float]) -> dict[str, str]:
    """Four digits, as the papers write them: .8862."""
    return {name: f"{row[name]:.4f}".removeprefix("0") for name in SCORE_NAMES}


def _card(case: Case) -> dict[str, Any]:
    """A picture, its truth and its map, side by side."""
    image, truth = read_image(case.pair.image), read_truth(case.pair.mask)
    scores = case.measured.stretched
    return {
        "name": case.pair.name,
        "s": f"{scores.s:.3f}".removeprefix("0"),
        "mae": f"{scores.mae:.3f}".removeprefix("0"),
        # The picture is a photograph; truth and map have to be exact.
        "panels": [
            ("picture", _image_uri(thumbnail(image), ".jpg")),
            ("truth", _image_uri(thumbnail(truth), ".png")),
            ("map", _image_uri(case.preview, ".png")),
        ],
    }


def _image_uri(image: np.ndarray, suffix: str) -> str:
    _, data = cv2.imencode(suffix, image)
    return _data_uri("image/jpeg" if suffix == ".jpg" else "image/png", data.tobytes())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


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
    page = io.BytesIO()
    figure.savefig(page, format="svg", metadata={"Date": None})
    return _data_uri("image/svg+xml", page.getvalue())
