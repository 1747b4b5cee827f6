"""The loop: order, drops, failures and the end. Threads meet at events; every wait has an end."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import PlainEngine
from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.engine.open import open_engine
from sdi.runtime.frame import Event, Frame, Result, Skipped, Verdict
from sdi.runtime.inspection.defects import DefectRule
from sdi.runtime.inspection.inspector import Inspector
from sdi.runtime.pipeline.loop import Loop
from sdi.runtime.pipeline.summary import Latencies, SourceSummary, Summary
from sdi.runtime.sinks.base import Sink
from sdi.runtime.sources.base import Source
from sdi.runtime.sources.open import open_source
from sdi.runtime.sources.settings import LiveSettings

WAIT_S = 20.0


def _frame(index: int, level: int = 10, source: str = "list", size_hw: tuple[int, int] = (4, 6)) -> Frame:
    image = np.full((*size_hw, 3), level, np.uint8)
    return Frame(index, f"f{index}", source, image, time.monotonic(), time.time())


def _event(kind: str = "test", source: str = "list", **details: object) -> Event:
    return Event(kind, source, "", 0.0, details)


class ListSource(Source):
    """Yields items; calls those that can be called, so that a test can wait or fail between frames."""

    def __init__(
        self, *items: Frame | Skipped | Event | Callable[[], object], live: bool = False, name: str = "list"
    ) -> None:
        self.name = name
        self.live = live
        self.recycled: list[tuple[int, ...]] = []
        self.items = items
        self.taken = 0
        self.ended = threading.Event()

    def recycle(self, image: np.ndarray) -> None:
        self.recycled.append(image.shape)

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        try:
            for item in self.items:
                if callable(item):
                    item()
                else:
                    self.taken += 1
                    yield item
        finally:
            self.ended.set()


class ListSink(Sink):
    """Keeps what it is given; calls `before` first."""

    def __init__(self, before: Callable[[Result], object] = lambda result: None) -> None:
        self.results: list[Result] = []
        self.skipped: list[Skipped] = []
        self.received: list[object] = []  # all, in order, but the run's own start and end
        self.life: list[Event] = []  # those two
        self.before = before

    def write(self, result: Result) -> None:
        self.before(result)
        self.results.append(result)
        self.received.append(result)

    def note(self, skipped: Skipped) -> None:
        self.skipped.append(skipped)
        self.received.append(skipped)

    def event(self, event: Event) -> None:
        if event.kind in ("started", "stopped"):
            self.life.append(event)
        else:
            self.received.append(event)

    def indices(self) -> list[int]:
        return [result.frame.index for result in self.results]


def _fail(error: BaseException) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise error

    return fail


def _wait(event: threading.Event) -> Callable[..., object]:
    def wait(*_: object) -> object:
        assert event.wait(WAIT_S), "nothing came"
        return None

    return wait


def _within(seconds: float, run: Callable[[], object]) -> BaseException | None:
    """Run on a thread; what it raised. Fails the test if it does not end in time."""
    raised: list[BaseException] = []

    def body() -> None:
        try:
            run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the loop did not end"
    return raised[0] if raised else None


def test_files_keep_their_order_and_nothing_is_dropped(make_engine: Callable[..., Path]) -> None:
    """A slow sink and a real engine: the queues fill up, and nothing may fall out of them."""
    sink = ListSink(lambda result: time.sleep(0.001))
    source = ListSource(*(_frame(i, i % 200) for i in range(100)))
    with open_engine(make_engine()) as engine:
        summary = Loop(source, engine, [sink]).run()
    assert sink.indices() == list(range(100))
    assert [int(result.saliency[0, 0]) for result in sink.results] == [i % 200 for i in range(100)]
    assert (summary.frames, summary.drops, summary.skipped) == (100, 0, 0)
    assert [result.drops for result in sink.results] == [0] * 100


def test_skipped_items_keep_their_place_and_reach_sinks_and_report() -> None:
    gap = Skipped("bad.png", "list", "broken", 0.0)
    sink, reported = ListSink(), []
    summary = Loop(ListSource(_frame(0), gap, _frame(1)), PlainEngine(), [sink]).run(reported.append)
    assert sink.indices() == [0, 1]
    assert sink.skipped == [gap]
    assert [getattr(item, "reason", "frame") for item in reported] == ["frame", "broken", "frame"]
    assert (summary.frames, summary.skipped) == (2, 1)


def test_an_empty_source_ends() -> None:
    summary = Loop(ListSource(), PlainEngine(), []).run()
    figures = summary.to_dict()
    assert all(figures[name] == 0 for name in ("frames", "with_defects", "skipped", "drops", "seconds", "fps"))
    assert all(value == {} for name, value in figures.items() if name.endswith("_ms"))
    assert figures["sources"] == [SourceSummary("list").to_dict()]


def test_a_live_source_keeps_the_newest_and_counts_the_rest() -> None:
    held = threading.Event()
    source = ListSource(_frame(0), _wait(held), *(_frame(i) for i in range(1, 50)), live=True)
    sink = ListSink()
    # The engine holds its first frame until the source has delivered all of them.
    engine = PlainEngine(lambda frames: (held.set(), _wait(source.ended)()))
    summary = Loop(source, engine, [sink]).run()
    first, last = sink.results
    assert (first.frame.index, last.frame.index) == (0, 49)
    assert summary.drops == last.drops == 48
    assert summary.frames == 2


def test_every_result_carries_its_age_and_time() -> None:
    sink = ListSink()
    summary = Loop(ListSource(_frame(0, 200)), PlainEngine(lambda frames: time.sleep(0.01)), [sink]).run()
    (result,) = sink.results
    assert 10 <= result.engine_ms <= result.age_ms
    assert result.age_ms <= summary.seconds * 1e3
    assert [region.area for region in result.regions] == [24]
    assert summary.with_defects == 1


def test_the_rule_of_the_inspector_decides_what_is_a_defect() -> None:
    def defects(**options: Any) -> int:
        inspector = Inspector(DefectRule(**options))
        return Loop(ListSource(_frame(0, 100)), PlainEngine(), [], inspector).run().with_defects

    assert defects() == 0
    assert defects(threshold=0.3) == 1
    assert defects(threshold=0.3, min_area=24) == 1
    assert defects(threshold=0.3, min_area=25) == 0


def test_a_source_that_fails_is_raised_after_what_it_gave_is_written() -> None:
    sink = ListSink()
    source = ListSource(_frame(0), _frame(1), _frame(2), _fail(DeviceError("camera lost")))
    loop = Loop(source, PlainEngine(), [sink])
    error = _within(WAIT_S, loop.run)
    assert isinstance(error, DeviceError)
    assert str(error) == "camera lost"
    assert sink.indices() == [0, 1, 2]
    assert loop.summary.frames == 3


def test_an_engine_that_fails_stops_all(make_engine: Callable[..., Path]) -> None:
    """A real engine that fails at run time on a bright frame; thousands of frames would follow."""
    sink = ListSink()
    source = ListSource(_frame(0), _frame(1), _frame(2, 255), *(_frame(i) for i in range(3, 5000)))
    with open_engine(make_engine("fragile")) as engine:
        error = _within(WAIT_S, Loop(source, engine, [sink]).run)
    assert isinstance(error, DeviceError)
    assert "failed in ONNX Runtime" in str(error)
    assert sink.indices() == [0, 1]
    assert source.taken < 20


def test_a_sink_that_fails_stops_all() -> None:
    def full(result: Result) -> None:
        if result.frame.index == 2:
            raise InputError("disk full")

    sink = ListSink(full)
    source = ListSource(*(_frame(i) for i in range(5000)))
    error = _within(WAIT_S, Loop(source, PlainEngine(), [sink]).run)
    assert str(error) == "disk full"
    assert sink.indices() == [0, 1]
    assert source.taken < 30


def test_a_report_that_fails_stops_all() -> None:
    source = ListSource(*(_frame(i) for i in range(5000)))
    error = _within(WAIT_S, lambda: Loop(source, PlainEngine(), []).run(_fail(ZeroDivisionError("bug"))))
    assert isinstance(error, ZeroDivisionError)
    assert source.taken < 30


def test_the_first_failure_is_the_one_that_is_raised() -> None:
    source = ListSource(_frame(0), _fail(DeviceError("first")))
    engine = PlainEngine(lambda frames: (_wait(source.ended)(), _fail(DeviceError("second"))()))
    assert str(_within(WAIT_S, Loop(source, engine, []).run)) == "first"


class _HeldInspector(Inspector):
    """Judges nothing before `before` has had its say."""

    def __init__(self, before: Callable[[Frame], object]) -> None:
        super().__init__()
        self.before = before

    def inspect(self, frame: Frame, saliency: np.ndarray) -> Verdict:
        self.before(frame)
        return super().inspect(frame, saliency)


def test_the_engine_does_not_wait_for_judgement() -> None:
    """The first map is judged only when the engine has the second frame."""
    calls, second = [], threading.Event()

    def count(_: np.ndarray) -> None:
        calls.append(1)
        if len(calls) == 2:
            second.set()

    sink = ListSink()
    Loop(ListSource(_frame(0), _frame(1)), PlainEngine(count), [sink], _HeldInspector(_wait(second))).run()
    assert sink.indices() == [0, 1]


def test_what_the_engine_answered_before_it_failed_is_judged_and_written() -> None:
    """The first map waits for its judgement until the engine has failed."""
    failing = threading.Event()
    calls = []

    def fail_at_third(_: np.ndarray) -> None:
        calls.append(1)
        if len(calls) == 3:
            failing.set()
            raise DeviceError("lost")

    sink = ListSink()
    source = ListSource(*(_frame(i, 200) for i in range(100)))
    loop = Loop(source, PlainEngine(fail_at_third), [sink], _HeldInspector(_wait(failing)))
    assert str(_within(WAIT_S, loop.run)) == "lost"
    assert sink.indices() == [0, 1]
    assert [item.kind for item in sink.received if isinstance(item, Event)] == ["alarm"]
    assert source.taken < 30


def test_a_judge_that_fails_stops_all() -> None:
    source = ListSource(*(_frame(i) for i in range(5000)))
    inspector = _HeldInspector(lambda frame: _fail(InputError("roi"))() if frame.index == 2 else None)
    sink = ListSink()
    assert str(_within(WAIT_S, Loop(source, PlainEngine(), [sink], inspector).run)) == "roi"
    assert sink.indices() == [0, 1]
    assert source.taken < 30


def test_stop_finishes_frames_under_way() -> None:
    held, asked = threading.Event(), threading.Event()
    engine = PlainEngine(lambda frames: (held.set(), _wait(asked)()))
    sink = ListSink()
    source = ListSource(*(_frame(i) for i in range(5000)))
    loop = Loop(source, engine, [sink])

    def ask() -> None:
        _wait(held)()
        loop.stop()
        asked.set()

    asker = threading.Thread(target=ask)
    asker.start()
    assert _within(WAIT_S, loop.run) is None
    asker.join(WAIT_S)
    assert source.taken == len(sink.results)  # whatever was grabbed was finished
    assert sink.indices() == list(range(source.taken))
    assert 0 < source.taken < 20


def test_stop_from_the_report() -> None:
    loop = Loop(ListSource(*(_frame(i) for i in range(5000))), PlainEngine(), [sink := ListSink()])
    assert _within(WAIT_S, lambda: loop.run(lambda item: loop.stop())) is None
    assert sink.indices() == list(range(len(sink.results)))
    assert len(sink.results) < 30


def test_a_live_source_that_hangs_does_not_hang_stop() -> None:
    driver = threading.Event()  # a read in a driver that never answers
    source = ListSource(_frame(0), _wait(driver), live=True)
    sink = ListSink()
    loop = Loop(source, PlainEngine(), [sink], patience_s=0.2)
    try:
        assert _within(WAIT_S, lambda: loop.run(lambda item: loop.stop())) is None
    finally:
        driver.set()
    assert sink.indices() == [0]


def test_a_slow_live_source_ends_soon_after_stop() -> None:
    """Its next frame comes when nobody waits for frames any more; the grabbing thread must see that and end."""
    idle = threading.Event()

    class Ending(Inspector):
        def finish(self, source: str | None = None) -> list[Event]:
            idle.set()  # the engine has given up waiting for frames
            return super().finish(source)

    source = ListSource(_frame(0), _wait(idle), _frame(1), live=True)
    loop = Loop(source, PlainEngine(), [], Ending(), patience_s=WAIT_S)
    started = time.monotonic()
    assert _within(WAIT_S + 5, lambda: loop.run(lambda item: loop.stop())) is None
    assert time.monotonic() - started < WAIT_S / 2
    assert source.ended.wait(WAIT_S)


def test_a_source_lost_after_stop_is_no_failure() -> None:
    """Ctrl-C reaches the camera's own process too."""
    stopped = threading.Event()
    source = ListSource(_frame(0), _wait(stopped), _fail(DeviceError("lost")), live=True)
    loop = Loop(source, PlainEngine(), [])

    def report(item: object) -> None:
        loop.stop()
        stopped.set()

    assert _within(WAIT_S, lambda: loop.run(report)) is None
    assert loop.summary.frames == 1


