"""A regression store over time: one HTML page with a curve for each metric and a table of the records."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from sdi.export.parity.store import Record
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import write_text
from sdi.train.evaluation.page import render_page

__all__ = ["check_page", "history_html", "write_history"]

_TITLE = "Releases over time"  # by which our pages are known

# metric -> title and whether more is better, in the order of the page
_PLOTTED = {
    "S": ("S-measure", True),
    "MAE": ("MAE", False),
    "mean": ("mean difference from PyTorch", False),
    "iou": ("mask IoU with PyTorch", True),
    "saturation": ("saturation, |slope - 1|", False),
    "clean": ("clean steel taken for a defect", False),
    "latency_ratio": ("seconds a frame over PyTorch's", False),
}
_COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#475569")


def write_history(path: Path, records: Sequence[Record], *, overwrite: bool = False) -> Path:
    """Write `history_html` to `path`, whole or not at all.

    Raises:
        InputError: see `check_page` and `history_html`.
    """
    check_page(path, overwrite)
    write_text(path, history_html(records))
    return path


def check_page(path: Path, overwrite: bool = False) -> None:
    """Refuse to replace a file that is no page of ours.

    Raises:
        InputError: `path` is such a file, or a folder, and `overwrite` is false.
    """
    try:
        ours = overwrite or f"<title>{_TITLE}</title>".encode() in path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another --plot") from error
    if not ours:
        raise InputError(f"{path} exists and is no page of --plot; choose another or pass --overwrite")


def history_html(records: Sequence[Record]) -> str:
    """The page as text; it needs nothing beside it.

    Args:
        records: the oldest first, as `read_store` gives them.
    Raises:
        InputError: no record.
    """
    if not records:
        raise InputError("the store has no record to plot; add one: sdi-parity --record STORE")
    models = sorted({record.model for record in records})
    return render_page(
        Path(__file__).with_name("history.html.j2"),
        title=_TITLE,
        made=f"{records[-1].made}, sdi {version('sdi')}",
        releases=len({record.release for record in records}),
        columns=[title for title, _ in _PLOTTED.values()],
        models=[_model_part(model, [record for record in records if record.model == model]) for model in models],
    )


def _model_part(model: str, records: Sequence[Record]) -> dict[str, object]:
    return {
        "name": model,
        "plots": _plots_svg(records),
        "rows": [
            {
                "release": record.release,
                "made": record.made,
                "engine": f"{record.precision} {record.kind}",
                "pictures": record.pictures,
                "sha256": (record.file_sha256 or record.checkpoint_sha256)[:12],
                "metrics": [f"{record.values()[n]:.4g}" if n in record.values() else "" for n in _PLOTTED],
            }
            for record in reversed(records)
        ],
    }


def _plots_svg(records: Sequence[Record]) -> str:
    """One panel for each metric that any record has, one curve for each series, as SVG in a data URI."""
    releases = list(dict.fromkeys(record.release for record in records))
    names = [name for name in _PLOTTED if any(name in record.values() for record in records)]
    series = list(dict.fromkeys(record.series for record in records))
    figure = Figure(figsize=(11, 2.7 * ((len(names) + 1) // 2)), layout="constrained")
    FigureCanvasSVG(figure)
    for panel, name in enumerate(names, 1):
        axes = figure.add_subplot((len(names) + 1) // 2, 2, panel)
        for number, one in enumerate(series):
            points = [record for record in records if record.series == one and name in record.values()]
            if points:
                axes.plot(
                    [releases.index(record.release) for record in points],
                    [record.values()[name] for record in points],
                    marker="o",
                    markersize=4,
                    color=_COLOURS[number % len(_COLOURS)],
                    label=_label(points[0], series),
                )
        title, more_is_better = _PLOTTED[name]
        axes.set_title(f"{title} ({'more' if more_is_better else 'less'} is better)", fontsize=10)
        axes.set_xticks(range(len(releases)), releases, rotation=30, ha="right", fontsize=8)
        axes.margins(x=0.05, y=0.2)
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    page = io.BytesIO()
    figure.savefig(page, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(page.getvalue()).decode()}"


def _label(record: Record, series: Sequence[tuple]) -> str:
    """`int8 onnx`; with the number of pictures and the threshold where two series differ by those alone."""
    alike = [one for one in series if one[:3] == record.series[:3]]
    text = f"{record.precision} {record.kind}"
    return text if len(alike) == 1 else f"{text}, {record.pictures} pictures, threshold {record.threshold:g}"
