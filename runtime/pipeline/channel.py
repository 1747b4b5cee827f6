"""A short queue between two stages of the loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["TICK_S", "Channel"]

TICK_S = 0.1  # how long a stage waits before it looks whether it should stop


class Channel:
    """First in, first out, with one stage that puts and one that takes.

    Args:
        room: items it holds before `put` waits.
        beside: another channel with the same taker, who waits for either at its `arrived`.
    """

    def __init__(self, room: int, beside: Channel | None = None) -> None:
        self.room = room
        self._lock: threading.Lock = beside._lock if beside else threading.Lock()
        self.arrived: threading.Condition = beside.arrived if beside else threading.Condition(self._lock)
        self._freed = threading.Condition(self._lock)  # its own: no other channel's putter wakes for nothing
        self._items: deque[Any] = deque()

    def put(self, item: Any, over: Callable[[], bool], room: int | None = None) -> bool:
        """Wait for room, `room` where it is given; False when `over` says that nobody takes items any more."""
        with self._lock:
            while not over():
                if len(self._items) < (room or self.room):
                    self._items.append(item)
                    self.arrived.notify()
                    return True
                self._freed.wait(TICK_S)
        return False

    def put_newest(self, item: Any, may_go: Callable[[Any], bool], keep: int = 1) -> Any:
        """Put without waiting; of the items that `may_go` only `keep` stay, and the oldest is answered (or None)."""
        dropped = None
        with self._lock:
            waiting = [i for i, other in enumerate(self._items) if may_go(other)]
            if len(waiting) >= keep:
                dropped = self._items[waiting[0]]
                del self._items[waiting[0]]
            self._items.append(item)
            self.arrived.notify()
        return dropped

    def take(self) -> Any:
        """The oldest item, or None. The caller holds `arrived`."""
        if not self._items:
            return None
        item = self._items.popleft()
        if len(self._items) <= self.room // 2:  # not at every item: waking a thread costs more than passing one on
            self._freed.notify()
        return item

    def get(self, over: Callable[[], bool]) -> Any:
        """Wait for the oldest item; None when there is none and `over`, asked every time, says that none will come."""
        with self.arrived:
            while True:
                ended = over()
                if (item := self.take()) is not None or ended:
                    return item
                self.arrived.wait(TICK_S)
