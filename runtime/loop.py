"""The loop: grab -> infer -> sinks, joined by short queues.

Every source is grabbed on a thread of its own; one thread takes their frames in turns, several at once where the engine
takes batches, and judges them; the sinks run on the calling thread, since windows must. A live source keeps the newest
frame and counts what it drops; a file source drops nothing. Whatever fails in one stage stops all of them and is
raised.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from sdi.runtime.batching import Batcher
from sdi.runtime.channel import TICK_S, Channel
from sdi.runtime.engine import Engine
from sdi.runtime.frame import Event, Frame, Result, Skipped
from sdi.runtime.inspector import Inspector
from sdi.runtime.sinks import Sink
from sdi.runtime.sources import Source
from sdi.runtime.summary import SourceSummary, Summary

__all__ = ["Loop"]

_PATIENCE_S = 10.0  # how long the end of a run waits for a read that hangs in a driver
_HELD = 4  # frames between two stages when nothing may be dropped
_HELD_EVENTS = 64  # likewise, with events: a stage hardly ever waits for them
_END = object()

Report = Callable[["Result | Skipped | Event"], None]


class _Lane:
    """One source on its way to the engine."""

    def __init__(self, source: Source, arrived: threading.Condition) -> None:
        self.source = source
        # Beside the one frame of a live source there is room for what may not be dropped.
        self.channel = Channel(_HELD, arrived)
        self.summary = SourceSummary(source.name)
        self.open = True


class Loop:
    """One run of sources through one engine into sinks. Use once.

    Args:
        sources: one or several; their names differ.
        inspector: judges every map; by default anything over 0.5 is a defect.
        max_age_ms: a live frame older than this when its turn comes is refused: counted, and told as `frame_stale`.
        slow_sinks: "drop": results of live sources that the sinks are too slow for are passed over, oldest first, and
            counted as `unwritten`, so that what is written is new; "hold": the engine waits for the sinks. Results
            of files are never passed over, nor are events.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        engine: Engine,
        sinks: Iterable[Sink],
        inspector: Inspector | None = None,
        *,
        max_age_ms: float | None = None,
        slow_sinks: Literal["drop", "hold"] = "drop",
    ) -> None:
        self.sources = [sources] if isinstance(sources, Source) else list(sources)
        self.engine = engine
        self.sinks = list(sinks)
        self.inspector = inspector or Inspector()
        self.max_age_ms = max_age_ms
        self._drop_results = slow_sinks == "drop"
        self._arrived = threading.Condition()
        self._lanes = [_Lane(source, self._arrived) for source in self.sources]
        self._turn = 0  # the lane that is asked first
        self._results = Channel(_HELD)
        self._batcher = Batcher(engine, len(self.sources))
        self.summary = Summary([lane.summary for lane in self._lanes])
        self._by_name = {lane.source.name: lane for lane in self._lanes}
        # Plain values, not events: setting an event takes a lock, which a signal handler must not.
        self._stopping = False  # asked to stop: what is under way is still finished
        self._over = False  # a stage failed, or all is written: nobody waits for another stage any more
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Ask the run to end; frames under way are finished. Safe from a signal handler or any thread."""
        self._stopping = True
        for source in self.sources:
            source.stop()

    def run(self, report: Report = lambda item: None) -> Summary:
        """Run to the end of all sources, or until `stop`.

        Args:
            report: hears of every result, event and everything skipped, after the sinks.
        Raises:
            SdiError: the first failure of any stage; what was finished before it has been written. A source's
                failure lets the frames under way be finished too.
        """
        stages: list[tuple[Callable[..., None], str, tuple[Any, ...]]] = [
            *((self._grab, f"grab-{number}", (lane,)) for number, lane in enumerate(self._lanes, 1)),
            (self._infer, "infer", ()),
        ]
        threads = [
            threading.Thread(target=self._guard, args=(stage, *arguments), name=name, daemon=True)
            for stage, name, arguments in stages
        ]
        for thread in threads:
            thread.start()
        try:
            self._guard(self._write, report)
        finally:
            self.stop()
            self._over = True
            deadline = time.monotonic() + _PATIENCE_S
            for thread in threads:
                # A read that hangs in a driver must not hang the program: the thread is a daemon.
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
        if self._failure is not None:
            raise self._failure
        return self.summary

    def _grab(self, lane: _Lane) -> None:
        source = lane.source
        asked = time.monotonic()
        try:
            for item in source.frames():
                if isinstance(item, Frame):
                    self.summary.grab_ms.add((item.captured - asked) * 1e3)
                if source.live and isinstance(item, Frame):
                    dropped = lane.channel.put_newest(item, _is_frame)
                    if dropped is not None:
                        lane.summary.drops += 1
                        source.recycle(dropped.image)
                elif not lane.channel.put(item, self._is_over, None if isinstance(item, Frame) else _HELD_EVENTS):
                    return
                if self._stopping:
                    break
                asked = time.monotonic()
        except BaseException as error:
            # Kept, and raised when what was grabbed before is written; after `stop` a lost source is no loss.
            if self._failure is None and not self._stopping:
                self._failure = error
            self.stop()
        lane.channel.put(_END, self._is_over, _HELD_EVENTS)

    def _infer(self) -> None:
        while taken := self._take():
            frames = [item for item in taken if isinstance(item, Frame)]
            started = time.monotonic()
            answers = iter(self._batcher([frame.image for frame in frames])) if frames else iter(())
            engine_ms = (time.monotonic() - started) * 1e3
            for item in taken:
                if not isinstance(item, Frame):
                    passed_on = self._pass_on(item)
                else:
                    self.summary.wait_ms.add((started - item.captured) * 1e3)
                    passed_on = self._judge(item, next(answers), engine_ms)
                if not passed_on:
                    return
        self._tell(self.inspector.finish())
        self._results.put(_END, self._is_over, _HELD_EVENTS)

    def _take(self) -> list[Frame | Skipped | Event]:
        """What is inferred next, lanes in turns; empty when all sources have ended or the run is over."""
        stop_seen: float | None = None
        with self._arrived:
            while not self._over:
                taken = []
                for step in range(len(self._lanes)):
                    lane = self._lanes[(self._turn + step) % len(self._lanes)]
                    item = lane.channel.take() if lane.open else None
                    if item is _END:
                        lane.open = False
                    elif item is not None:
                        taken.append(self._or_stale(lane, item))
                    if len(taken) == self._batcher.largest:
                        break
                if taken:
                    self._turn = (self._turn + step + 1) % len(self._lanes)
                    return taken
                if not any(lane.open for lane in self._lanes):
                    return []
                if self._stopping:  # a grabbing thread may sit in a driver, or on a share, that never answers
                    stop_seen = stop_seen or time.monotonic()
                    late = time.monotonic() - stop_seen > _PATIENCE_S
                    if late or all(lane.source.live or not lane.open for lane in self._lanes):
                        return []
                self._arrived.wait(TICK_S)
        return []

    def _or_stale(self, lane: _Lane, item: Any) -> Any:
        """`item`, or the event that refuses it where it is a live frame that waited for too long."""
        if self.max_age_ms is None or not lane.source.live or not isinstance(item, Frame):
            return item
        age_ms = (time.monotonic() - item.captured) * 1e3
        if age_ms <= self.max_age_ms:
            return item
        lane.summary.stale += 1
        details = {"frame": item.index, "name": item.name, "age_ms": round(age_ms, 3), "drops": lane.summary.drops}
        text = f"frame {item.index} is {age_ms:.0f} ms old, at most {self.max_age_ms:g} are allowed"
        return Event("frame_stale", lane.source.name, text, time.time(), details)

    def _judge(self, frame: Frame, saliency: Any, engine_ms: float) -> bool:
        """Make a result of a map and pass it on, its events after it; False when the run is over."""
        lane = self._by_name[frame.source]
        started = time.monotonic()
        verdict = self.inspector.inspect(frame, saliency)
        now = time.monotonic()
        self.summary.engine_ms.add(engine_ms)
        self.summary.inspect_ms.add((now - started) * 1e3)
        age_ms = (now - frame.captured) * 1e3
        self.summary.age_ms.add(age_ms)
        result = Result(frame, saliency, verdict.regions, engine_ms, age_ms, lane.summary.drops, verdict.alarm)
        if self._drop_results and lane.source.live:
            dropped = self._results.put_newest(result, self._may_go, _HELD)
            if dropped is not None:
                self._by_name[dropped.frame.source].summary.unwritten += 1
        elif not self._results.put(result, self._is_over):
            return False
        return self._tell(replace(event, result=result) for event in verdict.events)

    def _pass_on(self, item: Skipped | Event) -> bool:
        """What is not inferred goes to the sinks in its place; False when the run is over."""
        ended = self.inspector.finish(item.source) if isinstance(item, Event) and item.kind == "source_lost" else []
        return self._tell((*ended, item))

    def _tell(self, items: Iterable[Skipped | Event]) -> bool:
        return all(self._results.put(item, self._is_over, _HELD_EVENTS) for item in items)

    def _write(self, report: Report) -> None:
        summary = self.summary
        first = 0.0
        while (item := self._results.get(self._is_over)) is not _END:
            if item is None:
                return
            started = time.monotonic()
            if isinstance(item, Skipped):
                self._by_name[item.source].summary.skipped += 1
                for sink in self.sinks:
                    sink.note(item)
            elif isinstance(item, Event):
                _count_event(self._by_name[item.source].summary, item)
                for sink in self.sinks:
                    sink.event(item)
            else:
                first = first or item.frame.captured
                for sink in self.sinks:
                    sink.write(item)
                summary.frames += 1
                self._by_name[item.frame.source].summary.frames += 1
                summary.with_defects += bool(item.regions)
                now = time.monotonic()
                summary.sink_ms.add((now - started) * 1e3)
                summary.seconds = now - first
            report(item)

    def _guard(self, stage: Callable[..., None], *args: Any) -> None:
        """Run a stage; its first failure ends all of them and is kept."""
        try:
            stage(*args)
        except BaseException as error:
            if self._failure is None:
                self._failure = error
            self._over = True

    def _is_over(self) -> bool:
        return self._over

    def _may_go(self, item: Any) -> bool:
        return isinstance(item, Result) and self._by_name[item.frame.source].source.live


def _is_frame(item: Any) -> bool:
    return isinstance(item, Frame)


def _count_event(summary: SourceSummary, event: Event) -> None:
    summary.alarms += event.kind == "alarm"
    summary.lost += event.kind == "source_lost"
    summary.frozen += event.kind == "source_frozen"
    if event.kind == "source_back":
        summary.outage_s += event.details["outage_s"]
