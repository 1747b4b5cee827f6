"""What `sdi-run` shows: the engine before a run, progress during it, the metrics after it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from sdi.runtime.common.console import log, out, print_json, warn

if TYPE_CHECKING:
    from sdi.runtime.engine.base import Engine
    from sdi.runtime.frame import Event, Result, Skipped
    from sdi.runtime.pipeline.loop import Loop
    from sdi.runtime.pipeline.summary import Summary

__all__ = ["conclude", "introduce", "run_shown"]

# Events that are logged at once. Those that may come with every frame are only counted and recorded.
_LOGGED = ("source_lost", "source_back", "source_changed", "source_frozen", "source_moving")
_VERDICTS = ("alarm", "cleared", "defect")  # news while a line is watched; over a folder they are results
_STAGES = (
    ("grab_ms", "grab"),
    ("wait_ms", "wait"),
    ("engine_ms", "engine"),
    ("inspect_ms", "inspect"),
    ("age_ms", "capture to result"),
    ("sink_ms", "sinks"),
)
_TROUBLES = (
    ("drops", "dropped"),
    ("stale", "too old"),
    ("unwritten", "not written because the sinks were too slow"),
    ("lost", "times lost"),
    ("outage_s", "s without it"),
    ("frozen", "times frozen"),
)


def introduce(engine: Engine, sources: int) -> None:
    """Log the engine and its device; warn of what is doubtful with this number of sources."""
    manifest = engine.manifest
    size = "any size" if engine.frame_hw is None else f"{engine.frame_hw[0]}x{engine.frame_hw[1]}"
    if manifest is None:
        warn(
            f"no manifest beside {engine.path}: it cannot be checked; copy its .json too, or export it again with "
            "sdi-export"
        )
        log.print(f"{engine.path.name}, {size}, on {engine.device}")
        return
    log.print(f"{manifest.model} {manifest.precision}, {size}, on {engine.device}")
    if engine.batch is not None and engine.batch > sources:
        warn(f"this engine takes {engine.batch} frames a call, {sources} are used: export it with --batch {sources}")
    if manifest.random_weights:
        warn("this engine has random weights: it is for timing, its maps mean nothing")


def run_shown(loop: Loop) -> bool:
    """Run under a progress display. Returns whether a signal ended the run."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sdi.runtime.frame import Event, Skipped
    from sdi.runtime.pipeline.watchdog import Watchdog

    signals: list[int] = []

    def on_signal(number: int, _: Any) -> None:
        signals.append(number)
        loop.stop("interrupted")
        signal.signal(number, handlers[signal.Signals(number)])  # asked twice, it ends at once

    watched = all(source.endless for source in loop.sources)
    logged = (*_LOGGED, *_VERDICTS) if watched else _LOGGED
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} fps  {task.fields[defects]} with defects  {task.fields[drops]} dropped"),
        TimeRemainingColumn(),
    )
    lengths = [source.length for source in loop.sources]
    total = sum(length or 0 for length in lengths) if None not in lengths else None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, on_signal)
    try:
        with Progress(*columns, console=log, transient=True, disable=not log.is_terminal) as progress:
            task = progress.add_task("run", total=total, rate=0.0, defects=0, drops=0)

            def report(item: Result | Skipped | Event) -> None:
                summary = loop.summary
                if isinstance(item, Event):
                    if item.kind in logged:
                        warn(item.text, f"{item.kind}:")
                    return
                if isinstance(item, Skipped):
                    warn(item.reason, "skipped:")
                rate = summary.frames / summary.seconds if summary.seconds else 0.0
                progress.update(task, advance=1, rate=rate, defects=summary.with_defects, drops=summary.drops)

            Watchdog(loop).run(report)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return bool(signals)


def conclude(summary: Summary, paths: list[str], json: bool, lines_on_stdout: bool) -> None:
    """Print the metrics of a run: as JSON on stdout, or as text on stderr with the outputs on stdout.

    Args:
        paths: files and folders that were written.
        lines_on_stdout: results went to stdout, so nothing else may.
    """
    metrics = summary.to_dict()
    if json:
        print_json({**metrics, "outputs": paths})
        return
    log.print(
        f"{metrics['frames']} frames in {metrics['seconds']:.1f} s ({metrics['fps']:.1f} fps), "
        f"{metrics['with_defects']} with defects, {metrics['drops']} dropped, {metrics['skipped']} skipped"
    )
    for source in metrics["sources"]:
        troubles = [f"{source[key]} {what}" for key, what in _TROUBLES if source[key]]
        if troubles:
            log.print(f"{source['name']}: {', '.join(troubles)}")
    for key, what in _STAGES:
        if metrics[key]:
            log.print(f"{what} ms: " + "  ".join(f"{name} {value:.1f}" for name, value in metrics[key].items()))
    for path in paths:
        (log if lines_on_stdout else out).print(path)
