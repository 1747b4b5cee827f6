"""A bar for each phase of a build."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sdi.runtime.common.console import log

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BuildProgress"]


class BuildProgress:
    """Shows a builder's phases while it is entered, and keeps Ctrl-C for `check`.

    As an exception Ctrl-C would arise in one of the library's callbacks, which swallow it or end the process.

    Attributes:
        monitor: what the builder's configuration is given; None where the library has no such thing.
    """

    def __init__(self, trt: Any, title: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=log, transient=True, disable=not log.is_terminal)
        self._progress.add_task(title, total=None)
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()  # the builder calls from several threads
        self._handler: Any = None
        self.interrupted = False
        self.monitor = _monitor(trt, self) if hasattr(trt, "IProgressMonitor") else None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: Any) -> None:
        self.interrupted = True

    def start(self, phase: str, steps: int) -> None:
        with self._lock:
            self._tasks[phase] = self._progress.add_task(f"  {phase}", total=steps or None)

    def step(self, phase: str, done: int) -> None:
        with self._lock:
            if phase in self._tasks:
                self._progress.update(self._tasks[phase], completed=done)

    def finish(self, phase: str) -> None:
        with self._lock:
            if phase in self._tasks:
                self._progress.remove_task(self._tasks.pop(phase))


def _monitor(trt: Any, shown: BuildProgress) -> Any:
    base: Any = trt.IProgressMonitor

    class Monitor(base):
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            shown.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            shown.step(phase_name, step + 1)
            return not shown.interrupted

        def phase_finish(self, phase_name: str) -> None:
            shown.finish(phase_name)

    return Monitor()
