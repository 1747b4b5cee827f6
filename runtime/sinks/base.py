"""The base class of every sink.

A sink proves that it can write when it is made, before the first frame.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from sdi.runtime.frame import Event, Result, Skipped

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Counter", "Sink"]


@dataclass(frozen=True)
class Counter:
    """What a sink counts, for the metrics of a line.

    `name` is that of the metric without its prefix, in Prometheus' letters: lower case and underscores.
    """

    name: str
    text: str  # one sentence for people
    value: float


class Sink(abc.ABC):
    """Takes results one by one, all from one thread; a context manager.

    Attributes:
        closed: True once the user closed it, e.g. its window: the loop then stops.
    """

    closed: bool = False

    @abc.abstractmethod
    def write(self, result: Result) -> None:
        """Take one result. Raises InputError when it cannot be written."""

    def note(self, skipped: Skipped) -> None:
        """Take something that gave no picture; most sinks have no use for it."""

    def event(self, event: Event) -> None:
        """Take an event, after the result that caused it; most sinks have no use for it.

        The loop's own events are the first, `started`, and the last, `stopped`.
        """

    def counters(self) -> Sequence[Counter]:
        """What this sink has lost or still holds. Any thread may call this, at any time."""
        return ()

    def close(self, *, complete: bool) -> None:
        """Finish what was begun. `complete` is False when the run failed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)
