"""A short queue between two stages of the loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["TICK_S", "Channel"]

TICK_S = 0.1  # how long a stage waits before it looks whether it should stop


class Channel:
    """First in, first out. Several may share a condition, so that one reader can wait for all of them.

    Args:
        room: items it holds before `put` waits.
        changed: notified whenever something was put in or taken out.
    """

    def __init__(self, room: int, changed: threading.Condition | None = None) -> None:
        self.room = room
        self.changed = changed or threading.Condition()
        self._items: deque[Any] = deque()

    def put(self, item: Any, over: Callable[[], bool], room: int | None = None) -> bool:
        """Wait for room, `room` where it is given; False when `over` says that nobody takes items any more."""
        with self.changed:
            while not over():
                if len(self._items) < (room or self.room):
                    self._items.append(item)
                    self.changed.notify_all()
                    return True
                self.changed.wait(TICK_S)
        return False

    def put_newest(self, item: Any, may_go: Callable[[Any], bool], keep: int = 1) -> Any:
        """Put without waiting; of the items that `may_go` only `keep` stay, and the oldest is answered (or None)."""
        dropped = None
        with self.changed:
            waiting = [i for i, other in enumerate(self._items) if may_go(other)]
            if len(waiting) >= keep:
                dropped = self._items[waiting[0]]
                del self._items[waiting[0]]
            self._items.append(item)
            self.changed.notify_all()
        return dropped

    def take(self) -> Any:
        """The oldest item, or None. The caller holds `changed`."""
        if not self._items:
            return None
        item = self._items.popleft()
        if len(self._items) <= self.room // 2:  # not at every item: waking a thread costs more than passing one on
            self.changed.notify_all()
        return item

    def get(self, over: Callable[[], bool]) -> Any:
        """Wait for the oldest item; None when `over` says that no more will come."""
        with self.changed:
            while (item := self.take()) is None:
                if over():
                    return None
                self.changed.wait(TICK_S)
            return item