def test_sinks_receive_the_start_of_a_run_first_and_its_end_last() -> None:
    order: list[str] = []

    class Order(ListSink):
        def write(self, result: Result) -> None:
            order.append("result")

        def event(self, event: Event) -> None:
            order.append(event.kind)
            super().event(event)

    sink = Order()
    Loop(ListSource(_frame(0), _frame(1)), PlainEngine(), [sink]).run(ready=lambda: order.append("ready"))
    assert order == ["started", "ready", "result", "result", "stopped"]
    started, stopped = sink.life
    assert (started.details["engine"], started.details["sources"]) == ("plain", ["list"])
    assert (stopped.details["reason"], stopped.details["frames"]) == ("end of the source", 2)


def test_the_end_of_a_run_gives_its_reason() -> None:
    def reason(loop: Loop, sink: ListSink, run: Callable[[], object]) -> str:
        _within(WAIT_S, run)
        (stopped,) = (event for event in sink.life if event.kind == "stopped")
        assert stopped.text == f"stopped after {loop.summary.frames} frames: {stopped.details['reason']}"
        return str(stopped.details["reason"])

    loop = Loop(ListSource(*(_frame(i) for i in range(5000))), PlainEngine(), [sink := ListSink()])
    assert reason(loop, sink, lambda: loop.run(lambda item: loop.stop("interrupted"))) == "interrupted"
    loop = Loop(ListSource(_frame(0), _fail(DeviceError("camera lost"))), PlainEngine(), [sink := ListSink()])
    assert reason(loop, sink, loop.run) == "camera lost"
    loop = Loop(ListSource(_frame(0), _fail(KeyboardInterrupt())), PlainEngine(), [sink := ListSink()])
    assert reason(loop, sink, loop.run) == "interrupted"


