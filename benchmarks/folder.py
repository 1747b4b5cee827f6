"""`sdi-run` over a folder of pictures, against a bare loop that only reads, runs and writes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from benchmarks.rows import Row, Table
from benchmarks.timing import Candidate, interleaved, process, quotients
from benchmarks.workbench import Workbench, sdi_command
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.open import open_engine
from sdi.runtime.inspection.defects import DefectRule
from sdi.runtime.inspection.inspector import Inspector
from sdi.runtime.pipeline.loop import Loop
from sdi.runtime.sinks.masks import MasksSink
from sdi.runtime.sources.images import ImageSource

__all__ = ["run"]

_PICTURES = 300
_ROUNDS = 5


def run(bench: Workbench) -> Table:
    """Pictures a second of the bare loop, of our loop as a library, and of the whole command."""
    paths = bench.strips(_PICTURES)
    engine_path = bench.engine("fp32")
    with open_engine(engine_path, "cpu", bench.cores) as engine:
        bench.progress.log("timing the loop over a folder")
        warm_up = paths[: _PICTURES // 10]
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            _bare_loop(engine, warm_up, Path(folder))
        seconds = interleaved(
            {
                "bare": _into_fresh_folder(bench, lambda folder: _bare_loop(engine, paths, folder)),
                "loop": _into_fresh_folder(bench, lambda folder: _our_loop(engine, paths, folder)),
                "command": _command(bench, engine_path, paths[0].parent),
            },
            bench.rounds(_ROUNDS),
        )
    rates = {name: [_PICTURES / s for s in values] for name, values in seconds.items()}
    rows = [
        Row(
            "our loop, its rate over the bare loop's",
            "x",
            quotients(rates["loop"], rates["bare"]),
            at_least=0.8,
        ),
        Row(
            "the whole `sdi-run` process, start-up included, likewise",
            "x",
            quotients(rates["command"], rates["bare"]),
        ),
        Row("bare loop", "images/s", rates["bare"]),
        Row("our loop", "images/s", rates["loop"]),
        Row(f"whole `sdi-run` process over {_PICTURES} pictures", "images/s", rates["command"]),
    ]
    height, width = bench.checkpoint.input_hw
    notes = (
        f"{_PICTURES} pictures of synthetic strip, 200x200 BMP, the FP32 MINet engine at {height}x{width}, "
        f"{bench.weights}, maps written as PNG. The bare loop is one thread of cv2.imread, cv2.resize, the "
        "same engine, cv2.resize and cv2.imwrite; ours reads, runs and writes on a thread each, finds the "
        "defects, and writes every file whole or not at all."
    )
    return Table("folder", f"`sdi-run` over a folder, {bench.cores} CPU cores", notes, rows)


def _bare_loop(engine: Engine, paths: list[Path], folder: Path) -> None:
    assert engine.frame_hw is not None
    size_wh = engine.frame_hw[::-1]
    for path in paths:
        image = cv2.imread(str(path))
        saliency = engine.execute(cv2.resize(image, size_wh)[None])[0]
        cv2.imwrite(str(folder / f"{path.stem}.png"), cv2.resize(saliency, image.shape[1::-1]))


def _our_loop(engine: Engine, paths: list[Path], folder: Path) -> None:
    with ImageSource("strip", paths) as source, MasksSink(folder) as masks:
        # The defects are those of sdi-run's defaults.
        summary = Loop(source, engine, [masks], Inspector(DefectRule(0.5, 16))).run()
    assert summary.frames == len(paths), f"{summary.frames} of {len(paths)} pictures came through"


def _into_fresh_folder(bench: Workbench, work: Callable[[Path], None]) -> Candidate:
    """Files that replace others cost otherwise than new ones, so every pass writes into an empty folder."""

    def timed() -> float:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            started = time.perf_counter()
            work(Path(folder))
            return time.perf_counter() - started

    return timed


def _command(bench: Workbench, engine: Path, pictures: Path) -> Candidate:
    def timed() -> float:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            flags = ["--engine", str(engine), "--source", str(pictures), "--masks", folder, "--device", "cpu"]
            return process([sdi_command("sdi-run"), *flags, "--threads", str(bench.cores)], bench.folder)()

    return timed
