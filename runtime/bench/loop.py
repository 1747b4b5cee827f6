"""The speed of engines in the loop, beside that of the same engines alone."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from sdi.runtime.engine.base import Engine
from sdi.runtime.frame import Event, Frame, Result, Skipped
from sdi.runtime.pipeline.loop import Loop
from sdi.runtime.pipeline.summary import Summary
from sdi.runtime.sources.base import Source

__all__ = ["measure_loops", "measure_source"]

_TURN_S = 1.0  # long enough that the start of a run counts for little


class _RepeatedStrip(Source):
    """The same pictures over and over until stopped; as a file source, nothing is dropped."""

    name, live, length = "strip", False, None

    def __init__(self, frames: Sequence[np.ndarray]) -> None:
        self._frames = frames

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        index = 0
        while not self.stopping:
            yield self.frame(index, f"strip_{index}", self._frames[index % len(self._frames)])
            index += 1


@dataclass
class _Turns:
    """The measurements of one engine's turns."""

    alone: list[float] = field(default_factory=list)  # frames a second
    looped: list[float] = field(default_factory=list)
    runs: list[Summary] = field(default_factory=list)


def measure_loops(engines: Sequence[tuple[Engine, Sequence[np.ndarray]]], seconds: float) -> list[dict[str, Any]]:
    """Measure the loop without sinks, in turns with the engine alone: A alone, A looped, B alone, ...

    Args:
        engines: each with its frames, which are repeated.
        seconds: of each engine in the loop.
    Returns:
        For each engine the summary of `sdi-run` over all its turns, and three medians over the turns: `frames_per_s`
        from the first result to the last, `alone_frames_per_s`, and `of_alone`, the first divided by the second.
    """
    rounds = max(2, math.ceil(seconds / _TURN_S))
    turns = [_Turns() for _ in engines]
    for _ in range(rounds):
        for (engine, frames), turn in zip(engines, turns, strict=True):
            turn.alone.append(_alone(engine, frames, seconds / rounds))
            summary, rate = _looped(engine, _RepeatedStrip(frames), seconds / rounds)
            turn.looped.append(rate)
            turn.runs.append(summary)
    return [
        {
            **Summary.joined(turn.runs).to_dict(),
            "frames_per_s": median(turn.looped),
            "alone_frames_per_s": median(turn.alone),
            "of_alone": median(looped / alone for looped, alone in zip(turn.looped, turn.alone, strict=True)),
        }
        for turn in turns
    ]


def measure_source(engine: Engine, source: Source, seconds: float) -> dict[str, Any]:
    """As `measure_loops`, but one run of one engine over `source`: a source sets its own pace."""
    summary, rate = _looped(engine, source, seconds)
    return {**summary.to_dict(), "frames_per_s": rate, "alone_frames_per_s": None, "of_alone": None}


def _alone(engine: Engine, frames: Sequence[np.ndarray], seconds: float) -> float:
    count, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds or not count:
        engine(frames[count % len(frames)])
        count += 1
    return count / spent


def _looped(engine: Engine, source: Source, seconds: float) -> tuple[Summary, float]:
    """The summary and the rate of one run, which ends after `seconds` or with the source."""
    at: list[float] = []  # of the first result and the latest

    def report(item: Result | Skipped | Event) -> None:
        if isinstance(item, Result):
            at[1:] = [time.perf_counter()]

    loop = Loop(source, engine, [])
    timer = threading.Timer(seconds, loop.stop)
    timer.daemon = True
    timer.start()
    try:
        summary = loop.run(report)
    finally:
        timer.cancel()
    if summary.frames < 2:
        return summary, summary.frames / summary.seconds if summary.frames else 0.0
    return summary, (summary.frames - 1) / (at[-1] - at[0])