def test_a_sink_that_cannot_take_the_start_ends_the_run_before_its_first_frame() -> None:
    class Full(ListSink):
        def event(self, event: Event) -> None:
            raise InputError("disk full")

    source, other = ListSource(_frame(0)), ListSink()
    error = _within(WAIT_S, Loop(source, PlainEngine(), [Full(), other]).run)
    assert str(error) == "disk full"
    assert source.taken == 0
    assert [event.details["reason"] for event in other.life] == ["disk full"]  # the other one still sees the end


def test_a_sink_that_its_user_closed_ends_the_run() -> None:
    class Window(ListSink):
        def write(self, result: Result) -> None:
            super().write(result)
            self.closed = result.frame.index == 2

    sink = Window()
    source = ListSource(*(_frame(i) for i in range(5000)))
    assert _within(WAIT_S, Loop(source, PlainEngine(), [sink]).run) is None
    assert source.taken == len(sink.results) < 30
    assert sink.life[-1].details["reason"] == "closed by its user"


def test_summary_figures() -> None:
    left = SourceSummary("left", frames=6, skipped=1, drops=2, outage_s=1.23456)
    summary = Summary([left, SourceSummary("right", drops=3)], frames=10, with_defects=3, seconds=4.0)
    summary.engine_ms = Latencies(range(1, 102))
    summary.age_ms = Latencies([5.0])
    figures = summary.to_dict()
    assert figures["engine_ms"] == {"p50": 51.0, "p95": 96.0, "p99": 100.0}
    assert figures["age_ms"] == {"p50": 5.0, "p95": 5.0, "p99": 5.0}
    assert figures["grab_ms"] == {}
    assert (figures["frames"], figures["fps"], figures["drops"], figures["skipped"]) == (10, 2.5, 5, 1)
    assert [source["outage_s"] for source in figures["sources"]] == [1.235, 0.0]


