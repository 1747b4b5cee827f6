"""What `sdi-parity` prints of a result."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from sdi.export.parity.figures import FIGURES
from sdi.export.parity.result import GateResult, Row, RunnerResult, findings, where_in_words
from sdi.runtime.common.console import log, out

__all__ = ["print_result", "verdict"]

# Columns of a terminal that the names of figures take, and those of a runner.
_FIGURE, _RUNNER = 30, 24


def verdict(passed: bool) -> Text:
    """One word, coloured."""
    return Text("pass", "green") if passed else Text("FAIL", "bold red")


def print_result(result: GateResult) -> None:
    """Tables of figures on stdout, as many runners beside each other as the terminal is wide; notes on stderr."""
    compared = [runner for runner in result.runners if not runner.unavailable]
    title = f"{result.model} against PyTorch in float32, {result.pictures} pictures"
    beside = max(1, (out.width - _FIGURE) // _RUNNER)
    for start in range(0, len(compared), beside):
        some = compared[start : start + beside]
        table = Table(title=title, title_justify="left")
        table.add_column("figure")
        for runner in some:
            table.add_column(f"{runner.name}\n{runner.precision}", justify="right", overflow="fold")
        rows = [{row.figure: row for row in runner.rows} for runner in some]
        for name, figure in FIGURES.items():
            if any(name in each for each in rows):
                table.add_row(figure.title, *(_cell(each.get(name)) for each in rows))
        table.add_section()
        table.add_row("verdict", *(verdict(runner.passed) for runner in some))
        out.print(table)
    for runner in result.runners:
        for note in [*runner.notes, *findings(runner)]:
            log.print(f"{runner.name}: {note}")
        if runner.where is not None:
            _show_where(runner)
        for file in runner.evidence:
            log.print(f"{runner.name}: {file} shows it")
    log.print("each figure with its bound; why it is there: sdi-parity --print-tolerances")


def _cell(row: Row | None) -> Text:
    if row is None:
        return Text("")
    return Text.assemble(
        (row.shown, "" if row.passed else "bold red"), (f" {row.limit}", "dim"), "" if row.passed else " FAIL"
    )


def _show_where(runner: RunnerResult) -> None:
    where = runner.where
    assert where is not None
    table = Table(
        title=f"{runner.name}: {len(where['examined'])} of {where['layers']} layers examined, on {where['picture']}",
        title_justify="left",
    )
    for heading in ("layer", "tensor", "operator", "relative error", "map off by"):
        numeric = heading in ("relative error", "map off by")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in where["examined"]:
        table.add_row(row["layer"], row["tensor"], row["op"], f"{row['error']:.1e}", f"{row['map']:.1e}")
    out.print(table)
    log.print("map off by: RMS, when the engine computes up to this layer and PyTorch the rest")
    out.print(where_in_words(where))
