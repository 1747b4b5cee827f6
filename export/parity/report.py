"""Reports for a CI: JSON, JUnit XML, Markdown for a summary, and one HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from sdi.export.parity.metrics import METRICS
from sdi.export.parity.result import (
    CandidateResult,
    GateResult,
    Row,
    divergence_in_words,
    findings,
    regression_in_words,
)
from sdi.export.parity.tolerances import in_words
from sdi.runtime.common.files import write_text

__all__ = ["html_report", "json_report", "junit_report", "markdown_report", "write_reports"]


def write_reports(folder: Path, result: GateResult) -> list[Path]:
    """Write `parity.json`, `parity.xml`, `parity.md` and `parity.html` into a folder that is ours.

    All are made before the first is written, so that none is missing where one cannot be made.
    """
    makers: dict[str, Callable[[GateResult], str]] = {
        "parity.json": json_report,
        "parity.xml": junit_report,
        "parity.md": markdown_report,
        "parity.html": html_report,
    }
    texts = {name: make(result) for name, make in makers.items()}
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def json_report(result: GateResult) -> str:
    """All there is; `GateResult.from_dict` reads it again."""
    return json.dumps(result.to_dict(), indent=2) + "\n"


def junit_report(result: GateResult) -> str:
    """A test suite for each candidate, a test case for each of its metrics."""
    suites = ElementTree.Element("testsuites", name="sdi-parity")
    for candidate in result.candidates:
        compared = () if candidate.baseline is None else candidate.baseline.changes
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=f"{result.model}: {candidate.name}",
            tests=str(len(candidate.rows) + len(compared) or 1),
            failures=str(len(candidate.failures) + len(candidate.regressions)),
            errors=str(int(candidate.unavailable is not None)),
            skipped="0",
            timestamp=str(result.machine.get("made", "")).removesuffix("Z"),
        )
        group = f"parity.{result.model}.{candidate.name}"
        if candidate.unavailable is not None:
            case = ElementTree.SubElement(suite, "testcase", classname=group, name="runs here", time="0")
            ElementTree.SubElement(case, "error", message=_printable(candidate.unavailable))
        for row in candidate.rows:
            name = METRICS[row.metric].title
            case = ElementTree.SubElement(suite, "testcase", classname=group, name=name, time="0")
            if not row.passed:
                failure = ElementTree.SubElement(case, "failure", message=_printable(in_words(row)))
                failure.text = _printable("\n".join([f"bound: {row.reason}", *_details(candidate)]))
        for change in compared:
            name = f"{change.metric}, against the last release"
            case = ElementTree.SubElement(suite, "testcase", classname=group, name=name, time="0")
            if not change.passed:
                failure = ElementTree.SubElement(case, "failure", message=_printable(regression_in_words(candidate)))
                failure.text = _printable(f"bound: {change.reason}")
    for part in ("tests", "failures", "errors"):
        suites.set(part, str(sum(int(suite.get(part, "0")) for suite in suites)))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def markdown_report(result: GateResult) -> str:
    """For a job's summary page: the verdict, a table of all metrics, and what is known of failures."""
    compared = [one for one in result.candidates if one.unavailable is None]
    lines = [f"## Parity of {_cell(result.model)}: {'passed' if result.passed else 'FAILED'}", ""]
    lines += [f"{_pictures(result)}, against PyTorch in float32; each metric with its bound.", ""]
    if compared:
        heads = [f"{_cell(candidate.name)} ({candidate.precision})" for candidate in compared]
        lines += [f"| metric | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
        rows = [{row.metric: row for row in candidate.rows} for candidate in compared]
        for name, metric in METRICS.items():
            if any(name in each for each in rows):
                cells = [_markdown_row(each[name]) if name in each else "" for each in rows]
                lines.append(f"| {metric.title.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
        lines.append("")
    for candidate in result.candidates:
        if candidate.unavailable is not None:
            lines.append(f"- {_cell(candidate.name)} cannot be compared here: {_cell(candidate.unavailable)}")
        if details := _details(candidate):
            lines += [f"- {_cell(candidate.name)}: {_cell(detail)}" for detail in details]
    return "\n".join(lines).rstrip() + "\n"


def html_report(result: GateResult) -> str:
    """One page that needs no other file: tables with reasons, quantiles, the worst pictures, offending ones drawn."""
    from sdi.train.evaluation.page import render_page

    return render_page(
        Path(__file__).with_name("parity.html.j2"),
        result=result,
        about=_pictures(result),
        candidates=[
            {
                "result": candidate,
                "rows": [
                    {
                        "title": METRICS[row.metric].title,
                        "measured": row.shown,
                        "bound": f"{'at least' if row.at_least else 'at most'} {row.bound:g}",
                        "passed": row.passed,
                        "reason": row.reason,
                    }
                    for row in candidate.rows
                ],
                "worst": sorted(candidate.pictures, key=lambda picture: -picture.mean)[:10],
                "evidence": [(Path(file).name, _picture_uri(Path(file))) for file in candidate.evidence],
                "remarks": [*candidate.notes, *findings(candidate)],
                "divergence": None if candidate.divergence is None else divergence_in_words(candidate.divergence),
            }
            for candidate in result.candidates
        ],
    )


def _pictures(result: GateResult) -> str:
    drawn = "synthetic strip, a weaker proof than real pictures" if result.synthetic else "real pictures"
    return f"{result.pictures} pictures ({drawn}), masks cut at {result.threshold:g}"


def _details(candidate: CandidateResult) -> list[str]:
    """What helps to understand a candidate's metrics."""
    found = list(candidate.notes)
    if candidate.failures and candidate.pictures:
        worst = max(candidate.pictures, key=lambda picture: picture.max)
        found.append(f"worst picture {worst.name}: differs by up to {worst.max:.3g}, mask IoU {worst.iou:.3f}")
    if candidate.divergence is not None:
        found.append(divergence_in_words(candidate.divergence))
    found += findings(candidate)
    return found + [f"evidence: {file}" for file in candidate.evidence]


def _markdown_row(row: Row) -> str:
    text = f"{row.shown} {row.limit}"
    return text if row.passed else f"**{text} FAILED**"


def _cell(text: str) -> str:
    """A text in Markdown that stays one line of one cell, whatever a file is called."""
    for mark in "\\`*_<>|[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _printable(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(letter if letter >= " " or letter in "\t\n" else "?" for letter in text)


def _picture_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