def test_percentiles_are_of_the_latest_and_memory_does_not_grow() -> None:
    latencies = Latencies([1000.0] * 15_000 + [1.0] * 20_000)
    assert len(latencies) == 20_000
    assert latencies.percentiles() == {"p50": 1.0, "p95": 1.0, "p99": 1.0}


def test_a_real_stream_keeps_the_newest_and_its_end_is_a_loss(mjpeg: Any, make_engine: Callable[..., Path]) -> None:
    ended = threading.Event()

    mjpeg.push(*(np.full((48, 64, 3), 4 * i, np.uint8) for i in range(40)))
    mjpeg.end()
    sink = ListSink()
    with open_engine(make_engine()) as engine, open_source(mjpeg.url, LiveSettings(give_up_s=0)) as source:
        grabbed = source.frames

        def watched() -> Iterator[Frame | Skipped | Event]:
            try:
                yield from grabbed()
            finally:
                ended.set()

        source.frames = watched  # type: ignore[method-assign]
        execute = engine.execute
        engine.execute = lambda frames: (_wait(ended)(), execute(frames))[1]  # type: ignore[method-assign]
        loop = Loop(source, engine, [sink])
        error = _within(2 * WAIT_S, loop.run)
    assert isinstance(error, DeviceError)
    assert "was lost after 40 frames" in str(error)
    assert len(sink.results) <= 2  # the one that was held, and the newest
    last = sink.results[-1]
    assert last.frame.index == 39
    assert abs(int(last.saliency.mean()) - 156) <= 2  # the newest picture, not one kept in a buffer
    assert loop.summary.drops == last.drops == 40 - len(sink.results)


