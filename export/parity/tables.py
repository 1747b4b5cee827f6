"""What `sdi-parity` prints of a result."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from sdi.export.parity.metrics import METRICS
from sdi.export.parity.result import Divergence, GateResult, Row, divergence_in_words, findings
from sdi.runtime.common.console import log, out

__all__ = ["print_result", "verdict"]

# Columns of a terminal that the names of metrics take, and those of a candidate.
_METRIC, _CANDIDATE = 30, 24


def verdict(passed: bool) -> Text:
    """One word, coloured."""
    return Text("pass", "green") if passed else Text("FAIL", "bold red")


def print_result(result: GateResult) -> None:
    """Tables of metrics on stdout, as many candidates beside each other as the terminal is wide; notes on stderr."""
    compared = [one for one in result.candidates if not one.unavailable]
    title = f"{result.model} against PyTorch in float32, {result.pictures} pictures"
    beside = max(1, (out.width - _METRIC) // _CANDIDATE)
    for start in range(0, len(compared), beside):
        some = compared[start : start + beside]
        table = Table(title=title, title_justify="left")
        table.add_column("metric")
        for candidate in some:
            table.add_column(f"{candidate.name}\n{candidate.precision}", justify="right", overflow="fold")
        rows = [{row.metric: row for row in candidate.rows} for candidate in some]
        for name, metric in METRICS.items():
            if any(name in each for each in rows):
                table.add_row(metric.title, *(_cell(each.get(name)) for each in rows))
        table.add_section()
        table.add_row("verdict", *(verdict(candidate.passed) for candidate in some))
        out.print(table)
    for candidate in result.candidates:
        for note in [*candidate.notes, *findings(candidate)]:
            log.print(f"{candidate.name}: {note}")
        if candidate.divergence is not None:
            _show_divergence(candidate.name, candidate.divergence)
        for file in candidate.evidence:
            log.print(f"{candidate.name}: {file} shows it")
    log.print("each metric with its bound; the reasons: sdi-parity --print-tolerances")


def _cell(row: Row | None) -> Text:
    if row is None:
        return Text("")
    return Text.assemble(
        (row.shown, "" if row.passed else "bold red"), (f" {row.limit}", "dim"), "" if row.passed else " FAIL"
    )


def _show_divergence(name: str, divergence: Divergence) -> None:
    examined = f"{len(divergence.examined)} of {divergence.layers} layers examined"
    table = Table(title=f"{name}: {examined}, on {divergence.picture}", title_justify="left")
    for heading in ("layer", "tensor", "operator", "relative error", "map off by"):
        numeric = heading in ("relative error", "map off by")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in divergence.examined:
        table.add_row(row.layer, row.tensor, row.op, f"{row.error:.1e}", f"{row.map:.1e}")
    out.print(table)
    log.print("map off by: RMS, when the engine computes up to this layer and PyTorch the rest")
    out.print(divergence_in_words(divergence))
