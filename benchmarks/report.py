"""The tables as Markdown, with the machine they were measured on."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.rows import Row, Table

__all__ = ["load_average", "machine", "markdown"]

_LIBRARIES = ("sdi", "torch", "onnxruntime", "onnx", "numpy", "opencv-python-headless", "opencv-python")
_QUIET = 0.5  # load average up to which nothing else is worth mention


def machine(cores_used: int, cores: int, load: float | None) -> dict[str, str]:
    """The machine in words.

    Args:
        load: load average before the run; what else runs disturbs the figures.
    """
    facts = {
        "CPU": _cpu(),
        "cores": f"{cores_used} used of {cores}",
        "system": f"{_system()}, {platform.machine()}",
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {v}" for name in _LIBRARIES if (v := _version(name))),
        "measured": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if load is not None:
        disturbed = " **(other work was running: measure again on a quiet machine)**" if load > _QUIET else ""
        facts["load before the run"] = f"{load:.1f}{disturbed}"
    return facts


def markdown(tables: list[Table], facts: dict[str, str]) -> str:
    """The whole document."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks` (`make bench`); do not edit. Candidates are timed side by "
        "side, A B A B, in one run; a figure is the median over the rounds, and a ratio is the median of "
        "the rounds' ratios. Half of the rounds lie between the quartiles. Cores are logical ones.",
        "",
        *(f"- {name}: {fact}" for name, fact in facts.items()),
    ]
    for table in tables:
        lines += ["", f"## {table.title}", "", "| what | measured | quartiles | bound | pass |"]
        lines += ["| --- | ---: | ---: | ---: | --- |", *(_line(row) for row in table.rows)]
        lines += ["", table.notes, "", f"`python -m benchmarks --only {table.name}`"]
    return "\n".join(lines) + "\n"


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
