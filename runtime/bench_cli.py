"""`sdi-bench`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sdi.runtime.console import log, out, print_json, run_app, single_command
from sdi.runtime.errors import InputError

__all__ = ["main"]

_DEFAULT_HW = (200, 200)  # of SD-saliency-900, where an engine takes any size
_COLUMNS = ("n", "min_ms", "p50_ms", "p90_ms", "p99_ms", "frames_per_s", "ratio")


def bench_command(
    engine: Annotated[list[Path], typer.Option("--engine", "-e", help="An ONNX file or a plan; repeat to compare.")],
    source: Annotated[
        str | None, typer.Option(help="What the loop reads, as sdi-run takes it. Default: synthetic strip.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Frames a call, e.g. 1,2,4; where the engine leaves it open.")] = "1",
    size: Annotated[
        str | None, typer.Option(help="Sizes HxW, e.g. 200x200,480x640; where the engine leaves it open.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds a measurement.")] = 5.0,
    warmup: Annotated[int, typer.Option(min=0, help="Calls before each measurement that are not kept.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: one per core.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measure engines on this machine: alone, in the whole loop, at start-up, and their memory.

    Several engines take turns within each measurement, so that a busy spell of the machine meets all; `ratio` is
    the first engine's median over this one's: above 1 is faster.

    Exit codes: 0 measured, 2 wrong use or a bad engine, 3 a device failed.

    Examples:

      sdi-bench --engine minet-fp32.onnx

      sdi-bench --engine minet-fp32.onnx --engine minet-int8.onnx --batch 1,4 --markdown

      sdi-bench --engine minet-fp16.plan --source line.mp4 --json > bench.json
    """
    batches = [_positive(part, "--batch", "1,2,4") for part in batch.split(",")]
    sizes = [_size(part) for part in size.split(",")] if size else [_DEFAULT_HW]
    if json and markdown:
        raise InputError("--json and --markdown exclude each other; give one of them")
    report = _measure(engine, source, batches, sizes, bool(size), seconds, warmup, device, threads)
    if json:
        print_json(report)
    else:
        _show(report, markdown)


def _measure(
    paths: list[Path],
    source: str | None,
    batches: list[int],
    sizes: list[tuple[int, int]],
    size_given: bool,
    seconds: float,
    warmup: int,
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    import numpy as np
    from rich.progress import Progress

    from sdi.runtime.bench import (
        describe_machine,
        latency_figures,
        measure_loop,
        measure_start,
        strip_frames,
        time_calls,
    )
    from sdi.runtime.engine import open_engine
    from sdi.runtime.sources import open_source

    before = describe_machine()
    alone: list[dict[str, Any]] = []
    loops, starts = [], []
    with ExitStack() as stack:
        engines = [stack.enter_context(open_engine(path, device, threads)) for path in paths]
        for opened in engines:
            if size_given and opened.frame_hw is not None and sizes != [opened.frame_hw]:
                raise InputError(
                    f"{opened.path} takes {opened.frame_hw[0]}x{opened.frame_hw[1]} alone; leave --size out"
                )
            if opened.batch is not None and batches not in ([1], [opened.batch]):
                raise InputError(f"{opened.path} takes batches of {opened.batch} alone; leave --batch out")
        progress = stack.enter_context(Progress(console=log, transient=True, disable=not log.is_terminal))
        work = progress.add_task("", total=len(sizes) * len(batches) + 2 * len(engines))
        for size_hw in sizes:
            for count in batches:
                calls: list[Callable[[], object]] = []
                kinds: list[dict[str, Any]] = []
                for opened in engines:
                    height, width = opened.frame_hw or size_hw
                    frames = strip_frames((height, width))
                    number = opened.batch or count
                    given = np.stack([frames[i % len(frames)] for i in range(number)])
                    calls.append(partial(opened.execute, given))
                    kinds.append({"engine": str(opened.path), "batch": number, "size": f"{height}x{width}"})
                progress.update(work, description=f"engines alone, {kinds[0]['size']}, batch {count}")
                figures = [
                    latency_figures(values, kind["batch"])
                    for values, kind in zip(time_calls(calls, seconds, warmup), kinds, strict=True)
                ]
                for kind, row in zip(kinds, figures, strict=True):
                    alone.append({**kind, **row, "ratio": figures[0]["p50_ms"] / row["p50_ms"]})
                progress.advance(work)
        for opened in engines:
            size_hw = opened.frame_hw or sizes[0]
            progress.update(work, description=f"{opened.path.name} in the loop")
            if source is None:
                summary = measure_loop(opened, strip_frames(size_hw), seconds)
            else:
                with open_source(source) as grabbed:
                    summary = measure_loop(opened, grabbed, seconds)
            loops.append({"engine": str(opened.path), "source": source or "synthetic strip", **summary})
            progress.advance(work)
            progress.update(work, description=f"{opened.path.name} in a fresh process")
            start = measure_start(opened.path, device, threads, size_hw)
            starts.append({"engine": str(opened.path), "device": opened.device, **start})
            progress.advance(work)
    return {
        "machine": before,
        "load_1min_after": (after := describe_machine())["load_1min"],
        "cpu0_mhz_after": after["cpu0_mhz"],
        "threads": threads,
        "engines": alone,
        "loop": loops,
        "start": starts,
    }


def _show(report: dict[str, Any], markdown: bool) -> None:
    machine = report["machine"]
    out.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}")
    out.print(", ".join(f"{name} {version}" for name, version in machine["packages"].items()))
    load = machine["load_1min"]
    if load is not None and load > 0.5:  # others' work stands in every figure
        out.print(f"Other work was running at the start (load {load:.1f}): ratios tell more than times.")
    engines = [{**row, "engine": Path(row["engine"]).name, "ratio": f"{row['ratio']:.2f}"} for row in report["engines"]]
    _table(engines, ["engine", "batch", "size", *_COLUMNS], markdown)
    shown = [
        {
            "engine": Path(row["engine"]).name,
            "source": row["source"],
            "frames": row["frames"],
            "frames_per_s": row["frames"] / row["seconds"] if row["seconds"] else 0.0,
        }
        for row in report["loop"]
    ]
    _table(shown, list(shown[0]), markdown)
    starts = [{**row, "engine": Path(row["engine"]).name} for row in report["start"]]
    _table(starts, [column for column in starts[0] if column != "device"], markdown)


def _table(rows: list[dict[str, Any]], columns: list[str], markdown: bool) -> None:
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    if markdown:
        lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in cells)]
        out.print("\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(name.replace("_", " "), overflow="fold") for name in columns), box=None)
    for row in cells:
        table.add_row(*map(Text, row))
    out.print()
    out.print(table)


def _cell(value: Any) -> str:
    return "?" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def _positive(text: str, option: str, example: str) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise InputError(f"{option} takes whole numbers from 1 on, got {text!r}; e.g. {option} {example}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not cross:
        raise InputError(f"--size takes HxW, got {text!r}; e.g. --size 200x200,480x640")
    return _positive(height, "--size", "200x200"), _positive(width, "--size", "200x200")


def main() -> None:
    """Entry point of `sdi-bench`."""
    run_app(single_command(bench_command))
