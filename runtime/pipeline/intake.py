"""The way from the sources to the engine: a lane for each source, and turns among the lanes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.pipeline.channel import TICK_S, Channel
from sdi.runtime.pipeline.heartbeat import Heartbeat
from sdi.runtime.pipeline.summary import Latencies, SourceSummary
from sdi.runtime.sources.base import Source

__all__ = ["HELD", "HELD_EVENTS", "Intake", "Item", "Lane"]

HELD = 4  # frames between two stages when nothing may be dropped
HELD_EVENTS = 64  # likewise, with events: a stage hardly ever waits for them

Item = Frame | Skipped | Event


class Lane:
    """One source and the queue behind it."""

    def __init__(self, source: Source, channel: Channel[Item]) -> None:
        self.source = source
        self.channel = channel
        self.heartbeat = Heartbeat(f"reading {source.name}")
        self.summary = SourceSummary(source.name)

    def silence_s(self) -> float:
        """Seconds since the source gave or awaited something."""
        return min(self.heartbeat.silence_s(), max(0.0, time.monotonic() - self.source.seen))

    def fetch(self, grab_ms: Latencies, stopping: Callable[[], bool]) -> None:
        """Put what the source gives into the queue, to the source's end, or until `stopping` or the run is over."""
        asked = time.monotonic()
        for item in self.source.frames():
            self.heartbeat.beat()
            if isinstance(item, Frame):
                grab_ms.add((item.captured - asked) * 1e3)
            if self.source.live and isinstance(item, Frame):
                dropped = self.channel.put_newest(item, _is_frame)
                if isinstance(dropped, Frame):
                    self.summary.drops += 1
                    self.source.recycle(dropped.image)
            elif not self.channel.put(item, self.heartbeat, None if isinstance(item, Frame) else HELD_EVENTS):
                return
            if stopping():
                return
            asked = time.monotonic()


class Intake:
    """All lanes; one thread takes from them.

    Args:
        over: whether the run is over.
        stopping: whether the run was asked to end.
        max_age_ms: a live frame that is older than this is refused: its event `frame_stale` takes its place.
        patience_s: seconds for which a run that ends waits for a read that hangs.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        over: Callable[[], bool],
        stopping: Callable[[], bool],
        max_age_ms: float | None,
        patience_s: float,
    ) -> None:
        self.lanes: list[Lane] = []
        for source in sources:
            # Beside the one frame of a live source there is room for what may not be dropped.
            channel: Channel[Item] = Channel(HELD, over, self.lanes[0].channel if self.lanes else None)
            self.lanes.append(Lane(source, channel))
        self._over = over
        self._stopping = stopping
        self._max_age_ms = max_age_ms
        self._patience_s = patience_s
        self._turn = 0  # the lane that is asked first

    def take(self, most: int, heartbeat: Heartbeat, *, wait: bool = True) -> list[Item]:
        """Wait for items and take at most `most`, of the lanes in turns; empty when all have ended or the run is over.

        Args:
            heartbeat: of the stage that waits.
            wait: False: empty also where none is there at this moment.
        """
        stop_seen: float | None = None
        arrived = self.lanes[0].channel.arrived
        with arrived:
            while not self._over():
                heartbeat.beat()
                taken = self._take_turns(most)
                if taken or not wait:
                    return taken
                running = [lane for lane in self.lanes if not lane.channel.ended]
                if not running:
                    return []
                if self._stopping():  # a grabbing thread may sit in a driver, or on a share, that never answers
                    stop_seen = stop_seen or time.monotonic()
                    late = time.monotonic() - stop_seen > self._patience_s
                    if late or all(lane.source.live for lane in running):
                        return []
                arrived.wait(TICK_S)
        return []

    def _take_turns(self, most: int) -> list[Item]:
        """One of each lane, and again: a file's frames go together where the engine takes several."""
        taken: list[Item] = []
        idle = 0  # lanes in a row that had none
        while len(taken) < most and idle < len(self.lanes):
            lane = self.lanes[self._turn]
            self._turn = (self._turn + 1) % len(self.lanes)
            item = lane.channel.take()
            idle = 0 if item is not None else idle + 1
            if item is not None:
                taken.append(self._or_stale(lane, item))
        return taken

    def _or_stale(self, lane: Lane, item: Item) -> Item:
        """`item`, or the event that refuses it where it is a live frame that waited for too long."""
        if self._max_age_ms is None or not lane.source.live or not isinstance(item, Frame):
            return item
        age_ms = (time.monotonic() - item.captured) * 1e3
        if age_ms <= self._max_age_ms:
            return item
        lane.summary.stale += 1
        details = {"frame": item.index, "name": item.name, "age_ms": round(age_ms, 3), "drops": lane.summary.drops}
        text = f"frame {item.index} is {age_ms:.0f} ms old, at most {self._max_age_ms:g} are allowed"
        return Event("frame_stale", lane.source.name, text, time.time(), details)


def _is_frame(item: Item) -> bool:
    return isinstance(item, Frame)
