"""`sdi-run`."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdi.runtime.console import log, out, print_json, run_app, single_command, warn
from sdi.runtime.errors import InputError, SdiError

if TYPE_CHECKING:
    from sdi.runtime.engine import Engine
    from sdi.runtime.frame import Result, Skipped
    from sdi.runtime.loop import Loop, Summary
    from sdi.runtime.sinks import Sink
    from sdi.runtime.sources import Source

__all__ = ["main"]

_IN = "What to look at"
_OUT = "Where results go"
_HOW = "What counts as a defect"


def run_command(
    engine: Annotated[
        Path | None,
        typer.Option(help="Engine to run, e.g. model-fp16.onnx. Default: the small network that comes with sdi."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Folder, quoted glob, image, video, stream URL, or 'demo' (synthetic strip).", rich_help_panel=_IN
        ),
    ] = None,
    camera: Annotated[int | None, typer.Option(help="Camera index, e.g. 0.", rich_help_panel=_IN)] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder for saliency maps: NAME.png, 8-bit gray, the source's own size.", rich_help_panel=_OUT
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="Frames with defects drawn in: a folder, or one .mp4.", rich_help_panel=_OUT),
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(help="File to append a JSON line a frame to; '-' is stdout.", rich_help_panel=_OUT),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show a window; q closes it.", rich_help_panel=_OUT)] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over files that sdi-run did not make.", rich_help_panel=_OUT)
    ] = False,
    threshold: Annotated[
        float, typer.Option(help="Probability from which a pixel is a defect.", rich_help_panel=_HOW)
    ] = 0.5,
    min_area: Annotated[
        int, typer.Option(min=1, help="Smallest defect, pixels of the frame.", rich_help_panel=_HOW)
    ] = 16,
    fail_on_defect: Annotated[
        bool, typer.Option("--fail-on-defect", help="Exit with 1 if any frame has a defect.", rich_help_panel=_HOW)
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads for the engine; default one a core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run an engine over pictures, a video or a camera.

    Ctrl-C ends the run; frames under way are finished and everything is closed; a second one does not wait for
    them. Exit codes: 0 all went well,
    1 a defect was found (--fail-on-defect), 2 wrong use, or pictures that could not be read and were skipped,
    3 the camera or the device was lost, 130 a folder or video was interrupted.

    Examples:

      sdi-run --source demo --overlay out

      sdi-run --engine minet-fp16.onnx --source strip/ --masks maps --jsonl results.jsonl

      sdi-run --engine minet-fp16.onnx --camera 0 --show
    """
    if (source is None) == (camera is None):
        raise InputError("give one of --source and --camera; to try it out: sdi-run --source demo --overlay out")
    if json and jsonl == "-":
        raise InputError("--json and --jsonl - would mix on stdout; give --jsonl a file")
    if not 0 < threshold <= 1:
        raise InputError(f"--threshold must be above 0 and at most 1, got {threshold}")

    from sdi.runtime.engine import default_engine, open_engine
    from sdi.runtime.loop import Loop
    from sdi.runtime.sources import open_source

    places = [str(place) for place in (masks, overlay, jsonl) if place not in (None, "-")]
    with ExitStack() as stack:
        opened = stack.enter_context(open_source(source if source is not None else f"camera:{camera}"))
        _check_outputs(opened.inputs, masks, overlay, jsonl)
        loaded = stack.enter_context(open_engine(engine or default_engine(), device, threads))
        _introduce(loaded)
        loaded.self_test()
        sinks = [
            stack.enter_context(sink) for sink in _sinks(opened, masks, overlay, jsonl, show, overwrite, threshold)
        ]
        loop = Loop(opened, loaded, sinks, threshold=threshold, min_area=min_area)
        try:
            interrupted = _run(loop)
        except SdiError:
            if loop.summary.frames:  # a camera lost after weeks of work leaves its figures too
                _conclude(loop.summary, places, json, jsonl == "-")
            raise
    summary = loop.summary
    _conclude(summary, places, json, jsonl == "-")
    if summary.skipped:
        raise typer.Exit(2)
    if interrupted and not opened.live:
        raise typer.Exit(130)
    if fail_on_defect and summary.with_defects:
        raise typer.Exit(1)


