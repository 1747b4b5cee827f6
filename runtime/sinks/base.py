"""Where results go.

A sink proves that it can write when it is made, before the first frame.
"""

from __future__ import annotations

import abc
from types import TracebackType
from typing import TYPE_CHECKING

from sdi.runtime.frame import Event, Result, Skipped

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Sink"]


class Sink(abc.ABC):
    """Takes results one by one, all from one thread; a context manager."""

    @abc.abstractmethod
    def write(self, result: Result) -> None:
        """Take one result. Raises InputError when it cannot be written."""

    def note(self, skipped: Skipped) -> None:
        """Hear of something that gave no picture; most sinks have no use for it."""

    def event(self, event: Event) -> None:
        """Hear of an event, after the result that caused it; most sinks have no use for it."""

    def close(self, *, complete: bool) -> None:
        """Finish what was begun. `complete` is False when the run failed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)
