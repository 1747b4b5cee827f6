"""The loop: grab -> infer -> sinks, on a thread each, joined by short queues.

A live source keeps the newest frame and counts what it drops; a file source drops nothing. The sinks run on the
calling thread, since windows must. Whatever fails in one stage stops all of them and is raised.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdi.runtime.defects import find_regions
from sdi.runtime.engine import Engine
from sdi.runtime.frame import Frame, Result, Skipped
from sdi.runtime.sinks import Sink
from sdi.runtime.sources import Source

__all__ = ["Loop", "Summary"]

_TICK_S = 0.1  # how long a stage waits before it looks whether it should stop
_PATIENCE_S = 10.0  # how long the end of a run waits for a read that hangs in a driver
_HELD = 4  # frames between two stages when nothing may be dropped
_REMEMBERED = 20_000  # latencies kept for the percentiles; a run may last months
_END = object()


@dataclass
class Summary:
    """What a run did."""

    frames: int = 0  # results written
    with_defects: int = 0
    skipped: int = 0  # what gave no picture
    drops: int = 0  # live frames passed over because the engine was busy
    seconds: float = 0.0  # first frame captured to last result written
    engine_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    age_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def to_dict(self) -> dict[str, Any]:
        """Plain figures; latencies as p50, p95 and p99 over the latest 20,000 frames, milliseconds."""
        return {
            "frames": self.frames,
            "with_defects": self.with_defects,
            "skipped": self.skipped,
            "drops": self.drops,
            "seconds": round(self.seconds, 3),
            "fps": round(self.frames / self.seconds, 2) if self.seconds else 0.0,
            "engine_ms": _percentiles(self.engine_ms),
            "age_ms": _percentiles(self.age_ms),
        }


class Loop:
    """One run of one source through one engine into sinks. Use once.

    Args:
        threshold, min_area: what counts as a defect, see `find_regions`.
    """

    def __init__(
        self, source: Source, engine: Engine, sinks: Iterable[Sink], *, threshold: float = 0.5, min_area: int = 1
    ) -> None:
        self.source = source
        self.engine = engine
        self.sinks = list(sinks)
        self.threshold = threshold
        self.min_area = min_area
        self.summary = Summary()
        self._frames: queue.Queue[Any] = queue.Queue(maxsize=1 if source.live else _HELD)
        self._results: queue.Queue[Any] = queue.Queue(maxsize=_HELD)
        # Plain values, not events: setting an event takes a lock, which a signal handler must not.
        self._stopping = False  # asked to stop: what is under way is still finished
        self._over = False  # a stage failed, or all is written: nobody waits for another stage any more
        self._failure: BaseException | None = None
        self._drops = 0

    def stop(self) -> None:
        """Ask the run to end; frames under way are finished. Safe from a signal handler or any thread."""
        self._stopping = True

    def run(self, report: Callable[[Result | Skipped], None] = lambda item: None) -> Summary:
        """Run to the source's end, or until `stop`.

        Args:
            report: hears of every result and everything skipped, after the sinks.
        Raises:
            SdiError: the first failure of any stage; what was finished before it has been written. A source's
                failure lets the frames under way be finished too.
        """
        threads = [
            threading.Thread(target=self._guard, args=(stage,), name=stage.__name__, daemon=True)
            for stage in (self._grab, self._infer)
        ]
        for thread in threads:
            thread.start()
        try:
            self._guard(self._write, report)
        finally:
            self._stopping = self._over = True
            deadline = time.monotonic() + _PATIENCE_S
            for thread in threads:
                # A read that hangs in a driver must not hang the program: the thread is a daemon.
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
        if self._failure is not None:
            raise self._failure
        return self.summary

    def _grab(self) -> None:
        try:
            for item in self.source.frames():
                if self.source.live and isinstance(item, Frame):
                    self._put_newest(item)
                elif not self._put(self._frames, item):
                    return
                if self._stopping:
                    break
        except BaseException as error:
            # Kept, and raised when what was grabbed before is written; after `stop` a lost source is no loss.
            if self._failure is None and not self._stopping:
                self._failure = error
        self._put(self._frames, _END)

    def _infer(self) -> None:
        while (item := self._get(self._frames)) is not _END:
            if item is None:
                return
            if isinstance(item, Frame):
                started = time.monotonic()
                saliency = self.engine(item.image)
                engine_ms = (time.monotonic() - started) * 1e3
                regions = find_regions(saliency, self.threshold, self.min_area)
                age_ms = (time.monotonic() - item.captured) * 1e3
                item = Result(item, saliency, regions, engine_ms, age_ms, self._drops)
            if not self._put(self._results, item):
                return
        self._put(self._results, _END)

    def _write(self, report: Callable[[Result | Skipped], None]) -> None:
        summary = self.summary
        started = 0.0
        while (item := self._get(self._results)) is not _END:
            if item is None:
                return
            if isinstance(item, Skipped):
                summary.skipped += 1
                for sink in self.sinks:
                    sink.note(item)
            else:
                started = started or item.frame.captured
                for sink in self.sinks:
                    sink.write(item)
                summary.frames += 1
                summary.with_defects += bool(item.regions)
                summary.engine_ms.append(item.engine_ms)
                summary.age_ms.append(item.age_ms)
                summary.seconds = time.monotonic() - started
            summary.drops = self._drops
            report(item)

    def _guard(self, stage: Callable[..., None], *args: Any) -> None:
        """Run a stage; its first failure ends all of them and is kept."""
        try:
            stage(*args)
        except BaseException as error:
            if self._failure is None:
                self._failure = error
            self._over = True

    def _put(self, channel: queue.Queue[Any], item: Any) -> bool:
        """Wait for room; False when the run is over."""
        while not self._over:
            try:
                channel.put(item, timeout=_TICK_S)
                return True
            except queue.Full:
                continue
        return False

    def _put_newest(self, frame: Frame) -> None:
        """Put without waiting; an older frame that nobody took yet is dropped and counted."""
        while True:
            try:
                self._frames.put_nowait(frame)
                return
            except queue.Full:
                try:
                    self._frames.get_nowait()
                    self._drops += 1
                except queue.Empty:  # the other side took it in between
                    continue

    def _get(self, channel: queue.Queue[Any]) -> Any:
        """The next item; None when the run is over."""
        while True:
            try:
                return channel.get(timeout=_TICK_S)
            except queue.Empty:
                if self._over:
                    return None
                if channel is self._frames and self.source.live and self._stopping:
                    return _END  # the grabbing thread may sit in a driver that never answers


def _percentiles(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    if not values:
        return {}
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}
