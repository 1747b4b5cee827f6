"""`sdi-run`."""

from __future__ import annotations

import re
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sdi.runtime.common.console import run_app, single_command
from sdi.runtime.common.errors import InputError, SdiError
from sdi.runtime.common.options import FirstLookOption, MmPerPixelOption, OverlapOption, TileOption, ZeroCopyOption
from sdi.runtime.common.renamed import renamed_option

__all__ = ["main"]

_IN = "What to look at"
_OUT = "Where results go"
_HOW = "What counts as a defect"
_LIVE = "Cameras and streams"
_NET = "The line: messages and the page"


class SlowSinks(str, Enum):
    """What happens to results of live sources when the sinks cannot follow."""

    drop = "drop"
    hold = "hold"


def run_command(
    engine: Annotated[
        Path | None,
        typer.Option(
            help="Engine to run: a file, e.g. model-fp16.onnx, or a name from --list. Default: the first of --list."
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the engines that come with sdi: scores, size, speed here.")
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder, quoted glob, image, video, stream URL, GStreamer pipeline, csi:0 (Jetson), - (the current "
            "folder, watched) or 'demo' (synthetic strip). NAME=... gives it a name. May be repeated.",
            rich_help_panel=_IN,
        ),
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Camera: 0 or /dev/video0. May be repeated.", rich_help_panel=_IN)
    ] = None,
    watch: Annotated[
        list[Path] | None,
        typer.Option(help="Folder to watch: pictures are taken as they appear. May be repeated.", rich_help_panel=_IN),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second to ask of cameras.", rich_help_panel=_LIVE)] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            help="WxH, e.g. 1920x1080. Cameras are asked for it, streams must have it.", rich_help_panel=_LIVE
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(hidden=True)] = None,
    fourcc: Annotated[
        str | None, typer.Option(help="Pixel format to ask of cameras, e.g. MJPG or YUYV.", rich_help_panel=_LIVE)
    ] = None,
    max_age_ms: Annotated[
        float | None, typer.Option(help="Refuse live frames older than this.", rich_help_panel=_LIVE)
    ] = None,
    give_up: Annotated[
        float | None,
        typer.Option(
            help="Give up a lost camera or stream after this many seconds. Default: never.", rich_help_panel=_LIVE
        ),
    ] = None,
    frozen_after: Annotated[
        int,
        typer.Option(help="Call a camera frozen after this many identical frames; 0: never.", rich_help_panel=_LIVE),
    ] = 50,
    slow_sinks: Annotated[
        SlowSinks,
        typer.Option(
            help="When sinks are too slow for live results: drop (and count) the oldest, or hold the engine.",
            rich_help_panel=_LIVE,
        ),
    ] = SlowSinks.drop,
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
        typer.Option(
            help="Append one JSON line a frame and one an event to this file; '-' is stdout.", rich_help_panel=_OUT
        ),
    ] = None,
    jsonl_mb: Annotated[
        float | None,
        typer.Option(help="Start a new file at this many megabytes; the old one becomes NAME.1.", rich_help_panel=_OUT),
    ] = None,
    jsonl_keep: Annotated[int, typer.Option(min=1, help="Old --jsonl files to keep.", rich_help_panel=_OUT)] = 5,
    keep_defects: Annotated[
        Path | None,
        typer.Option(help="Folder for the frame, map and record of every alarm.", rich_help_panel=_OUT),
    ] = None,
    keep_mb: Annotated[
        float, typer.Option(help="Megabytes for --keep-defects; then the oldest are removed.", rich_help_panel=_OUT)
    ] = 1000,
    show: Annotated[bool, typer.Option("--show", help="Show a window; q ends the run.", rich_help_panel=_OUT)] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite files that sdi-run did not write.", rich_help_panel=_OUT)
    ] = False,
    threshold: Annotated[
        float, typer.Option(help="A pixel of this probability or more is part of a defect.", rich_help_panel=_HOW)
    ] = 0.5,
    min_area: Annotated[
        int, typer.Option(min=1, help="Smallest defect, in pixels of the frame.", rich_help_panel=_HOW)
    ] = 16,
    roi: Annotated[
        str | None,
        typer.Option(
            help="Region where defects count, in pixels: x,y,w,h or a polygon 'x,y;x,y;x,y'.", rich_help_panel=_HOW
        ),
    ] = None,
    tile: TileOption = "auto",
    overlap: OverlapOption = None,
    mm_per_pixel: MmPerPixelOption = None,
    first_look: FirstLookOption = None,
    alarm_frames: Annotated[
        int,
        typer.Option(
            min=1,
            help="Frames in a row with a defect that raise the alarm; as many without clear it. On cameras 3 to 5.",
            rich_help_panel=_HOW,
        ),
    ] = 1,
    link: Annotated[
        bool,
        typer.Option(
            "--link", help="Count regions that overlap from frame to frame as one defect.", rich_help_panel=_HOW
        ),
    ] = False,
    fail_on_defect: Annotated[
        bool, typer.Option("--fail-on-defect", help="Exit with 1 if there was an alarm.", rich_help_panel=_HOW)
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(help="Serve a live page and /metrics at this address, e.g. 127.0.0.1:8080.", rich_help_panel=_NET),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SDI_TOKEN",
            help="Secret for readers of the page: 16 letters or digits at least. Other machines can read only with it.",
            rich_help_panel=_NET,
        ),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            help="MQTT broker for events: mqtt://USER@HOST:PORT/PREFIX; mqtts:// is TLS.", rich_help_panel=_NET
        ),
    ] = None,
    webhook: Annotated[str | None, typer.Option(help="POST events to this URL, as JSON.", rich_help_panel=_NET)] = None,
    queue: Annotated[
        Path | None,
        typer.Option(
            help="Folder where events wait while a receiver is down. Default: ~/.local/state/sdi.", rich_help_panel=_NET
        ),
    ] = None,
    queue_mb: Annotated[
        float, typer.Option(help="Megabytes for waiting events; then the oldest are removed.", rich_help_panel=_NET)
    ] = 64,
    station: Annotated[
        str | None, typer.Option(help="This machine's name in messages. Default: its host name.", rich_help_panel=_NET)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads for the engine. Default: one a core.")] = None,
    zero_copy: ZeroCopyOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run an engine over pictures, a video or a camera.

    Ctrl-C ends the run: frames under way are finished and everything is closed. A second Ctrl-C does not wait.

    Exit codes: 0 all went well, 1 there was an alarm (--fail-on-defect), 2 wrong use, or pictures that could not be
    read were skipped, 3 the camera or the device was lost, 130 a folder or video was interrupted.

    A systemd unit with Type=notify is notified when the run is ready and, with WatchdogSec, while it goes on.

    Examples:

      sdi-run --list

      sdi-run --source demo --overlay out

      sdi-run --engine minet-fp16.onnx --source strip/ --masks maps --jsonl results.jsonl

      sdi-run --engine minet-fp16.onnx --camera 0 --resolution 1920x1080 --fourcc MJPG --show

      sdi-run --source top=rtsp://10.0.0.5/1 --source bottom=rtsp://10.0.0.6/1 --max-age-ms 200 --jsonl line.jsonl

      sdi-run --watch incoming --masks maps

      sdi-run --engine minet-fp16.onnx --camera 0 --alarm-frames 3 --http 127.0.0.1:8080 --keep-defects alarms
    """
    if list_:
        from sdi.runtime.run.engine_list import list_engines

        list_engines(device, threads, json)
        return
    specs = [
        *(source or []),
        *(_camera_spec(text) for text in camera or []),
        *(f"watch:{path}" for path in watch or []),
    ]
    if not specs:
        raise InputError("give --source, --camera or --watch; to try it out: sdi-run --source demo --overlay out")
    if json and jsonl == "-":
        raise InputError("--json and --jsonl - would mix on stdout; give --jsonl a file")
    if max_age_ms is not None and not max_age_ms > 0:
        raise InputError(f"--max-age-ms must be above 0, got {max_age_ms}")

    from sdi.runtime.engine.open import ZERO_COPY, open_tiled
    from sdi.runtime.engine.shipped import default_engine
    from sdi.runtime.engine.tiling import Tiling, parse_tile
    from sdi.runtime.inspection.defects import DefectRule
    from sdi.runtime.inspection.inspector import Inspector
    from sdi.runtime.inspection.roi import parse_roi
    from sdi.runtime.pipeline.loop import Loop
    from sdi.runtime.run.display import conclude, introduce, run_shown
    from sdi.runtime.run.outputs import Outputs
    from sdi.runtime.sources.open import open_sources
    from sdi.runtime.sources.settings import LiveSettings

    resolution = renamed_option("--resolution", resolution, "--size", size)
    settings = LiveSettings(fps, _resolution_wh(resolution), fourcc, give_up, frozen_after)
    rule = DefectRule(threshold, min_area, None if roi is None else parse_roi(roi), mm_per_pixel)
    inspector = Inspector(rule, alarm_frames=alarm_frames, link=link)
    outputs = Outputs(
        masks=masks,
        overlay=overlay,
        jsonl=jsonl,
        jsonl_mb=jsonl_mb,
        jsonl_keep=jsonl_keep,
        show=show,
        keep_defects=keep_defects,
        keep_mb=keep_mb,
        mqtt=mqtt,
        webhook=webhook,
        queue=queue,
        queue_mb=queue_mb,
        http=http,
        token=token,
        station=station,
        overwrite=overwrite,
    )
    with ExitStack() as stack:
        windows = Tiling(parse_tile(tile), overlap, mm_per_pixel)
        mapped = ZERO_COPY[zero_copy]
        loaded = open_tiled(engine or default_engine(), device, threads, windows, first_look, mapped)
        stack.enter_context(loaded)
        introduce(loaded, len(specs))
        loaded.self_test()
        # After the engine: a camera that nobody reads while one is loaded fills its buffers with old frames.
        sources = open_sources(specs, settings)
        for opened in sources:
            stack.enter_context(opened)
        outputs.check(sources)
        sinks = outputs.open(stack, sources, rule)
        loop = Loop(sources, loaded, sinks, inspector, max_age_ms=max_age_ms, slow_sinks=slow_sinks.value)
        try:
            interrupted = run_shown(loop)
        except SdiError:
            if loop.summary.frames:  # also when a camera is lost after weeks of work
                conclude(loop.summary, outputs.paths, json, jsonl == "-")
            raise
    summary = loop.summary
    conclude(summary, outputs.paths, json, jsonl == "-")
    if summary.skipped:
        raise typer.Exit(2)
    if interrupted and not all(opened.endless for opened in sources):
        raise typer.Exit(130)
    if fail_on_defect and summary.alarms:
        raise typer.Exit(1)


def _camera_spec(text: str) -> str:
    return f"camera:{text}" if text.isdecimal() or text.startswith("/") else text


def _resolution_wh(text: str | None) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)[xX](\d+)", text or "")
    if text is not None and match is None:
        raise InputError(f"--resolution must be a width and a height, e.g. 1920x1080, got '{text}'")
    return (int(match[1]), int(match[2])) if match else None


def main() -> None:
    """Entry point of `sdi-run`."""
    run_app(single_command(run_command))