def test_stop_ends_a_real_stream_that_goes_silent(mjpeg: Any, make_engine: Callable[..., Path]) -> None:
    """The camera sends no more and keeps the connection: the read gives up by its own limit."""
    mjpeg.push(*(np.full((48, 64, 3), 4 * i, np.uint8) for i in range(10)))
    settings = LiveSettings(read_timeout_s=1)
    with open_engine(make_engine()) as engine, open_source(mjpeg.url, settings) as source:
        loop = Loop(source, engine, [])

        def report(item: object) -> None:
            if isinstance(item, Result) and item.frame.index == 9:
                loop.stop()

        error = _within(2 * WAIT_S, lambda: loop.run(report))
    assert error is None
    source_summary = loop.summary.sources[0]
    assert source_summary.frames + source_summary.drops + source_summary.unwritten == 10


def _named(name: str, count: int, level: int, size_hw: tuple[int, int], *, live: bool = False) -> ListSource:
    return ListSource(*(_frame(i, level, name, size_hw) for i in range(count)), live=live, name=name)


def test_sources_of_different_sizes_share_batches() -> None:
    """Both wait while the engine is busy with a first frame; from then on they go together."""
    left, right = _named("left", 30, 40, (8, 12)), _named("right", 30, 200, (4, 6))
    engine = PlainEngine(frame_hw=(4, 6))
    sink = ListSink()
    summary = Loop([left, right], engine, [sink]).run()
    assert summary.frames == 60
    for source, level, size_hw in (("left", 40, (8, 12)), ("right", 200, (4, 6))):
        results = [result for result in sink.results if result.frame.source == source]
        assert [result.frame.index for result in results] == list(range(30))
        assert all(result.saliency.shape == size_hw and (result.saliency == level).all() for result in results)
    assert {shape[0] for shape in engine.shapes} <= {1, 2}
    assert (2, 4, 6, 3) in engine.shapes
    assert [(source.name, source.frames) for source in summary.sources] == [("left", 30), ("right", 30)]


