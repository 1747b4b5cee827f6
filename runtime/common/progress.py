"""One seam for progress: what a long piece of work logs, and how far it has come.

A function that takes long has the parameter `progress: Progress = SILENT`. A command passes `ConsoleProgress()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from sdi.runtime.common.console import log

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["SILENT", "ConsoleProgress", "Progress", "Task"]

T = TypeVar("T")


class Task:
    """A piece of work with countable steps, as `Progress.task` hands it out. This one shows nothing."""

    def advance(self, steps: int = 1) -> None:
        """`steps` more are done. Any thread may call this."""

    def describe(self, text: str) -> None:
        """Replace the task's description: what is being done now."""


class Progress:
    """The silent progress, and the base class of every other one."""

    def log(self, text: str) -> None:
        """Log one line for people."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        """Pass `items` on, one by one, and show how far the loop over them has come.

        Args:
            total: how many there are, where `items` has no length.
        """
        return items

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Task]:
        """Work that counts its own steps, for where no loop can be wrapped.

        Args:
            total: steps; None: not known.
        """
        yield Task()


SILENT = Progress()


class ConsoleProgress(Progress):
    """Log lines on stderr, and a bar for each task where stderr is a terminal. Bars may be nested; they vanish."""

    def log(self, text: str) -> None:
        log.print(text)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        with _bar() as bar:
            yield from bar.track(items, total=total, description=description)

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Task]:
        with _bar() as bar:
            yield _BarTask(bar, bar.add_task(description, total=total))


class _BarTask(Task):
    def __init__(self, bar: Bar, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, steps: int = 1) -> None:
        self._bar.advance(self._task, steps)

    def describe(self, text: str) -> None:
        self._bar.update(self._task, description=text)


def _bar() -> Bar:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, console=log, transient=True, disable=not log.is_terminal)
