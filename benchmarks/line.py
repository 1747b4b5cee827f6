"""What the loop costs beside the engine: on a video, with four sources at once, and in age on a live source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.rows import Row, Table
from benchmarks.timing import Candidate, interleaved, quotients
from benchmarks.workbench import Workbench
from sdi.runtime.defects import DefectRule
from sdi.runtime.engine import Engine, open_engine
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.inspector import Inspector
from sdi.runtime.loop import Loop
from sdi.runtime.sources import Source, open_source
from sdi.runtime.sources.images import ImageSource

__all__ = ["run"]

_ROUNDS = 5
_VIDEO_FRAMES = 100
_PICTURES = 60  # of each of the four sources
_LIVE_FRAMES = 50
_FRAME_S = 0.04  # 25 frames a second


def run(bench: Workbench) -> Table:
    """Seconds a frame of the loop over those of the bare engine; rate of four sources; age on a live source."""
    video, frames = _video(bench)
    folders = [bench.strips(_PICTURES)] * 4
    pictures = [cv2.imread(str(path)) for path in folders[0]]
    slow = bench.engine("fp32", (368, 368))
    with (
        open_engine(slow, "cpu", 1) as one,
        open_engine(slow, "cpu", bench.cores) as all_cores,
        open_engine(bench.engine("fp32"), "cpu", bench.cores) as small,
    ):
        ages: list[float] = []
        bench.say("timing the loop beside the bare engine")
        seconds = interleaved(
            {
                "bare, one thread": _bare(one, frames),
                "loop, one thread": _timed(lambda: _over_video(one, video), _VIDEO_FRAMES),
                "bare": _bare(all_cores, frames),
                "reading, bare": _timed(lambda: _read_and_run(all_cores, video), _VIDEO_FRAMES),
                "loop": _timed(lambda: _over_video(all_cores, video), _VIDEO_FRAMES),
                "bare, pictures": _bare(small, pictures * 4),
                "four": _timed(lambda: _over_folders(small, folders), 4 * _PICTURES),
                "live": _timed(lambda: ages.append(_age_over_bound(small, pictures[0])), _LIVE_FRAMES),
            },
            bench.rounds(_ROUNDS),
        )
    rows = [
        Row(
            "video, engine on one core: seconds a frame of the loop over the bare engine's",
            "x",
            quotients(seconds["loop, one thread"], seconds["bare, one thread"]),
            at_most=1.05,
        ),
        Row(
            f"video, engine on all {bench.cores} cores: over one thread that reads and runs the engine",
            "x",
            quotients(seconds["loop"], seconds["reading, bare"]),
        ),
        Row(
            f"video, engine on all {bench.cores} cores: over the bare engine (decoding included)",
            "x",
            quotients(seconds["loop"], seconds["bare"]),
        ),
        Row(
            "four 200x200 sources: rate over the bare engine's",
            "x",
            quotients(seconds["bare, pictures"], seconds["four"]),
            at_least=0.95,
        ),
        Row("live source, 25 frames a second: age (p95) over two frame times and one inference", "x", ages, at_most=1),
        Row("engine on one core, a frame", "ms", [s * 1e3 for s in seconds["bare, one thread"]]),
        Row("engine for the four sources, a frame", "ms", [s * 1e3 for s in seconds["bare, pictures"]]),
    ]
    notes = (
        f"The video is {_VIDEO_FRAMES} frames of synthetic strip, 640x480 Motion JPEG; its engine is FP32 MINet at "
        "368x368. On one core the engine leaves one to the loop, as an engine on a GPU does; on all cores decoding "
        "competes with it, so what the loop adds is seen against one thread that reads and infers in turns. The four "
        f"sources are folders of {_PICTURES} pictures each, at the network's own size, defects and verdicts included. "
        "Age runs from capture to verdict."
    )
    return Table("line", f"The loop beside the engine, {bench.cores} CPU cores", notes, rows)


def _video(bench: Workbench) -> tuple[Path, list[np.ndarray]]:
    """A video, and its frames as they are decoded."""
    path = bench.folder / "strip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (640, 480))
    for seed in range(_VIDEO_FRAMES):
        writer.write(bench.picture(seed % 10, (480, 640))[0])
    writer.release()
    with open_source(str(path)) as source:
        return path, [item.image for item in source.frames() if isinstance(item, Frame)]


def _timed(work: Callable[[], object], frames: int) -> Candidate:
    """Seconds a frame."""

    def timed() -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) / frames

    return timed


def _bare(engine: Engine, frames: list[np.ndarray]) -> Candidate:
    def work() -> None:
        for frame in frames:
            engine(frame)

    return _timed(work, len(frames))


def _read_and_run(engine: Engine, video: Path) -> None:
    capture = cv2.VideoCapture(str(video))
    while (read := capture.read())[0]:
        engine(read[1])
    capture.release()


def _over_video(engine: Engine, video: Path) -> None:
    with open_source(str(video)) as source:
        summary = Loop(source, engine, [], Inspector(DefectRule(min_area=16))).run()
    assert summary.frames == _VIDEO_FRAMES, f"{summary.frames} frames came through"


def _over_folders(engine: Engine, folders: list[list[Path]]) -> None:
    sources = [ImageSource(str(number), paths) for number, paths in enumerate(folders)]
    summary = Loop(sources, engine, [], Inspector(DefectRule(min_area=16))).run()
    assert summary.frames == len(folders) * _PICTURES, f"{summary.frames} frames came through"


class _PacedSource(Source):
    """A camera that gives a picture every 40 ms."""

    name = "paced"
    live = True

    def __init__(self, image: np.ndarray) -> None:
        self._image = image

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        due = time.monotonic()
        for index in range(_LIVE_FRAMES):
            due += _FRAME_S
            time.sleep(max(0.0, due - time.monotonic()))
            yield self.frame(index, str(index), self._image.copy())


def _age_over_bound(engine: Engine, image: np.ndarray) -> float:
    figures = Loop(_PacedSource(image), engine, [], Inspector(DefectRule(min_area=16))).run().to_dict()
    return figures["age_ms"]["p95"] / (2 * _FRAME_S * 1e3 + figures["engine_ms"]["p50"])
