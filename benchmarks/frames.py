"""Frames of a strip camera in windows: what cutting and stitching cost, and how time grows with the frame."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.rows import Row, Table
from benchmarks.timing import interleaved, quotients, repeated
from benchmarks.workbench import Workbench
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.open import open_engine

__all__ = ["run"]

_HW = (800, 2048)
_HEIGHTS = (400, 800, 1600)  # of frames as wide
_ROUNDS = 5
_RATES = {"minet": 8.0}  # frames a second, at least


def run(bench: Workbench) -> Table:
    """Time whole frames in turns with as many bare windows, for the networks that come with sdi."""
    rows: list[Row] = []
    frame = bench.picture(0, _HW)[0]
    with (
        open_engine("minet", "cpu", bench.cores) as minet,
        open_engine("tsernet-lite", "cpu", bench.cores) as lite,
        open_engine("tsernet-lite", "cpu", bench.cores, first_look="minet") as looked,
    ):
        for name, engine in (("minet", minet), ("tsernet-lite", lite)):
            bench.progress.log(f"timing {name} in windows")
            windows = _windows(engine, _HW)
            seconds = interleaved(
                {"frame": repeated(partial(engine, frame)), "bare": repeated(partial(_bare, engine, windows))},
                bench.rounds(_ROUNDS),
            )
            rate = [1 / s for s in seconds["frame"]]
            rows.append(
                Row(
                    f"{name}: bare engine for {windows} windows, times as long as the frame",
                    "x",
                    quotients(seconds["bare"], seconds["frame"]),
                    at_least=0.95,
                )
            )
            rows.append(Row(f"{name}: 800x2048 frames", "frames/s", rate, at_least=_RATES.get(name)))
        bench.progress.log("timing the first look")
        seconds = interleaved({"frame": repeated(partial(looked, frame))}, bench.rounds(_ROUNDS))
        rate = [1 / s for s in seconds["frame"]]
        rows.append(Row("tsernet-lite after a first look by minet: 800x2048 frames", "frames/s", rate, at_least=2))
        bench.progress.log("timing frames of several heights")
        frames = {height: bench.picture(0, (height, _HW[1]))[0] for height in _HEIGHTS}
        seconds = interleaved(
            {str(height): repeated(partial(minet, one)) for height, one in frames.items()}, bench.rounds(_ROUNDS)
        )
        for height, one in frames.items():
            megapixels = one.shape[0] * one.shape[1] / 1e6
            windows = _windows(minet, one.shape[:2])
            what = f"minet: {height}x{_HW[1]}, {megapixels:.1f} megapixels, {windows} windows: a window"
            rows.append(Row(what, "ms", [s * 1e3 / windows for s in seconds[str(height)]]))
    notes = (
        "Synthetic strip with one defect, in the windows that sdi-run chooses: 200x200, an eighth of overlap. The bare "
        "engine runs as many windows one behind the other, nothing cut and nothing stitched; the two take turns. A "
        "first look by MINet spares TSERNet-lite the windows in which it finds nothing."
    )
    return Table("frames", f"Frames in windows, {bench.cores} CPU cores", notes, rows)


def _windows(engine: Engine, frame_hw: tuple[int, ...]) -> int:
    grid = engine.grid((frame_hw[0], frame_hw[1]))
    assert grid is not None  # the manifests of the package know their windows
    return len(grid)


def _bare(engine: Engine, windows: int) -> None:
    height, width = engine.frame_hw or (256, 256)
    frames = np.full((1, height, width, 3), 128, np.uint8)
    for _ in range(windows):
        engine.execute(frames)
