"""Signs of life of a stage of the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Heartbeat"]


class Heartbeat:
    """How long ago a stage last showed that it goes on.

    A stage beats before each item and at every tick of a wait. Only a stage whose own work hangs is silent.

    Args:
        name: the stage's, for people.
        clock: seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._last = math.inf  # infinite before the first beat and after the end

    def beat(self) -> None:
        """Give a sign of life."""
        self._last = self._clock()

    def silence_s(self) -> float:
        """Seconds since the last beat; 0 before the first one and after `end`."""
        return max(0.0, self._clock() - self._last)

    def end(self) -> None:
        """The stage has ended: its silence is no hang."""
        self._last = math.inf
