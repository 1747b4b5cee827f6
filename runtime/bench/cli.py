"""`sdi-bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdi.runtime.common.console import print_json, run_app, single_command
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.options import MmPerPixelOption, OverlapOption, TileOption, ZeroCopyOption
from sdi.runtime.common.renamed import renamed_option

if TYPE_CHECKING:
    from sdi.runtime.doctor.gpu_state import GpuState
    from sdi.runtime.engine.base import Engine
    from sdi.runtime.engine.tiling import Tiling

__all__ = ["main"]

_DEFAULT_HW = (200, 200)  # of SD-saliency-900, where an engine takes any size


def bench_command(
    engine: Annotated[list[Path], typer.Option("--engine", "-e", help="An ONNX file or a plan; repeat to compare.")],
    source: Annotated[
        str | None, typer.Option(help="Source for the loop, as for sdi-run. Default: synthetic strip.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Frames a call, e.g. 1,2,4, for engines of any batch.")] = "1",
    frame: Annotated[
        str | None,
        typer.Option(help="Frames of HxW, e.g. 200x200,480x640, for engines of any size, or where --tile cuts them."),
    ] = None,
    size: Annotated[str | None, typer.Option(hidden=True)] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds a measurement.")] = 5.0,
    warmup: Annotated[int, typer.Option(min=0, help="Calls before each measurement; they are not counted.")] = 5,
    tile: TileOption = "auto",
    overlap: OverlapOption = None,
    mm_per_pixel: MmPerPixelOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: one per core.")] = None,
    zero_copy: ZeroCopyOption = "auto",
    compare_copies: Annotated[
        bool, typer.Option("--compare-copies", help="Measure each plan twice: with --zero-copy on, and off.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print all metrics as JSON.")] = False,
) -> None:
    """Measure engines on this machine: alone, in the whole loop, at start-up, and their memory.

    Several engines take turns within each measurement, so a busy spell of the machine slows all of them. `ratio` is the
    median of the first engine divided by the median of this one: above 1 is faster. The loop takes turns with the
    engine alone; `of_alone` is the rate in the loop divided by the rate alone. `age` is the time from the capture of a
    frame to its verdict; frames of files wait in a queue first. For frames in windows, `of_bare` is the time that the
    bare engine takes for as many windows, divided by the time of the frame: 1 means that cutting and stitching cost
    nothing.

    On a GPU, the time of a plan on the device is measured too, by CUDA events (upload, network and download). The clock
    of the GPU, and what slows it, are read under load before and after each measurement. A row with `throttled` shows
    the limits of cooling and power rather than those of the engine.

    Exit codes: 0 measured, 2 wrong use or a bad engine, 3 a device failed.

    Examples:

      sdi-bench --engine minet-fp32.onnx

      sdi-bench --engine minet-fp32.onnx --engine minet-int8.onnx --batch 1,4 --markdown

      sdi-bench --engine minet --frame 800x2048,1600x2048

      sdi-bench --engine minet-fp16.plan --source line.mp4 --json > bench.json
    """
    batches = [_positive(part, "--batch", "1,2,4") for part in batch.split(",")]
    frame = renamed_option("--frame", frame, "--size", size)
    sizes = [_size_hw(part) for part in frame.split(",")] if frame else None
    if json and markdown:
        raise InputError("--json and --markdown exclude each other; give one of them")
    from sdi.runtime.engine.tiling import Tiling, parse_tile

    windows = parse_tile(tile)
    if windows == "auto" and sizes is None and source is None:
        windows = None  # frames of each engine's own size
    tiling = Tiling(windows, overlap, mm_per_pixel)
    ways = ("on", "off") if compare_copies else (zero_copy,)
    report = _measure(_Request(engine, source, batches, sizes, tiling, seconds, warmup, device, threads, ways))
    if json:
        print_json(report)
    else:
        from sdi.runtime.bench.tables import print_report

        print_report(report, markdown)


@dataclass(frozen=True)
class _Request:
    """What to measure, and how."""

    paths: Sequence[Path]
    source: str | None
    batches: Sequence[int]
    sizes: Sequence[tuple[int, int]] | None  # of frames; None: each engine's own
    tiling: Tiling
    seconds: float
    warmup: int
    device: str
    threads: int | None
    zero_copy: Sequence[str]  # one value, or both: then plans are measured twice

    def open(self, stack: ExitStack) -> list[Engine]:
        """All engines, plans as often as `zero_copy` has values."""
        from sdi.runtime.engine.open import ZERO_COPY, open_tiled

        engines: list[Engine] = []
        for path in self.paths:
            for way in self.zero_copy:
                made = open_tiled(path, self.device, self.threads, self.tiling, zero_copy=ZERO_COPY[way])
                engines.append(stack.enter_context(made))
                if made.zero_copy is None:
                    break
        return engines

    def name(self, engine: Engine) -> str:
        """What a row is called."""
        if len(self.zero_copy) == 1 or engine.zero_copy is None:
            return str(engine.path)
        return f"{engine.path} ({'zero-copy' if engine.zero_copy else 'copies'})"

    def frame_hw(self, engine: Engine, size_hw: tuple[int, int] | None = None) -> tuple[int, int]:
        """Of the frames that an engine is given, where `size_hw` is wanted, or the first of `sizes`."""
        if self.sizes is None:
            return engine.frame_hw or _DEFAULT_HW
        return size_hw or self.sizes[0]


def _check(engine: Engine, request: _Request) -> None:
    for size_hw in request.sizes or ():
        if engine.frame_hw not in (None, size_hw) and engine.grid(size_hw) is None:
            raise InputError(
                f"{engine.path} takes {engine.frame_hw[0]}x{engine.frame_hw[1]} alone; leave --frame out, or let "
                f"--tile cut frames of {size_hw[0]}x{size_hw[1]} into windows"
            )
    if engine.batch is not None and list(request.batches) not in ([1], [engine.batch]):
        raise InputError(f"{engine.path} takes batches of {engine.batch} alone; leave --batch out")


def _measure(request: _Request) -> dict[str, Any]:
    from sdi.runtime.bench.loop import measure_loops, measure_source
    from sdi.runtime.bench.measure import describe_machine, measure_start, strip_frames
    from sdi.runtime.common.progress import ConsoleProgress
    from sdi.runtime.sources.open import open_source

    before = describe_machine()
    alone: list[dict[str, Any]] = []
    starts = []
    source, seconds, device, threads = request.source, request.seconds, request.device, request.threads
    sizes = request.sizes or [_DEFAULT_HW]
    with ExitStack() as stack:
        engines = request.open(stack)
        for opened in engines:
            _check(opened, request)
        steps = len(sizes) * len(request.batches) + 1 + len(engines)
        work = stack.enter_context(ConsoleProgress().task("measuring", steps))
        for size_hw in sizes:
            for count in request.batches:
                work.describe(f"engines alone, {size_hw[0]}x{size_hw[1]}, batch {count}")
                alone += _measure_alone(engines, [request.frame_hw(each, size_hw) for each in engines], count, request)
                work.advance()
        work.describe("engines in the loop")
        strips = [strip_frames(request.frame_hw(each)) for each in engines]
        calls = [partial(opened, strip[0]) for opened, strip in zip(engines, strips, strict=True)]
        looks = _looks(engines, calls)
        if source is None:
            loops = measure_loops(list(zip(engines, strips, strict=True)), seconds)
        else:
            loops = []
            for opened in engines:
                with open_source(source) as grabbed:
                    loops.append(measure_source(opened, grabbed, seconds))
        for row, facts in zip(loops, _gpu_facts(engines, looks, _looks(engines, calls)), strict=True):
            row |= facts
        work.advance()
        for opened in engines:
            work.describe(f"{opened.path.name} in a fresh process")
            start = measure_start(opened.path, device, threads, request.frame_hw(opened))
            starts.append({"engine": request.name(opened), "device": opened.device, **start})
            work.advance()
        names = [request.name(opened) for opened in engines]
    return {
        "machine": before,
        "load_1min_after": (after := describe_machine())["load_1min"],
        "cpu0_mhz_after": after["cpu0_mhz"],
        "threads": request.threads,
        "engines": alone,
        "loop": [
            {"engine": name, "source": source or "synthetic strip", **metrics}
            for name, metrics in zip(names, loops, strict=True)
        ],
        "start": starts,
    }


def _measure_alone(
    engines: list[Engine], sizes: list[tuple[int, int]], count: int, request: _Request
) -> list[dict[str, Any]]:
    """A row an engine, given frames of its size; on a GPU with its own time, and its state before and after.

    Frames that go in windows are timed from frame to map, in turns with the same number of bare windows.
    """
    import numpy as np

    from sdi.runtime.bench.measure import device_metrics, latency_metrics, strip_frames, time_calls

    inputs: list[np.ndarray] = []
    calls: list[Callable[[], object]] = []
    bare: dict[int, Callable[[], object]] = {}  # of engines that cut frames into windows, by their place
    for place, (opened, size_hw) in enumerate(zip(engines, sizes, strict=True)):
        grid = opened.grid(size_hw)
        frames = strip_frames(size_hw if grid is None else opened.frame_hw or grid.window_hw)
        given = np.stack([frames[i % len(frames)] for i in range(opened.batch or count)])
        inputs.append(given)
        calls.append(partial(opened.execute, given))
        if grid is not None:
            bare[place] = calls[place]
            calls[place] = partial(opened, strip_frames(size_hw)[0])
    looks = _looks(engines, calls)
    times = time_calls([*calls, *bare.values()], request.seconds, request.warmup)
    bare_ms = {place: float(np.median(values)) for place, values in zip(bare, times[len(calls) :], strict=True)}
    facts = _gpu_facts(engines, looks, _looks(engines, calls))
    rows: list[dict[str, Any]] = []
    for place, (opened, given, size_hw, values) in enumerate(zip(engines, inputs, sizes, times, strict=False)):
        grid = opened.grid(size_hw)
        metrics = latency_metrics(values, len(given) if grid is None else 1)
        row = {"engine": request.name(opened), "batch": len(given), "size": f"{size_hw[0]}x{size_hw[1]}", **metrics}
        row["ratio"] = rows[0]["p50_ms"] / metrics["p50_ms"] if rows else 1.0
        if grid is not None:
            row |= {"windows": len(grid), "of_bare": bare_ms[place] / len(given) * len(grid) / metrics["p50_ms"]}
        rows.append({**row, **facts[place], **device_metrics(opened, given)})
    return rows


def _looks(engines: list[Engine], calls: Sequence[Callable[[], object]]) -> list[GpuState | None]:
    """The GPU under each engine's load; None without a GPU, or where its state cannot be read."""
    from sdi.runtime.bench.measure import state_under_load

    return [state_under_load(call) if opened.on_gpu else None for opened, call in zip(engines, calls, strict=True)]


def _gpu_facts(
    engines: list[Engine], before: list[GpuState | None], after: list[GpuState | None]
) -> list[dict[str, Any]]:
    """For each engine on a GPU its state before and after, and what throttled it (None: unknown); else nothing."""
    from sdi.runtime.doctor.gpu_state import throttling

    facts: list[dict[str, Any]] = []
    for opened, *looks in zip(engines, before, after, strict=True):
        states = [look.to_dict() if look else None for look in looks]
        known = any(look is not None for look in looks)
        row = {"gpu_before": states[0], "gpu_after": states[1], "throttled": throttling(*looks) if known else None}
        facts.append(row if opened.on_gpu else {})
    return facts


def _positive(text: str, option: str, example: str) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise InputError(f"{option} takes whole numbers from 1 on, got {text!r}; e.g. {option} {example}")
    return int(text)


def _size_hw(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not cross:
        raise InputError(f"--frame takes HxW, got {text!r}; e.g. --frame 200x200,480x640")
    return _positive(height, "--frame", "200x200"), _positive(width, "--frame", "200x200")


def main() -> None:
    """Entry point of `sdi-bench`."""
    run_app(single_command(bench_command))
