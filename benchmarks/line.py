"""What the loop costs beside the engine: on a video, with four sources at once, and in age on a live source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.rows import Row, Table
from benchmarks.timing import interleaved, quotients
from benchmarks.workbench import Workbench
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.open import open_engine
from sdi.runtime.frame import Event, Frame, Result, Skipped
from sdi.runtime.inspection.defects import DefectRule
from sdi.runtime.inspection.inspector import Inspector
from sdi.runtime.pipeline.loop import Loop
from sdi.runtime.sources.base import Source
from sdi.runtime.sources.images import ImageSource
from sdi.runtime.sources.open import open_source

__all__ = ["run"]

_ROUNDS = 9
_VIDEO_FRAMES = 40
_PICTURES = 20  # of each of the four sources
_LIVE_FRAMES = 25
_FRAME_S = 0.04  # 25 frames a second


class _Passes:
    """A candidate: passes over frames, each timed by the clock from one frame to the last; CPU seconds beside that.

    Args:
        work: makes one pass, calls what it is given after every frame, and answers how many frames there were.
    """

    def __init__(self, work: Callable[[Callable[[], None]], int]) -> None:
        self._work = work
        self.cpu: list[float] = []  # of the whole process, a frame, in each pass

    def __call__(self) -> float:
        done: list[float] = []
        cpu = time.process_time()
        frames = self._work(lambda: done.append(time.perf_counter()))
        self.cpu.append((time.process_time() - cpu) / frames)
        assert len(done) == frames, f"{len(done)} of {frames} frames came through"
        return (done[-1] - done[0]) / (frames - 1)


def run(bench: Workbench) -> Table:
    """Seconds a frame of the loop over those of the bare engine; rate of four sources; age on a live source."""
    video, frames = _video(bench)
    folders = [bench.strips(_PICTURES)] * 4
    pictures = [cv2.imread(str(path)) for path in folders[0]]
    slow, quick = bench.engine("fp32", (368, 368)), bench.engine("fp32")
    with (
        open_engine(slow, "cpu", 1) as one,
        open_engine(slow, "cpu", bench.cores) as all_cores,
        open_engine(quick, "cpu", 1) as small,
        open_engine(quick, "cpu", bench.cores) as small_all,
    ):
        ages: list[float] = []
        passes = {
            "bare": _bare(one, frames),
            "loop": _over_video(one, video),
            "bare, pictures": _bare(small, pictures * 4),
            "four": _over_folders(small, folders),
            "bare, all cores": _bare(all_cores, frames),
            "loop, all cores": _over_video(all_cores, video),
            "bare, pictures, all cores": _bare(small_all, pictures * 4),
            "four, all cores": _over_folders(small_all, folders),
        }

        def live() -> float:
            ages.append(_age_over_bound(small, pictures[0]))
            return ages[-1]

        bench.progress.log("timing the loop beside the bare engine")
        for candidate in passes.values():  # warms up
            candidate()
            candidate.cpu.clear()
        seconds = interleaved({**passes, "live": live}, bench.rounds(_ROUNDS))

    def cpu(above: str, below: str) -> list[float]:
        return quotients(passes[above].cpu, passes[below].cpu)

    rows = [
        Row(
            "video: seconds a frame of the loop over the bare engine's",
            "x",
            quotients(seconds["loop"], seconds["bare"]),
            at_most=1.05,
        ),
        Row(
            "four 200x200 sources: rate over the bare engine's",
            "x",
            quotients(seconds["bare, pictures"], seconds["four"]),
            at_least=0.95,
        ),
        Row("live source, 25 frames a second: age (p95) over two frame times and one inference", "x", ages, at_most=1),
        Row("video, CPU seconds: the loop, decoding and defects, over the bare engine", "x", cpu("loop", "bare")),
        Row("four sources, CPU seconds: likewise", "x", cpu("four", "bare, pictures")),
        Row(
            f"video, engine on all {bench.cores} cores: seconds a frame, likewise",
            "x",
            quotients(seconds["loop, all cores"], seconds["bare, all cores"]),
        ),
        Row(
            f"four sources, engine on all {bench.cores} cores: rate, likewise",
            "x",
            quotients(seconds["bare, pictures, all cores"], seconds["four, all cores"]),
        ),
        Row("video: the bare engine, a frame", "ms", [s * 1e3 for s in seconds["bare"]]),
        Row("pictures: the bare engine, a frame", "ms", [s * 1e3 for s in seconds["bare, pictures"]]),
        Row(
            "CPU seconds over clock seconds of the bare engine: about 1 where nothing else runs",
            "x",
            quotients(passes["bare"].cpu, seconds["bare"]),
        ),
    ]
    notes = (
        f"The video is {_VIDEO_FRAMES} frames of synthetic strip, 640x480 Motion JPEG; its engine is FP32 MINet at "
        f"368x368. The four sources are folders of {_PICTURES} pictures each, 200x200, through FP32 MINet at its own "
        "size, a frame a call. Defects and verdicts are included. The engine has one core, so that the loop has "
        "another, as it has beside a GPU; on all cores, whatever the loop does takes time from the engine. Seconds "
        "are from the first result to the last. Age runs from capture to verdict."
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


def _bare(engine: Engine, frames: list[np.ndarray]) -> _Passes:
    def work(tick: Callable[[], None]) -> int:
        for frame in frames:
            engine(frame)
            tick()
        return len(frames)

    return _Passes(work)


def _over_video(engine: Engine, video: Path) -> _Passes:
    def work(tick: Callable[[], None]) -> int:
        with open_source(str(video)) as source:
            return _looped([source], engine, tick)

    return _Passes(work)


def _over_folders(engine: Engine, folders: list[list[Path]]) -> _Passes:
    def work(tick: Callable[[], None]) -> int:
        return _looped([ImageSource(str(number), paths) for number, paths in enumerate(folders)], engine, tick)

    return _Passes(work)


def _looped(sources: Sequence[Source], engine: Engine, tick: Callable[[], None]) -> int:
    def report(item: Result | Skipped | Event) -> None:
        if isinstance(item, Result):
            tick()

    return Loop(sources, engine, [], Inspector(DefectRule(min_area=16))).run(report).frames


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
