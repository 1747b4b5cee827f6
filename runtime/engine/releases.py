"""What is to be freed again: last first, each by itself, the first error kept."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Releases", "forget_locals"]

T = TypeVar("T")


class Releases:
    """A stack of releases. One that fails keeps no other from being made.

    As a context manager it frees all when the block raises, and what the block raised stays the error:

        with Releases() as undo:
            memory = undo.keep(allocate(), free)
            stream = undo.keep(make_stream(), destroy_stream)
            self._releases = undo.handed_over()
    """

    def __init__(self) -> None:
        self._pending: list[Callable[[], object]] = []

    def add(self, release: Callable[..., object], *arguments: Any) -> None:
        self._pending.append(lambda: release(*arguments))

    def keep(self, thing: T, release: Callable[[T], object]) -> T:
        """`thing`, once its release is noted."""
        self.add(release, thing)
        return thing

    def handed_over(self) -> Releases:
        """What was noted, for somebody else to close."""
        other = Releases()
        other._pending, self._pending = self._pending, []
        return other

    def close(self) -> None:
        """Make all releases, then raise the first error of any."""
        first: BaseException | None = None
        while self._pending:
            try:
                self._pending.pop()()
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        forget_locals(error)
        with suppress(Exception):
            self.close()


def forget_locals(error: BaseException | None) -> None:
    """Functions that an error ended keep what they held for as long as the error lives: objects of the device, too."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