def test_sources_of_different_sizes_before_a_real_engine_of_any_size(make_engine: Callable[..., Path]) -> None:
    sink = ListSink()
    with open_engine(make_engine()) as engine:
        sources = [_named("a", 20, 30, (8, 12)), _named("b", 20, 90, (5, 7)), _named("c", 20, 150, (8, 12))]
        Loop(sources, engine, [sink]).run()
    assert len(sink.results) == 60
    level = {"a": 30, "b": 90, "c": 150}
    assert all((r.saliency == level[r.frame.source]).all() for r in sink.results)
    assert all(r.saliency.shape == r.frame.image.shape[:2] for r in sink.results)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_an_engine_of_a_fixed_batch_serves_three_sources(batch: int, make_engine: Callable[..., Path]) -> None:
    sink = ListSink()
    sources = [_named(name, 20, level, (32, 48)) for name, level in (("a", 30), ("b", 90), ("c", 150))]
    with open_engine(make_engine(frame_hw=(32, 48), batch=batch)) as engine:
        Loop(sources, engine, [sink]).run()
    level = {"a": 30, "b": 90, "c": 150}
    assert len(sink.results) == 60
    assert all((r.saliency == level[r.frame.source]).all() for r in sink.results)


def test_turns_are_fair() -> None:
    """A source with thousands of frames ready does not keep one with a few from the engine."""
    many, few, sink = _named("many", 1000, 10, (4, 6)), _named("few", 4, 10, (4, 6)), ListSink()
    # The first frame is held until all of the few wait in their queue.
    Loop([many, few], PlainEngine(lambda frames: _wait(few.ended)(), batch=1), [sink]).run()
    order = [result.frame.source for result in sink.results]
    assert len(order) == 1004
    assert max(i for i, name in enumerate(order) if name == "few") <= 8


def test_one_source_that_fails_ends_the_others_too() -> None:
    good = _named("good", 100_000, 10, (4, 6))
    bad = ListSource(_frame(0, 10, "bad"), _fail(DeviceError("bad is gone")), name="bad")
    sink = ListSink()
    assert str(_within(WAIT_S, Loop([good, bad], PlainEngine(), [sink]).run)) == "bad is gone"
    assert good.taken < 100_000
    assert sum(result.frame.source == "bad" for result in sink.results) == 1


def test_events_keep_their_place_and_are_never_dropped() -> None:
    """A live source whose frames nobody has time for; the events between them all arrive."""
    held = threading.Event()
    events = [_event("source_frozen", number=i) for i in range(30)]
    between = [item for i, event in enumerate(events) for item in (event, _frame(i + 1))]
    source = ListSource(_frame(0), _wait(held), *between, live=True)
    sink = ListSink()
    summary = Loop(source, PlainEngine(lambda frames: (held.set(), _wait(source.ended)())), [sink]).run()
    assert [item for item in sink.received if isinstance(item, Event) and item.kind == "source_frozen"] == events
    assert sink.indices() == [0, 30]
    assert (summary.drops, summary.sources[0].frozen) == (29, 30)
    assert len(source.recycled) == 29  # the memory of what nobody saw goes back


def test_the_events_of_a_result_follow_it_and_name_it() -> None:
    sink = ListSink()
    Loop(ListSource(_frame(0), _frame(1, 200), _frame(2)), PlainEngine(), [sink], Inspector()).run()
    kinds = [item.kind if isinstance(item, Event) else item.frame.index for item in sink.received]  # type: ignore[attr-defined]
    assert kinds == [0, 1, "alarm", 2, "cleared"]
    assert sink.received[2].result is sink.received[1]  # type: ignore[attr-defined]
    assert [result.alarm for result in sink.results] == [False, True, False]


