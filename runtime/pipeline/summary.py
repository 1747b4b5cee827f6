"""What a run did: counts and times."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdi.runtime.frame import Event

__all__ = ["Latencies", "SourceSummary", "Summary"]

_STAGES = ("grab_ms", "wait_ms", "engine_ms", "inspect_ms", "age_ms", "sink_ms")
_REMEMBERED = 20_000  # times kept for the percentiles; a run may last months


class Latencies:
    """The latest 20,000 times of a stage, in memory that is allocated once."""

    def __init__(self, values_ms: Iterable[float] = ()) -> None:
        self._values = np.zeros(_REMEMBERED, np.float32)
        self._count = 0
        self._lock = threading.Lock()  # every source's thread adds
        for value in values_ms:
            self.add(value)

    def add(self, value_ms: float) -> None:
        with self._lock:
            self._values[self._count % _REMEMBERED] = value_ms
            self._count += 1

    def __len__(self) -> int:
        return min(self._count, _REMEMBERED)

    @property
    def values_ms(self) -> np.ndarray:
        """The times, in no order; a view."""
        return self._values[: len(self)]

    def percentiles(self) -> dict[str, float]:
        """p50, p95 and p99 in milliseconds; empty without values."""
        if not self._count:
            return {}
        values = self.values_ms
        return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}


@dataclass
class SourceSummary:
    """What became of one source's frames."""

    name: str
    frames: int = 0  # results
    skipped: int = 0  # what gave no picture
    drops: int = 0  # live frames passed over because the engine was busy
    stale: int = 0  # live frames refused because they were too old
    unwritten: int = 0  # results that slow sinks never saw
    lost: int = 0  # times that the source was lost
    outage_s: float = 0.0  # how long in all; an outage that has not ended is not in it
    frozen: int = 0  # times that the source gave the same picture again and again
    alarms: int = 0  # times that the alarm was raised

    def count(self, event: Event) -> None:
        """Add what an event of this source counts."""
        self.alarms += event.kind == "alarm"
        self.lost += event.kind == "source_lost"
        self.frozen += event.kind == "source_frozen"
        if event.kind == "source_back":
            self.outage_s += event.details["outage_s"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "outage_s": round(self.outage_s, 3)}


@dataclass
class Summary:
    """What a run did. Times: see `to_dict`."""

    sources: list[SourceSummary] = field(default_factory=list)
    frames: int = 0  # results written
    with_defects: int = 0
    seconds: float = 0.0  # first frame captured to last result written
    grab_ms: Latencies = field(default_factory=Latencies)
    wait_ms: Latencies = field(default_factory=Latencies)
    engine_ms: Latencies = field(default_factory=Latencies)
    inspect_ms: Latencies = field(default_factory=Latencies)
    age_ms: Latencies = field(default_factory=Latencies)
    sink_ms: Latencies = field(default_factory=Latencies)

    @classmethod
    def joined(cls, runs: Sequence[Summary]) -> Summary:
        """Several runs of the same sources as one; of the times, those that a single run would remember."""
        whole = cls([SourceSummary(source.name) for source in runs[0].sources])
        for run in runs:
            whole.frames += run.frames
            whole.with_defects += run.with_defects
            whole.seconds += run.seconds
            for name in _STAGES:
                for value in getattr(run, name).values_ms.tolist():
                    getattr(whole, name).add(value)
            for total, source in zip(whole.sources, run.sources, strict=True):
                for name, value in vars(source).items():
                    if name != "name":
                        setattr(total, name, getattr(total, name) + value)
        return whole

    @property
    def skipped(self) -> int:
        """What gave no picture, in all sources."""
        return sum(source.skipped for source in self.sources)

    @property
    def alarms(self) -> int:
        """How often the alarm was raised, in all sources."""
        return sum(source.alarms for source in self.sources)

    @property
    def drops(self) -> int:
        """Live frames passed over, in all sources."""
        return sum(source.drops for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Times are p50, p95 and p99 over the latest 20,000 frames, in milliseconds.

        `grab_ms`: until the source gave the frame (the pace of a camera, the decoding of a file). `wait_ms`: from
        capture to the engine. `engine_ms`: resizing and the network. `inspect_ms`: defects and verdict. `age_ms`: from
        capture to result, so the three before it and all waits between them. `sink_ms`: writing, in all sinks together.
        """
        return {
            "frames": self.frames,
            "with_defects": self.with_defects,
            "alarms": self.alarms,
            "skipped": self.skipped,
            "drops": self.drops,
            "seconds": round(self.seconds, 3),
            "fps": round(self.frames / self.seconds, 2) if self.seconds else 0.0,
            **{name: getattr(self, name).percentiles() for name in _STAGES},
            "sources": [source.to_dict() for source in self.sources],
        }
