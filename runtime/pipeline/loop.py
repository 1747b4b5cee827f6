"""The loop: grab -> infer -> judge -> write, four stages joined by short queues.

Each source has a thread that grabs its frames. One thread runs the engine and does nothing else: it takes frames from
the sources in turns, and several at once where the engine takes batches. One thread judges the maps. The sinks run on
the calling thread, because windows must. A live source keeps the newest frame and counts the dropped ones; a file
source drops nothing. A failure in one stage stops all of them and is raised.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from sdi.runtime.common.errors import InputError, SdiError
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.batching import Batch, Batcher
from sdi.runtime.frame import Event, Frame, Result, Skipped
from sdi.runtime.inspection.inspector import Inspector
from sdi.runtime.pipeline.channel import Channel
from sdi.runtime.pipeline.heartbeat import Heartbeat
from sdi.runtime.pipeline.intake import HELD, HELD_EVENTS, Intake, Item, Lane
from sdi.runtime.pipeline.life import started, stopped
from sdi.runtime.pipeline.summary import Summary
from sdi.runtime.sinks.base import Sink
from sdi.runtime.sources.base import Source

__all__ = ["Loop"]

_JUDGED = 2  # calls of the engine that wait for judgement: more would only make results older

Report = Callable[["Result | Skipped | Event"], None]


@dataclass(frozen=True)
class _Answer:
    """One call of the engine, and what lay between its frames."""

    items: list[Item]
    maps: list[np.ndarray]  # one for each frame among the items
    engine_ms: float


@dataclass(frozen=True)
class _UnderWay:
    """A call of the engine that has begun."""

    items: list[Item]
    batch: Batch  # of the frames among the items
    began: float  # monotonic seconds


class Loop:
    """One run of sources through one engine into sinks. Use once.

    Args:
        sources: one or several; their names differ.
        inspector: judges every map; by default anything over 0.5 is a defect.
        max_age_ms: a live frame that is older than this when its turn comes is refused: it is counted, and the event
            `frame_stale` is emitted.
        slow_sinks: "drop": live results for which the sinks are too slow are dropped, oldest first, and counted as
            `unwritten`, so that sinks see new ones; "hold": the engine waits for the sinks. Results of files are never
            dropped, nor are events.
        patience_s: seconds for which the end of a run waits for a read that hangs in a driver.
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
        patience_s: float = 10.0,
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
        self._patience_s = patience_s
        self._intake = Intake(self.sources, self._is_over, self._is_stopping, max_age_ms, patience_s)
        self._by_name = {lane.source.name: lane for lane in self._intake.lanes}
        self._answers: Channel[_Answer] = Channel(_JUDGED, self._is_over)
        self._results: Channel[Result | Skipped | Event] = Channel(HELD, self._is_over)
        self._batcher = Batcher(engine, len(self.sources))
        self.summary = Summary([lane.summary for lane in self._intake.lanes])
        # Plain values: a signal handler must not take the lock that setting a threading.Event takes.
        self._stopping = False  # asked to stop: what is under way is still finished
        self._reason = "end of the source"  # why the run ends, for `stopped`
        self._over = False  # a stage failed, or all is written: nobody waits for another stage any more
        self._failure: BaseException | None = None
        self._inferring, self._judging, self._writing = map(Heartbeat, ("the engine", "judging", "writing"))

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to end, or ends."""
        return self._stopping

    def most_silent(self) -> tuple[str, float]:
        """The stage that has been silent for the longest time, and its silence in seconds; 0 while none runs.

        A stage that waits for a frame or for room in a queue is not silent. A stage is silent while a read hangs in a
        driver, or while the engine or a sink does not return. Opening a stream may keep a source silent for some 15 s.
        """
        silences = {lane.heartbeat.name: lane.silence_s() for lane in self._intake.lanes}
        silences |= {stage.name: stage.silence_s() for stage in (self._inferring, self._judging, self._writing)}
        name = max(silences, key=lambda name: silences[name])
        return name, silences[name]

    def stop(self, reason: str = "stopped") -> None:
        """Ask the run to end; frames under way are finished. Safe from a signal handler or any thread.

        Args:
            reason: what the event `stopped` gives as its reason.
        """
        if not self._stopping:
            self._reason = reason
        self._stop_sources()

    def run(self, report: Report = lambda item: None, *, ready: Callable[[], None] = lambda: None) -> Summary:
        """Run to the end of all sources, or until `stop`.

        The sinks receive the event `started` first and `stopped` last, also when the run fails.

        Args:
            report: receives every result, every event of a source or of the inspector, and everything that was
                skipped, after the sinks.
            ready: called once the sinks have received `started`.
        Raises:
            SdiError: the first failure of any stage; what was finished before it has been written. A source's
                failure lets the frames under way be finished too.
        """
        stages: list[tuple[Callable[..., None], str, tuple[Any, ...]]] = [
            *((self._grab, f"grab-{number}", (lane,)) for number, lane in enumerate(self._intake.lanes, 1)),
            (self._infer, "infer", ()),
            (self._judge, "judge", ()),
        ]
        threads = [
            threading.Thread(target=stage, args=arguments, name=name, daemon=True) for stage, name, arguments in stages
        ]
        try:
            with self._stage(self._writing):
                self._emit(started(self.engine, self.sources))
                ready()
                for thread in threads:
                    thread.start()
                self._write(report)
        finally:
            self._stop_sources()
            self._over = True
            deadline = time.monotonic() + self._patience_s
            for thread in threads:
                if thread.ident is not None:
                    # A read that hangs in a driver must not hang the program: the thread is a daemon.
                    thread.join(timeout=max(0.0, deadline - time.monotonic()))
        failure = self._failure
        self._emit_end(self._reason if failure is None else _reason_of(failure))
        if failure is not None:
            raise failure
        return self.summary

    def _stop_sources(self) -> None:
        self._stopping = True
        for source in self.sources:
            source.stop()

    @contextmanager
    def _stage(self, heartbeat: Heartbeat, onward: Channel[Any] | None = None) -> Iterator[None]:
        """One stage from its start to its end.

        A failure is kept, and the next stage sees the end of its queue: it still judges or writes what was finished
        before, and then the run is over.
        """
        heartbeat.beat()
        try:
            yield
        except BaseException as error:
            if self._failure is None:
                self._failure = error
        if onward is not None:
            onward.close()
        heartbeat.end()

    def _grab(self, lane: Lane) -> None:
        with self._stage(lane.heartbeat, lane.channel):
            try:
                lane.fetch(self.summary.grab_ms, self._is_stopping)
            except BaseException:
                lost = not self._stopping  # after `stop` a lost source is no loss
                self._stop_sources()
                if lost:
                    raise

    def _infer(self) -> None:
        """A call is made ready while the engine works on the one before; where no frame waits, none is held back."""
        under_way: deque[_UnderWay] = deque()
        with self._stage(self._inferring, self._answers):
            while True:
                taken = self._intake.take(self._batcher.largest, self._inferring, wait=not under_way)
                if taken:
                    under_way.append(self._begin(taken))
                elif not under_way:
                    return
                if (not taken or len(under_way) >= self.engine.slots) and not self._finish(under_way.popleft()):
                    return

    def _begin(self, items: list[Item]) -> _UnderWay:
        frames = [item for item in items if isinstance(item, Frame)]
        began = time.monotonic()
        for frame in frames:
            self.summary.wait_ms.add((began - frame.captured) * 1e3)
        return _UnderWay(items, self._batcher.submit([frame.image for frame in frames]), began)

    def _finish(self, call: _UnderWay) -> bool:
        """Pass a call's maps on; False when the run is over."""
        maps = self._batcher.collect(call.batch)
        engine_ms = (time.monotonic() - call.began) * 1e3
        return self._answers.put(_Answer(call.items, maps, engine_ms), self._inferring)

    def _judge(self) -> None:
        with self._stage(self._judging, self._results):
            while (answer := self._answers.get(self._judging)) is not None:
                maps = iter(answer.maps)
                for item in answer.items:
                    if isinstance(item, Frame):
                        passed_on = self._inspect(item, next(maps), answer.engine_ms)
                    else:
                        passed_on = self._pass_on(item)
                    if not passed_on:
                        return
            self._put_all(self.inspector.finish())

    def _inspect(self, frame: Frame, saliency: np.ndarray, engine_ms: float) -> bool:
        """Make a result of a map and pass it on, its events after it; False when the run is over."""
        lane = self._by_name[frame.source]
        began = time.monotonic()
        verdict = self.inspector.inspect(frame, saliency)
        now = time.monotonic()
        self.summary.engine_ms.add(engine_ms)
        self.summary.inspect_ms.add((now - began) * 1e3)
        age_ms = (now - frame.captured) * 1e3
        self.summary.age_ms.add(age_ms)
        result = Result(frame, saliency, verdict.regions, engine_ms, age_ms, lane.summary.drops, verdict.alarm)
        if self._drop_results and lane.source.live:
            dropped = self._results.put_newest(result, self._may_go, HELD)
            if isinstance(dropped, Result):
                self._by_name[dropped.frame.source].summary.unwritten += 1
        elif not self._results.put(result, self._judging):
            return False
        return self._put_all(replace(event, result=result) for event in verdict.events)

    def _pass_on(self, item: Skipped | Event) -> bool:
        """What is not inferred goes to the sinks in its place; False when the run is over."""
        ended = self.inspector.finish(item.source) if isinstance(item, Event) and item.kind == "source_lost" else []
        return self._put_all((*ended, item))

    def _put_all(self, items: Iterable[Skipped | Event]) -> bool:
        return all(self._results.put(item, self._judging, HELD_EVENTS) for item in items)

    def _write(self, report: Report) -> None:
        summary = self.summary
        first = 0.0
        while (item := self._results.get(self._writing)) is not None:
            began = time.monotonic()
            if isinstance(item, Skipped):
                self._by_name[item.source].summary.skipped += 1
                for sink in self.sinks:
                    sink.note(item)
            elif isinstance(item, Event):
                self._by_name[item.source].summary.count(item)
                self._emit(item)
            else:
                first = first or item.frame.captured
                for sink in self.sinks:
                    sink.write(item)
                summary.frames += 1
                self._by_name[item.frame.source].summary.frames += 1
                summary.with_defects += bool(item.regions)
                now = time.monotonic()
                summary.sink_ms.add((now - began) * 1e3)
                summary.seconds = now - first
            report(item)
            if any(sink.closed for sink in self.sinks):
                self.stop("closed by its user")

    def _emit(self, event: Event) -> None:
        for sink in self.sinks:
            sink.event(event)

    def _emit_end(self, reason: str) -> None:
        """Emit `stopped`. A sink that cannot take it any more does not keep it from the others."""
        event = stopped(self.summary, reason)
        for sink in self.sinks:
            with suppress(SdiError, OSError):
                sink.event(event)

    def _is_over(self) -> bool:
        return self._over

    def _is_stopping(self) -> bool:
        return self._stopping

    def _may_go(self, item: Any) -> bool:
        return isinstance(item, Result) and self._by_name[item.frame.source].source.live


def _reason_of(failure: BaseException) -> str:
    if not isinstance(failure, Exception):  # a second Ctrl-C, which does not wait for the frames under way
        return "interrupted"
    return str(failure) or type(failure).__name__
