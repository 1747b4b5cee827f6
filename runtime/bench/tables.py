"""The report of `sdi-bench` as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdi.runtime.common.console import out

__all__ = ["print_report"]

_COLUMNS = ("n", "min_ms", "p50_ms", "p90_ms", "p99_ms", "frames_per_s", "ratio")
_WINDOW_COLUMNS = ("windows", "of_bare")
_GPU_COLUMNS = ("device_p50_ms", "gpu_mhz", "power_mode", "throttled")
_LOOP_COLUMNS = [
    *("engine", "frames", "frames_per_s", "of_alone"),
    *(f"{stage}_{name}" for stage in ("engine", "age") for name in ("p50", "p95", "p99")),
]


def print_report(report: dict[str, Any], markdown: bool) -> None:
    """Print the report of `sdi-bench` on stdout, as Markdown where asked for."""
    machine = report["machine"]
    out.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}")
    out.print(", ".join(f"{name} {version}" for name, version in machine["packages"].items()))
    load = machine["load_1min"]
    if load is not None and load > 0.5:  # other work slows every measurement
        out.print(f"Other work was running at the start (load {load:.1f}): trust ratios more than times.")
    engines = [_engine_cells(row) for row in report["engines"]]
    columns = ["engine", "batch", "size", *_COLUMNS]
    if any("windows" in row for row in report["engines"]):
        columns += _WINDOW_COLUMNS
    in_loop = _LOOP_COLUMNS
    if any("throttled" in row for row in report["engines"]):
        columns += _GPU_COLUMNS
        in_loop = [*_LOOP_COLUMNS, "throttled"]
    _table("Alone", engines, columns, markdown)
    source = report["loop"][0]["source"]
    _table(f"In the loop, {source}; times in ms", [_loop_cells(row) for row in report["loop"]], in_loop, markdown)
    starts = [{**row, "engine": Path(row["engine"]).name} for row in report["start"]]
    _table("From the start of a process", starts, [name for name in starts[0] if name != "device"], markdown)


def _engine_cells(row: dict[str, Any]) -> dict[str, Any]:
    cells = {**row, "engine": Path(row["engine"]).name, "ratio": f"{row['ratio']:.2f}"}
    look = row.get("gpu_after") or {}
    cells["gpu_mhz"] = look.get("clock_mhz")
    cells["power_mode"] = look.get("power_mode")
    cells["throttled"] = _throttled(row)
    cells["windows"] = row.get("windows", 1)
    cells["of_bare"] = f"{row['of_bare']:.2f}" if "of_bare" in row else "-"
    return cells


def _loop_cells(row: dict[str, Any]) -> dict[str, Any]:
    cells = {**row, "engine": Path(row["engine"]).name}
    cells["of_alone"] = None if row["of_alone"] is None else f"{row['of_alone']:.2f}"
    cells["throttled"] = _throttled(row)
    for stage in ("engine", "age"):
        for name in ("p50", "p95", "p99"):
            cells[f"{stage}_{name}"] = row[f"{stage}_ms"].get(name)
    return cells


def _throttled(row: dict[str, Any]) -> str | None:
    reasons = row.get("throttled")
    return None if reasons is None else ", ".join(reasons) or "no"


def _table(title: str, rows: list[dict[str, Any]], columns: list[str], markdown: bool) -> None:
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    if markdown:
        lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in cells)]
        out.print(f"\n{title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(name.replace("_", " "), overflow="fold") for name in columns), box=None)
    for row in cells:
        table.add_row(*map(Text, row))
    out.print(f"\n{title}:")
    out.print(table)


def _cell(value: Any) -> str:
    return "?" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
