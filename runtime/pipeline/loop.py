"""The loop: grab -> infer -> judge -> sinks, joined by short queues.

Every source is grabbed on a thread of its own; one thread takes their frames in turns, several at once where the engine
takes batches, and does nothing but run it; one judges the maps; the sinks run on the calling thread, since windows
must. A live source keeps the newest frame and counts what it drops; a file source drops nothing. Whatever fails in one
stage stops all of them and is raised.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from sdi.runtime.common.errors import InputError
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.batching import Batcher
from sdi.runtime.frame import Event, Frame, Result, Skipped
from sdi.runtime.inspection.inspector import Inspector
from sdi.runtime.pipeline.channel import TICK_S, Channel
from sdi.runtime.pipeline.heartbeat import Pulse
from sdi.runtime.pipeline.summary import SourceSummary, Summary
from sdi.runtime.sinks.base import Sink
from sdi.runtime.sources.base import Source

__all__ = ["Loop"]

_PATIENCE_S = 10.0  # how long the end of a run waits for a read that hangs in a driver
_HELD = 4  # frames between two stages when nothing may be dropped
_HELD_EVENTS = 64  # likewise, with events: a stage hardly ever waits for them
_JUDGED = 2  # calls of the engine that wait for judgement: more would only make results older
_END = object()

Report = Callable[["Result | Skipped | Event"], None]


class _Lane:
    """One source on its way to the engine."""

    def __init__(self, source: Source, beside: Channel | None, over: Callable[[], bool]) -> None:
        self.source = source
        # Beside the one frame of a live source there is room for what may not be dropped.
        self.channel = Channel(_HELD, beside)
        self.pulse = Pulse(f"reading {source.name}", over)
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
    Raises:
        InputError: no source, or two of one name.
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
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise InputError(f"a loop needs sources of different names; got {', '.join(names) or 'none'}")
        self.engine = engine
        self.sinks = list(sinks)
        self.inspector = inspector or Inspector()
        self.max_age_ms = max_age_ms
        self._drop_results = slow_sinks == "drop"
        self._lanes: list[_Lane] = []
        for source in self.sources:
            self._lanes.append(_Lane(source, self._lanes[0].channel if self._lanes else None, self._is_over))
        self._turn = 0  # the lane that is asked first
        self._answers = Channel(_JUDGED)
        self._results = Channel(_HELD)
        self._batcher = Batcher(engine, len(self.sources))
        self.summary = Summary([lane.summary for lane in self._lanes])
        self._by_name = {lane.source.name: lane for lane in self._lanes}
        # Plain values, not events: setting an event takes a lock, which a signal handler must not.
        self._stopping = False  # asked to stop: what is under way is still finished
        self._over = False  # a stage failed, or all is written: nobody waits for another stage any more
        self._failure: BaseException | None = None
        self._inferring, self._judging, self._writing = (
            Pulse(name, self._is_over) for name in ("the engine", "judging", "writing")
        )

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to end, or ends."""
        return self._stopping

    def quietest(self) -> tuple[str, float]:
        """The stage that has given no sign of life for the longest, and for how many seconds; 0 while none runs.

        A frame that does not come is no silence, nor is a full queue: a read that hangs in a driver is, or an engine or
        a sink that does not return. A source may be silent for some 15 s, while a stream is opened.
        """
        seen = {lane.pulse.name: max(lane.pulse.seen, lane.source.seen) for lane in self._lanes}
        seen |= {pulse.name: pulse.seen for pulse in (self._inferring, self._judging, self._writing)}
        name = min(seen, key=lambda name: seen[name])
        return name, max(0.0, time.monotonic() - seen[name])

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
            (self._judge, "judge", ()),
        ]
        threads = [
            threading.Thread(target=stage, args=arguments, name=name, daemon=True) for stage, name, arguments in stages
        ]
        for thread in threads:
            thread.start()
        try:
            with self._stage(self._writing):
                self._write(report)
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

    @contextmanager
    def _stage(self, pulse: Pulse, onward: Channel | None = None) -> Iterator[None]:
        """One stage from its start to its end. Its failure is kept, and told to the next stage as the end: what was
        finished before it is still judged and written, and then the run is over."""
        pulse.over()
        try:
            yield
        except BaseException as error:
            if self._failure is None:
                self._failure = error
        if onward is not None:
            onward.put(_END, pulse.over, _HELD_EVENTS)
        pulse.end()

    def _grab(self, lane: _Lane) -> None:
        with self._stage(lane.pulse, lane.channel):
            try:
                self._fetch(lane)
            except BaseException:
                lost = not self._stopping  # after `stop` a lost source is no loss
                self.stop()
                if lost:
                    raise

    def _fetch(self, lane: _Lane) -> None:
        source, over = lane.source, lane.pulse.over
        asked = time.monotonic()
        for item in source.frames():
            over()
            if isinstance(item, Frame):
                self.summary.grab_ms.add((item.captured - asked) * 1e3)
            if source.live and isinstance(item, Frame):
                dropped = lane.channel.put_newest(item, _is_frame)
                if dropped is not None:
                    lane.summary.drops += 1
                    source.recycle(dropped.image)
            elif not lane.channel.put(item, over, None if isinstance(item, Frame) else _HELD_EVENTS):
                return
            if self._stopping:
                return
            asked = time.monotonic()

    def _infer(self) -> None:
        with self._stage(self._inferring, self._answers):
            while taken := self._take():
                frames = [item for item in taken if isinstance(item, Frame)]
                started = time.monotonic()
                answers = self._batcher([frame.image for frame in frames]) if frames else []
                engine_ms = (time.monotonic() - started) * 1e3
                for frame in frames:
                    self.summary.wait_ms.add((started - frame.captured) * 1e3)
                if not self._answers.put((taken, answers, engine_ms), self._inferring.over):
                    return

    def _take(self) -> list[Frame | Skipped | Event]:
        """What is inferred next, lanes in turns; empty when all sources have ended or the run is over."""
        stop_seen: float | None = None
        arrived = self._lanes[0].channel.arrived
        with arrived:
            while not self._inferring.over():
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
                arrived.wait(TICK_S)
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

    def _judge(self) -> None:
        with self._stage(self._judging, self._results):
            while (call := self._answers.get(self._judging.over)) is not _END:
                if call is None:
                    return
                taken, answers, engine_ms = call
                maps = iter(answers)
                for item in taken:
                    if isinstance(item, Frame):
                        passed_on = self._inspect(item, next(maps), engine_ms)
                    else:
                        passed_on = self._pass_on(item)
                    if not passed_on:
                        return
            self._tell(self.inspector.finish())

    def _inspect(self, frame: Frame, saliency: Any, engine_ms: float) -> bool:
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
        elif not self._results.put(result, self._judging.over):
            return False
        return self._tell(replace(event, result=result) for event in verdict.events)

    def _pass_on(self, item: Skipped | Event) -> bool:
        """What is not inferred goes to the sinks in its place; False when the run is over."""
        ended = self.inspector.finish(item.source) if isinstance(item, Event) and item.kind == "source_lost" else []
        return self._tell((*ended, item))

    def _tell(self, items: Iterable[Skipped | Event]) -> bool:
        return all(self._results.put(item, self._judging.over, _HELD_EVENTS) for item in items)

    def _write(self, report: Report) -> None:
        summary = self.summary
        first = 0.0
        while (item := self._results.get(self._writing.over)) is not _END:
            if item is None:
                return
            started = time.monotonic()
            if isinstance(item, Skipped):
                self._by_name[item.source].summary.skipped += 1
                for sink in self.sinks:
                    sink.note(item)
            elif isinstance(item, Event):
                self._by_name[item.source].summary.count(item)
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

    def _is_over(self) -> bool:
        return self._over

    def _may_go(self, item: Any) -> bool:
        return isinstance(item, Result) and self._by_name[item.frame.source].source.live


def _is_frame(item: Any) -> bool:
    return isinstance(item, Frame)
