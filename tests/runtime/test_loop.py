"""The loop: order, drops, failures and the end. Threads meet at events; every wait has an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdi.runtime.loop as loop_module
from sdi.runtime.engine import Engine, open_engine
from sdi.runtime.errors import DeviceError, InputError
from sdi.runtime.frame import Frame, Result, Skipped
from sdi.runtime.loop import Loop, Summary
from sdi.runtime.sinks import Sink
from sdi.runtime.sources import Source, open_source
from sdi.runtime.sources.camera import CameraSource

WAIT_S = 20.0


def _frame(index: int, level: int = 10) -> Frame:
    image = np.full((4, 6, 3), level, np.uint8)
    return Frame(index, f"f{index}", "list", image, time.monotonic(), time.time())


class ListSource(Source):
    """Yields items; calls those that can be called, so that a test can wait or fail between frames."""

    name = "list"
    length = None

    def __init__(self, *items: Frame | Skipped | Callable[[], object], live: bool = False) -> None:
        self.live = live
        self.items = items
        self.taken = 0
        self.ended = threading.Event()

    def frames(self) -> Iterator[Frame | Skipped]:
        try:
            for item in self.items:
                if callable(item):
                    item()
                else:
                    self.taken += 1
                    yield item
        finally:
            self.ended.set()


class PlainEngine(Engine):
    """Answers the first channel, after `before` has had its say."""

    def __init__(self, before: Callable[[np.ndarray], object] = lambda frames: None) -> None:
        self.path, self.manifest, self.frame_hw, self.batch, self.device = Path("plain"), None, None, None, "test"
        self.before = before

    def execute(self, frames: np.ndarray) -> np.ndarray:
        self.before(frames)
        return frames[..., 0].copy()


class ListSink(Sink):
    """Keeps what it is given; calls `before` first."""

    def __init__(self, before: Callable[[Result], object] = lambda result: None) -> None:
        self.results: list[Result] = []
        self.skipped: list[Skipped] = []
        self.before = before

    def write(self, result: Result) -> None:
        self.before(result)
        self.results.append(result)

    def note(self, skipped: Skipped) -> None:
        self.skipped.append(skipped)

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
    sink, heard = ListSink(), []
    summary = Loop(ListSource(_frame(0), gap, _frame(1)), PlainEngine(), [sink]).run(heard.append)
    assert sink.indices() == [0, 1]
    assert sink.skipped == [gap]
    assert [getattr(item, "reason", "frame") for item in heard] == ["frame", "broken", "frame"]
    assert (summary.frames, summary.skipped) == (2, 1)


def test_an_empty_source_ends() -> None:
    summary = Loop(ListSource(), PlainEngine(), []).run()
    assert summary.to_dict() == {
        "frames": 0, "with_defects": 0, "skipped": 0, "drops": 0, "seconds": 0.0, "fps": 0.0,
        "engine_ms": {}, "age_ms": {},
    }  # fmt: skip


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


def test_threshold_and_area_reach_the_regions() -> None:
    def defects(**options: float) -> int:
        return Loop(ListSource(_frame(0, 100)), PlainEngine(), [], **options).run().with_defects  # type: ignore[arg-type]

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


def test_a_live_source_that_hangs_does_not_hang_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_PATIENCE_S", 0.2)
    driver = threading.Event()  # a read in a driver that never answers
    source = ListSource(_frame(0), _wait(driver), live=True)
    sink = ListSink()
    loop = Loop(source, PlainEngine(), [sink])
    try:
        assert _within(WAIT_S, lambda: loop.run(lambda item: loop.stop())) is None
    finally:
        driver.set()
    assert sink.indices() == [0]


def test_a_slow_live_source_ends_soon_after_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next frame comes when nobody waits for frames any more; the grabbing thread must see that and end."""
    monkeypatch.setattr(loop_module, "_PATIENCE_S", WAIT_S)
    idle = threading.Event()
    source = ListSource(_frame(0), _wait(idle), _frame(1), live=True)
    loop = Loop(source, PlainEngine(), [])
    get = loop._get

    def get_and_tell(channel: object) -> object:
        item = get(channel)  # type: ignore[arg-type]
        if threading.current_thread().name == "_infer" and not isinstance(item, Frame):
            idle.set()  # the inferring thread has given up waiting
        return item

    monkeypatch.setattr(loop, "_get", get_and_tell)
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


def test_summary_figures() -> None:
    summary = Summary(frames=10, with_defects=3, skipped=1, drops=2, seconds=4.0)
    summary.engine_ms.extend(range(1, 102))
    summary.age_ms.extend([5.0])
    assert summary.to_dict() == {
        "frames": 10, "with_defects": 3, "skipped": 1, "drops": 2, "seconds": 4.0, "fps": 2.5,
        "engine_ms": {"p50": 51.0, "p95": 96.0, "p99": 100.0},
        "age_ms": {"p50": 5.0, "p95": 5.0, "p99": 5.0},
    }  # fmt: skip


def test_latencies_do_not_grow_without_end() -> None:
    summary = Summary()
    summary.engine_ms.extend([1.0] * 30_000)
    assert len(summary.engine_ms) == 20_000


def test_a_real_stream_keeps_the_newest_and_its_end_is_a_loss(mjpeg: Any, make_engine: Callable[..., Path]) -> None:
    ended = threading.Event()

    class Watched(CameraSource):
        def frames(self) -> Iterator[Frame | Skipped]:
            try:
                yield from super().frames()
            finally:
                ended.set()

    mjpeg.push(*(np.full((48, 64, 3), 4 * i, np.uint8) for i in range(40)))
    mjpeg.end()
    sink = ListSink()
    with open_engine(make_engine()) as engine, Watched(mjpeg.url) as source:
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


def test_stop_ends_a_real_stream_that_goes_silent(
    mjpeg: Any, make_engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The camera sends no more and keeps the connection: the read gives up by its own limit."""
    monkeypatch.setattr("sdi.runtime.sources.camera._READ_TIMEOUT_MS", 1000)
    mjpeg.push(*(np.full((48, 64, 3), 4 * i, np.uint8) for i in range(10)))
    with open_engine(make_engine()) as engine, open_source(mjpeg.url) as source:
        loop = Loop(source, engine, [])
        error = _within(2 * WAIT_S, lambda: loop.run(lambda item: item.frame.index == 9 and loop.stop()))
    assert error is None
    assert loop.summary.frames + loop.summary.drops == 10
