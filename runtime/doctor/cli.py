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
    from sdi.runtime.doctor.prove import Plan
    from sdi.runtime.engine.cuda import Gpu

__all__ = ["main"]

_PROOF = "Proof of a GPU"
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
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Prove the GPU of this machine: build plans of all networks and precisions, run golden pictures, "
            "sdi-bench, parity and the tests that want a GPU, and write one report.",
            rich_help_panel=_PROOF,
        ),
    ] = False,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for proof.html, proof.json and plans.", rich_help_panel=_PROOF),
    ] = Path("proof"),
    tests: Annotated[
        Path, typer.Option(help="Folder of the tests that want a GPU, in a checkout.", rich_help_panel=_PROOF)
    ] = Path("tests/gpu"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<build|self-test|bench|tests|parity>",
            help="Run steps of this kind alone, on the plans in --output; repeat.",
            rich_help_panel=_PROOF,
        ),
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Prove this network alone; repeat.", rich_help_panel=_PROOF)
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.01, help="Seconds a measurement of --prove.", rich_help_panel=_PROOF)
    ] = 5.0,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Write to a folder that --prove did not make.", rich_help_panel=_PROOF),
    ] = False,
) -> None:
    """Examine this machine: what is installed, what works, and which command mends the rest.

    Each line is ok, a note (it works, or not everybody needs it) or a fault. Each provider of ONNX Runtime runs a tiny
    network, and each engine runs its self-test. Nothing is changed and no camera is opened.

    Exit codes: 0 no fault, 1 a fault was found or a step of --prove failed, 2 wrong use, 3 --prove found no GPU.

    Examples:

      sdi-doctor

      sdi-doctor --engine minet-fp16.plan --engine minet-fp16.onnx

      sdi-doctor --json > machine.json

      sdi-doctor --prove -o proof
    """
    from sdi.runtime.engine.shipped import default_engine, find_engine

    paths = [find_engine(path) for path in (*(engines or []), *(engine or []))]
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not a file"
            raise InputError(f"{path} {what}; give an engine, e.g. minet-fp32.onnx")

    wanted = _wanted(output, tests, only or [], network or [], seconds) if prove else None

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
    failed = _prove(wanted, findings, overwrite) if wanted is not None else 0
    if faults or failed:
        raise typer.Exit(1)


def _wanted(output: Path, tests: Path, only: list[str], networks: list[str], seconds: float) -> Plan:
    from sdi.runtime.doctor.prove import KINDS, NETWORKS, Plan

    kinds = tuple(kind for kind in KINDS if not only or kind in only)
    for option, known, given in (("--only", KINDS, only), ("--network", NETWORKS, networks)):
        if unknown := sorted(set(given) - set(known)):
            raise InputError(f"{option} {unknown[0]}: known are {', '.join(known)}")
    return Plan(output.absolute(), tests.absolute() if tests.is_dir() else None, kinds, tuple(networks), seconds)


def _prove(wanted: Plan, findings: list[Finding], overwrite: bool) -> int:
    """Run the proof and write its report; answers how many steps failed."""
    from sdi.runtime.common.output_folder import claim_folder
    from sdi.runtime.common.progress import ConsoleProgress
    from sdi.runtime.doctor.proof_report import write_proof
    from sdi.runtime.doctor.prove import prove

    claim_folder(wanted.folder, "proof", overwrite, "sdi-doctor --prove")
    proof = prove(wanted, ConsoleProgress())
    for path in write_proof(wanted.folder, proof, findings):
        log.print(f"wrote {path}")
    failed = len(proof.failed)
    log.print(f"{failed} of {len(proof.outcomes)} steps failed", style="bold red" if failed else "green")
    return failed


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
