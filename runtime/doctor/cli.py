"""`sdi-doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdi.runtime.common.console import log, out, print_json, run_app, single_command
from sdi.runtime.common.errors import InputError

if TYPE_CHECKING:
    from sdi.runtime.doctor.finding import Finding
    from sdi.runtime.engine.cuda import Gpu

__all__ = ["main"]

_PIPE_WIDTH = 160  # characters, where stdout is no terminal
_STYLES = {"ok": "green", "note": "yellow", "fault": "bold red"}


def doctor_command(
    engines: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="ENGINE",
            help="Engines to test here: ONNX files, plans, or names that sdi-run --list shows.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        list[Path] | None, typer.Option("--engine", "-e", help="Engine to test here, as an option; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Examine this machine: what is installed, what works, and which command mends the rest.

    Each line is ok, a note (it works, or not everybody needs it) or a fault. Each provider of ONNX Runtime runs a tiny
    network, and each engine runs its self-test. Nothing is changed and no camera is opened.

    Exit codes: 0 no fault, 1 a fault was found, 2 wrong use.

    Examples:

      sdi-doctor

      sdi-doctor --engine minet-fp16.plan --engine minet-fp16.onnx

      sdi-doctor --json > machine.json
    """
    from sdi.runtime.engine.shipped import default_engine, find_engine

    paths = [find_engine(path) for path in (*(engines or []), *(engine or []))]
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not a file"
            raise InputError(f"{path} {what}; give an engine, e.g. minet-fp32.onnx")

    from sdi.runtime.doctor.engine_file import examine_engine
    from sdi.runtime.doctor.findings import examine_machine
    from sdi.runtime.doctor.machine import probe_machine

    with log.status("looking at this machine"):
        findings = examine_machine(probe_machine())
        for path in paths or [default_engine()]:
            findings += examine_engine(path, _gpu)
    faults = sum(finding.status == "fault" for finding in findings)
    if json:
        print_json({"ok": faults == 0, "faults": faults, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
        log.print(f"{faults} {'fault' if faults == 1 else 'faults'}", style="bold red" if faults else "green")
    if faults:
        raise typer.Exit(1)


def _gpu() -> Gpu:
    from sdi.runtime.engine.cuda import open_cuda

    return open_cuda().gpu


def _show(findings: list[Finding]) -> None:
    """Print a table; the remedy stands under its line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid("status", "check", "found", padding=(0, 2, 0, 0))
    for finding in findings:
        found = Text(finding.found)
        if finding.fix:
            found.append(f"\n-> {finding.fix}", style="cyan")
        table.add_row(Text(finding.status, style=_STYLES[finding.status]), Text(finding.check), found)
    console = out if out.is_terminal else Console(width=_PIPE_WIDTH)
    console.print(table)


def main() -> None:
    """Entry point of `sdi-doctor`."""
    run_app(single_command(doctor_command))
