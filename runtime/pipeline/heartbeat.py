"""Signs of life of a stage of the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Pulse"]


class Pulse:
    """When a stage last showed that it goes on.

    Waiting stages ask `over` at every tick of a channel, so that only a stage whose own work hangs is silent.

    Args:
        name: the stage's, for people.
        over: whether the run is over.
    """

    def __init__(self, name: str, over: Callable[[], bool]) -> None:
        self.name = name
        self._over = over
        self.seen = math.inf  # time.monotonic(), seconds; infinite before the stage's start and after its end

    def over(self) -> bool:
        """Give a sign of life; answer whether the run is over."""
        self.seen = time.monotonic()
        return self._over()

    def end(self) -> None:
        """Nothing is expected of this stage any more."""
        self.seen = math.inf