def _check_outputs(inputs: Sequence[Path], masks: Path | None, overlay: Path | None, jsonl: str | None) -> None:
    """No output may land on an input or on another output."""
    folders = {folder.resolve() for folder in {path.parent for path in inputs}}
    for flag, place in (("--masks", masks), ("--overlay", overlay), ("--jsonl", jsonl)):
        if place is None or place == "-":
            continue
        place = Path(place).resolve()
        if place in folders:
            raise InputError(f"{flag} {place} is where the source's pictures lie; choose another folder")
        if any(path.name == place.name and path.resolve() == place for path in inputs):
            raise InputError(f"{flag} {place} is what the source reads; choose another name")
    if masks is not None and overlay is not None and masks.resolve() == overlay.resolve():
        raise InputError("--masks and --overlay need folders of their own")


def _sinks(
    source: Source,
    masks: Path | None,
    overlay: Path | None,
    jsonl: str | None,
    show: bool,
    overwrite: bool,
    threshold: float,
) -> Iterator[Sink]:
    """Made one by one, so that each is closed if the next one cannot be made."""
    from sdi.runtime.sinks.jsonl import JsonlSink
    from sdi.runtime.sinks.masks import MasksSink
    from sdi.runtime.sinks.overlay import OverlayFolderSink, OverlayVideoSink, WindowSink, is_video_path

    if masks is not None:
        yield MasksSink(masks, overwrite=overwrite)
    if overlay is not None and is_video_path(overlay):
        yield OverlayVideoSink(overlay, threshold, source.fps, overwrite=overwrite)
    elif overlay is not None:
        yield OverlayFolderSink(overlay, threshold, overwrite=overwrite)
    if jsonl is not None:
        yield JsonlSink(jsonl)
    if show:
        yield WindowSink(threshold)


def _introduce(engine: Engine) -> None:
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
    if engine.batch not in (None, 1):
        warn(f"this engine takes {engine.batch} frames a call, all but one are copies: export it with --batch 1")
    if manifest.random_weights:
        warn("this engine has random weights: it is for timing, its maps mean nothing")


def _run(loop: Loop) -> bool:
    """Run under a progress display. Returns whether a signal ended the run."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sdi.runtime.frame import Skipped
    from sdi.runtime.sinks.overlay import WindowSink

    signals: list[int] = []

    def on_signal(number: int, _: Any) -> None:
        signals.append(number)
        loop.stop()
        signal.signal(number, handlers[signal.Signals(number)])  # asked twice, it ends at once

    windows = [sink for sink in loop.sinks if isinstance(sink, WindowSink)]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} fps  {task.fields[defects]} with defects  {task.fields[drops]} dropped"),
        TimeRemainingColumn(),
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, on_signal)
    try:
        with Progress(*columns, console=log, transient=True, disable=not log.is_terminal) as progress:
            task = progress.add_task("run", total=loop.source.length, rate=0.0, defects=0, drops=0)

            def report(item: Result | Skipped) -> None:
                summary = loop.summary
                if isinstance(item, Skipped):
                    warn(item.reason, "skipped:")
                rate = summary.frames / summary.seconds if summary.seconds else 0.0
                progress.update(task, advance=1, rate=rate, defects=summary.with_defects, drops=summary.drops)
                if any(window.closed for window in windows):
                    loop.stop()

            loop.run(report)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return bool(signals)


def _conclude(summary: Summary, places: list[str], json: bool, lines_on_stdout: bool) -> None:
    figures = summary.to_dict()
    if json:
        print_json({**figures, "outputs": places})
        return
    engine_ms, age_ms = figures["engine_ms"], figures["age_ms"]
    log.print(
        f"{figures['frames']} frames in {figures['seconds']:.1f} s ({figures['fps']:.1f} fps), "
        f"{figures['with_defects']} with defects, {figures['drops']} dropped, {figures['skipped']} skipped"
    )
    if engine_ms:
        for what, values in (("engine", engine_ms), ("capture to result", age_ms)):
            shown = "  ".join(f"{name} {value:.1f}" for name, value in values.items())
            log.print(f"{what} ms: {shown}")
    for place in places:
        (log if lines_on_stdout else out).print(place)


def main() -> None:
    """Entry point of `sdi-run`."""
    run_app(single_command(run_command))