@pytest.mark.parametrize("sources", [[], [ListSource(name="left"), ListSource(name="left")]])
def test_sources_must_be_there_and_have_names_of_their_own(sources: list[Source]) -> None:
    with pytest.raises(InputError, match=r"sources of different names; got (none|left, left)"):
        Loop(sources, PlainEngine(), [])


def test_a_live_frame_that_is_too_old_is_refused_and_told() -> None:
    old = _frame(0)
    old = Frame(0, "old", "list", old.image, old.captured - 3.0, old.wall_time - 3.0)
    engine, sink = PlainEngine(), ListSink()
    source = ListSource(old, live=True)
    summary = Loop(source, engine, [sink], max_age_ms=1000).run()
    assert not engine.shapes
    assert not sink.results
    (event,) = sink.received
    assert isinstance(event, Event)
    assert (event.kind, event.source) == ("frame_stale", "list")
    assert event.details["frame"] == 0
    assert event.details["age_ms"] >= 3000
    assert (summary.sources[0].stale, summary.frames) == (1, 0)
    # A file has no age: it is as old as its queue.
    assert Loop(ListSource(old), PlainEngine(), [], max_age_ms=1000).run().frames == 1


def _slow_sinks(policy: str) -> tuple[ListSink, Summary]:
    """Ten live frames that are all inferred, and a sink that sleeps until the source has ended."""
    inferred = threading.Semaphore(0)

    def after_inference() -> None:
        assert inferred.acquire(timeout=WAIT_S)

    items = [step for i in range(10) for step in (_frame(i, 200), after_inference)]
    source = ListSource(*items, live=True)
    sink = ListSink(_wait(source.ended))
    # "hold" lets the engine go on only so far; the source must not wait for it then.
    engine = PlainEngine(lambda frames: inferred.release(10 if policy == "hold" else 1))
    return sink, Loop(source, engine, [sink], slow_sinks=policy).run()  # type: ignore[arg-type]


def test_slow_sinks_drop_the_oldest_results_and_no_event() -> None:
    sink, summary = _slow_sinks("drop")
    indices = sink.indices()
    assert indices[-4:] == [6, 7, 8, 9]  # the newest
    assert summary.sources[0].unwritten == 10 - len(indices) > 0
    assert summary.drops == 0
    assert [item.kind for item in sink.received if isinstance(item, Event)] == ["alarm"]


def test_slow_sinks_can_hold_the_engine() -> None:
    sink, summary = _slow_sinks("hold")
    assert summary.sources[0].unwritten == 0
    assert len(sink.results) + summary.drops == 10
    assert sink.indices()[-1] == 9


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc for the resident memory")
@pytest.mark.parametrize("live", [False, True])
def test_memory_does_not_grow_over_20000_frames(live: bool, make_engine: Callable[..., Path]) -> None:
    """A real engine, two sizes, a linked defect in every frame."""
    megabytes: list[float] = []

    def frames(name: str, size_hw: tuple[int, int]) -> Iterator[Frame]:
        for index in range(10_000):
            image = np.full((*size_hw, 3), index % 100, np.uint8)
            image[10:20, 10:30] = 220
            yield Frame(index, f"{name}{index}", name, image, time.monotonic(), time.time())
            if index in (2_000, 9_999):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                megabytes.append(pages * resource.getpagesize() / 2**20)

    sources = []
    for name, size_hw in (("a", (64, 96)), ("b", (48, 64))):
        source = ListSource(live=live, name=name)
        source.frames = lambda name=name, size_hw=size_hw: frames(name, size_hw)  # type: ignore[method-assign]
        sources.append(source)
    with open_engine(make_engine(), threads=1) as engine:
        summary = Loop(sources, engine, [], Inspector(alarm_frames=3, link=True)).run()
    drops_and_unwritten = summary.drops + sum(source.unwritten for source in summary.sources)
    assert summary.frames + drops_and_unwritten == 20_000
    assert megabytes[-1] - max(megabytes[:2]) < 8, megabytes
