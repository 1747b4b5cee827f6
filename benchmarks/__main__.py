"""`python -m benchmarks`, from the repository root."""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from benchmarks.report import circumstances, load_average, machine, markdown, rewritten
from benchmarks.timing import hold_cores
from sdi.runtime.common.console import log, out, print_json, run_app, single_command, warn
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import write_text
from sdi.runtime.common.progress import Progress

if TYPE_CHECKING:
    from benchmarks.rows import Table

# Modules with a `run(bench) -> Table`; imported when they are run, since some load PyTorch.
_BENCHMARKS = ("minet", "folder", "line", "frames", "startup", "training")
_ON_REQUEST = ("int8",)  # needs data that is not part of this project
_DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_CORES = 2  # what the bounds are for


def bench_command(
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Run this one alone (may be repeated): {', '.join((*_BENCHMARKS, *_ON_REQUEST))}. Rewrites nothing."
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="With --only: rewrite its part of the document.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the figures of every round as JSON.")] = False,
) -> None:
    """Measure the speed bounds and rewrite docs/benchmarks.md. Exits with 1 when a bound is not kept."""
    names = list(dict.fromkeys(only or _BENCHMARKS))
    known = (*_BENCHMARKS, *_ON_REQUEST)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"unknown benchmark '{unknown[0]}'; known: {', '.join(known)}")
    load, all_cores = load_average(), os.cpu_count() or 1
    cores = hold_cores(_CORES)
    if cores < _CORES:
        warn(f"the bounds are for {_CORES} cores, here is {cores}")
    # The exporter of PyTorch tells of things that no one here can mend.
    warnings.filterwarnings("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    tables = _run(names, cores)
    facts, measured = machine(cores, all_cores), circumstances(load)
    text = markdown(tables, facts, measured)
    if json:
        print_json({"machine": facts, "measured": measured, "tables": [table.to_dict() for table in tables]})
    else:
        out.print(text)
    if only is None or write:
        document = text if only is None else rewritten(_DOCUMENT.read_text(encoding="utf-8"), tables, measured)
        write_text(_DOCUMENT, document)
        log.print(f"wrote {_DOCUMENT.name}")
    failed = [row.what for table in tables for row in table.rows if row.passed is False]
    for what in failed:
        warn(what, "bound not kept:", "bold red")
    if failed:
        raise typer.Exit(1)


def _run(names: list[str], cores: int) -> list[Table]:
    from benchmarks.workbench import Workbench

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tables = []
    with (
        tempfile.TemporaryDirectory(prefix="sdi-bench-") as folder,
        Bar(*columns, console=log, transient=True, disable=not log.is_terminal) as bar,
    ):
        task = bar.add_task("starting", total=None)

        class BarProgress(Progress):
            """Log lines become the bar's description."""

            def log(self, text: str) -> None:
                bar.update(task, description=text, total=None, completed=0)
                if not log.is_terminal:
                    log.print(text)

        bench = Workbench(
            Path(folder), cores, BarProgress(), lambda n, total: bar.update(task, completed=n, total=total)
        )
        for name in names:
            tables.append(importlib.import_module(f"benchmarks.{name}").run(bench))
    return tables


if __name__ == "__main__":
    run_app(single_command(bench_command))
