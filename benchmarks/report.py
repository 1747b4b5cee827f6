"""The tables as Markdown, with the machine they were measured on."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.rows import Row, Table

__all__ = ["circumstances", "load_average", "machine", "markdown", "rewritten"]

_LIBRARIES = ("sdi", "torch", "onnxruntime", "onnx", "numpy", "opencv-python-headless", "opencv-python")
_QUIET = 0.5  # load average up to which nothing else is worth mention


def machine(cores_used: int, cores: int) -> dict[str, str]:
    """The machine in words."""
    return {
        "CPU": _cpu(),
        "cores": f"{cores_used} used of {cores}",
        "system": f"{_system()}, {platform.machine()}",
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {v}" for name in _LIBRARIES if (v := _version(name))),
    }


def circumstances(load: float | None) -> str:
    """When figures were measured, and beside what.

    Args:
        load: load average before the run; what else runs disturbs the figures.
    """
    text = f"Measured {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    if load is None:
        return text
    text += f", load before the run {load:.1f}"
    if load <= _QUIET:
        return text
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        return f"{text}: other work was running and gave way, since this ran at real-time priority (`chrt -r 1`)"
    return f"{text}: **other work was running; measure again on a quiet machine**"


def markdown(tables: list[Table], facts: dict[str, str], measured: str) -> str:
    """The whole document.

    Args:
        measured: see `circumstances`.
    """
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks` (`make bench`); do not edit. Candidates are timed side by "
        "side, A B A B, in one run; a figure is the median over the rounds, and a ratio is the median of "
        "the rounds' ratios. Half of the rounds lie between the quartiles. Cores are logical ones.",
        "",
        *(f"- {name}: {fact}" for name, fact in facts.items()),
    ]
    return "\n".join(lines) + "\n" + "".join(f"\n{_section(table, measured)}" for table in tables)


def rewritten(document: str, tables: list[Table], measured: str) -> str:
    """`document` with these tables in the place of older ones of their names, or at its end."""
    for table in tables:
        section = _section(table, measured)
        # From its heading, the last one before its command, to that command.
        old = re.compile(rf"^## (?:(?!^## ).)*?^`{re.escape(_command(table))}`\n", re.DOTALL | re.MULTILINE)
        if old.search(document):
            document = old.sub(lambda _, section=section: section, document)
        else:
            document += f"\n{section}"
    return document


def _section(table: Table, measured: str) -> str:
    lines = [f"## {table.title}", "", "| what | measured | quartiles | bound | pass |"]
    lines += ["| --- | ---: | ---: | ---: | --- |", *(_line(row) for row in table.rows)]
    lines += ["", table.notes, "", f"{measured}.", "", f"`{_command(table)}`"]
    return "\n".join(lines) + "\n"


def _command(table: Table) -> str:
    return f"python -m benchmarks --only {table.name}"


def _line(row: Row) -> str:
    low, median, high = (_figure(value) for value in row.quartiles)
    unit = "" if row.unit == "x" else f" {row.unit}"
    bound = ""
    if row.at_least is not None:
        bound = f"at least {row.at_least:g}{unit}"
    elif row.at_most is not None:
        bound = f"at most {row.at_most:g}{unit}"
    outcome = {None: "", True: "yes", False: "**no**"}[row.passed]
    return f"| {row.what} | {median}{unit or ' x'} | {low} to {high} | {bound} | {outcome} |"


def _figure(value: float) -> str:
    """Three digits or so: more would be noise."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()}"
    except (OSError, KeyError):
        return platform.platform()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def load_average() -> float | None:
    """Processes that ran or waited in the last minute, where the system says."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
