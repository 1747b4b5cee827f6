"""What became of a network in INT8, beside its engine: a page for people and the same as JSON."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from sdi.export.int8 import Quantisation
from sdi.runtime.common.files import write_text
from sdi.train.evaluation.page import render_page

__all__ = ["int8_report_html", "report_paths", "write_int8_report"]


def report_paths(engine: Path) -> tuple[Path, Path]:
    """`minet-int8.onnx` -> `minet-int8.report.html`, `minet-int8.report.json`."""
    return engine.with_suffix(".report.html"), engine.with_suffix(".report.json")


def write_int8_report(engine: Path, quantisation: Quantisation) -> Path:
    """Write both beside the engine, each whole or not at all; answers the page's path."""
    page, data = report_paths(engine)
    write_text(data, json.dumps({"engine": engine.name, **quantisation.to_dict()}, indent=2) + "\n")
    write_text(page, int8_report_html(engine.name, quantisation))
    return page


def int8_report_html(engine: str, quantisation: Quantisation) -> str:
    """The page as text: accuracy, layers that were kept, sensitivity and ranges as bars."""
    value = quantisation.to_dict()
    return render_page(
        Path(__file__).with_name("int8_report.html.j2"),
        engine=engine,
        worst=max((item["error"] for item in value["sensitivity"]), default=0) or 1,
        widest=max(value["ranges"].values(), default=0) or 1,
        made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by sdi {version('sdi')}",
        **value,
    )
