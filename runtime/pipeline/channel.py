"""A short queue between two stages of the loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from sdi.runtime.pipeline.heartbeat import Heartbeat

__all__ = ["TICK_S", "Channel"]

TICK_S = 0.1  # how long a stage waits before it looks whether it should stop

T = TypeVar("T")


class Channel(Generic[T]):
    """First in, first out, with one stage that puts and one that takes. No item is None.

    Args:
        room: items it holds before `put` waits.
        over: whether the run is over, so that nobody waits for another stage any more. Asked at every tick.
        beside: another channel with the same taker, who waits for either at its `arrived`.
    """

    def __init__(self, room: int, over: Callable[[], bool], beside: Channel[T] | None = None) -> None:
        self.room = room
        self._over = over
        self._lock: threading.Lock = beside._lock if beside else threading.Lock()
        self.arrived: threading.Condition = beside.arrived if beside else threading.Condition(self._lock)
        self._freed = threading.Condition(self._lock)  # its own: no other channel's putter wakes for nothing
        self._items: deque[T] = deque()
        self._closed = False

    def put(self, item: T, heartbeat: Heartbeat, room: int | None = None) -> bool:
        """Wait for room and put `item`; False when the run is over.

        Args:
            heartbeat: of the stage that waits.
            room: items that may lie here; default the channel's own room.
        """
        with self._lock:
            while not self._over():
                heartbeat.beat()
                if len(self._items) < (room or self.room):
                    self._items.append(item)
                    self.arrived.notify()
                    return True
                self._freed.wait(TICK_S)
        return False

    def put_newest(self, item: T, may_go: Callable[[T], bool], keep: int = 1) -> T | None:
        """Put without waiting. Of the items that `may_go` only `keep` stay; the one that was dropped, or None."""
        dropped = None
        with self._lock:
            waiting = [i for i, other in enumerate(self._items) if may_go(other)]
            if len(waiting) >= keep:
                dropped = self._items[waiting[0]]
                del self._items[waiting[0]]
            self._items.append(item)
            self.arrived.notify()
        return dropped

    def close(self) -> None:
        """No item will be put any more; those that lie here are still taken."""
        with self._lock:
            self._closed = True
            self.arrived.notify()

    @property
    def ended(self) -> bool:
        """Whether it is closed and empty. The caller holds `arrived`."""
        return self._closed and not self._items

    def take(self) -> T | None:
        """The oldest item, or None. The caller holds `arrived`."""
        if not self._items:
            return None
        item = self._items.popleft()
        if len(self._items) <= self.room // 2:  # not at every item: waking a thread costs more than passing one on
            self._freed.notify()
        return item

    def get(self, heartbeat: Heartbeat) -> T | None:
        """Wait for the oldest item; None when there is none and none will come.

        Args:
            heartbeat: of the stage that waits.
        """
        with self.arrived:
            while True:
                heartbeat.beat()
                ended = self._closed or self._over()
                if (item := self.take()) is not None or ended:
                    return item
                self.arrived.wait(TICK_S)
