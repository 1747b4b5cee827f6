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
from sdi.runtime.common.options import MmPerPixelOption, OverlapOption, TileOption
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
            help="Engine to run: a file, e.g. model-fp16.onnx, or a name that --list shows. Default: its first."
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the engines that come with sdi: scores, size, speed here.")
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder, quoted glob, image, video, stream URL, GStreamer pipeline, csi:0 (Jetson), - (the current "
            "folder, watched) or 'demo' (synthetic strip); NAME=... names it. May be repeated: one engine serves all.",
            rich_help_panel=_IN,
        ),
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Camera: 0 or /dev/video0. May be repeated.", rich_help_panel=_IN)
    ] = None,
    watch: Annotated[
        list[Path] | None,
        typer.Option(help="Folder whose pictures are taken as they appear. May be repeated.", rich_help_panel=_IN),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second, asked of cameras.", rich_help_panel=_LIVE)] = None,
    resolution: Annotated[
        str | None,
        typer.Option(help="WxH, e.g. 1920x1080: asked of cameras, required of streams.", rich_help_panel=_LIVE),
    ] = None,
    size: Annotated[str | None, typer.Option(hidden=True)] = None,
    fourcc: Annotated[
        str | None, typer.Option(help="Pixel format asked of cameras, e.g. MJPG or YUYV.", rich_help_panel=_LIVE)
    ] = None,
    max_age_ms: Annotated[
        float | None, typer.Option(help="Refuse live frames that are older than this.", rich_help_panel=_LIVE)
    ] = None,
    give_up: Annotated[
        float | None,
        typer.Option(help="Seconds to try a lost camera or stream again; default for ever.", rich_help_panel=_LIVE),
    ] = None,
    frozen_after: Annotated[
        int,
        typer.Option(help="Identical frames in a row that mean a frozen camera; 0 never.", rich_help_panel=_LIVE),
    ] = 50,
    slow_sinks: Annotated[
        SlowSinks,
        typer.Option(
            help="Live results that sinks are too slow for: drop (and count) them, or hold the engine.",
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
            help="File to append a JSON line a frame to, and one an event; '-' is stdout.", rich_help_panel=_OUT
        ),
    ] = None,
    jsonl_mb: Annotated[
        float | None,
        typer.Option(help="Megabytes at which --jsonl goes on in a new file; the old is NAME.1.", rich_help_panel=_OUT),
    ] = None,
    jsonl_keep: Annotated[int, typer.Option(min=1, help="How many old files are kept.", rich_help_panel=_OUT)] = 5,
    keep_defects: Annotated[
        Path | None,
        typer.Option(help="Folder for frame, map and record of every alarm.", rich_help_panel=_OUT),
    ] = None,
    keep_mb: Annotated[
        float, typer.Option(help="Megabytes they may take; then the oldest go.", rich_help_panel=_OUT)
    ] = 1000,
    show: Annotated[bool, typer.Option("--show", help="Show a window; q closes it.", rich_help_panel=_OUT)] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over files that sdi-run did not make.", rich_help_panel=_OUT)
    ] = False,
    threshold: Annotated[
        float, typer.Option(help="Probability from which a pixel is part of a defect.", rich_help_panel=_HOW)
    ] = 0.5,
    min_area: Annotated[
        int, typer.Option(min=1, help="Smallest defect, pixels of the frame.", rich_help_panel=_HOW)
    ] = 16,
    roi: Annotated[
        str | None,
        typer.Option(
            help="Where defects count: x,y,w,h or a polygon 'x,y;x,y;x,y', pixels of the frame.", rich_help_panel=_HOW
        ),
    ] = None,
    tile: TileOption = "auto",
    overlap: OverlapOption = None,
    mm_per_pixel: MmPerPixelOption = None,
    alarm_frames: Annotated[
        int,
        typer.Option(
            min=1,
            help="Frames in a row that raise the alarm, or clear it; on a camera 3 to 5.",
            rich_help_panel=_HOW,
        ),
    ] = 1,
    link: Annotated[
        bool,
        typer.Option("--link", help="Regions that overlap over frames are one defect.", rich_help_panel=_HOW),
    ] = False,
    fail_on_defect: Annotated[
        bool, typer.Option("--fail-on-defect", help="Exit with 1 if there was an alarm.", rich_help_panel=_HOW)
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(
            help="Serve a page with the live picture, and /metrics, e.g. on 127.0.0.1:8080.", rich_help_panel=_NET
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SDI_TOKEN", help="What readers must know; needed to serve other machines.", rich_help_panel=_NET
        ),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(help="Broker for events: mqtt://USER@HOST:PORT/PREFIX; mqtts:// is TLS.", rich_help_panel=_NET),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(help="URL that events are POSTed to as JSON.", rich_help_panel=_NET)
    ] = None,
    queue: Annotated[
        Path | None,
        typer.Option(
            help="Folder where events wait while a receiver is down; default ~/.local/state/sdi.", rich_help_panel=_NET
        ),
    ] = None,
    queue_mb: Annotated[
        float, typer.Option(help="Megabytes of waiting events; then the oldest go.", rich_help_panel=_NET)
    ] = 64,
    station: Annotated[
        str | None, typer.Option(help="This machine's name in messages; default its host name.", rich_help_panel=_NET)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads for the engine; default one a core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run an engine over pictures, a video or a camera.

    Ctrl-C ends the run; frames under way are finished and everything is closed; a second one does not wait for
    them. Exit codes: 0 all went well,
    1 there was an alarm (--fail-on-defect), 2 wrong use, or pictures that could not be read and were skipped,
    3 the camera or the device was lost, 130 a folder or video was interrupted.

    In a systemd unit with Type=notify it tells when it is ready and, for WatchdogSec, that it goes on.

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

    from sdi.runtime.engine.open import open_tiled
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
        loaded = stack.enter_context(open_tiled(engine or default_engine(), device, threads, windows))
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
            if loop.summary.frames:  # a camera lost after weeks of work leaves its figures too
                conclude(loop.summary, outputs.places, json, jsonl == "-")
            raise
    summary = loop.summary
    conclude(summary, outputs.places, json, jsonl == "-")
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
