"""The two TensorRT libraries as values: their names, how they are loaded, and what they say.

TensorRT and TensorRT-RTX have nearly the same Python interface, so what builds and runs plans is written once and is
given the library.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from sdi.runtime.common.errors import DeviceError, first_line

__all__ = ["LIBRARIES", "TENSORRT", "TENSORRT_RTX", "Library", "bytes_of", "library_of", "log_of", "version_of"]

P = ParamSpec("P")
T = TypeVar("T")
_KEPT = 1000  # errors and warnings


@dataclass(frozen=True)
class Library:
    """One of the two libraries, loaded or not."""

    target: str  # as --target and the manifest name it
    title: str
    magic: bytes  # the first four bytes of its plans
    modules: tuple[str, ...]  # import names, the first that is there is taken
    install: str  # the command that installs it

    def load(self) -> Any:
        """Import it.

        Raises:
            DeviceError: it is not installed, or its shared libraries cannot be loaded.
        """
        reason = f"{self.modules[0]} is not installed"
        for name in self.modules:
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name != name:
                    reason = str(error)
            except (ImportError, OSError, RuntimeError) as error:  # there, but its shared libraries are not
                reason = str(error)
        raise DeviceError(f"{self.title} cannot be loaded: {reason}; {self.install}")

    def unavailable(self) -> str | None:
        """Why it cannot be loaded here; None where it can."""
        try:
            self.load()
        except DeviceError as error:
            return str(error)
        return None


TENSORRT = Library(
    "tensorrt",
    "TensorRT",
    b"ftrt",
    ("tensorrt",),
    "pip install 'sdi[gpu]' (on a Jetson it comes with JetPack)",
)
TENSORRT_RTX = Library(
    "tensorrt-rtx", "TensorRT-RTX", b"vtrt", ("tensorrt_rtx", "tensorrt_rtx_bindings"), "pip install 'sdi[rtx]'"
)
LIBRARIES = (TENSORRT, TENSORRT_RTX)


def library_of(target: str) -> Library | None:
    """The library behind a target; None for one that is not TensorRT's."""
    return next((library for library in LIBRARIES if library.target == target), None)


def bytes_of(memory: Any) -> memoryview:
    """The bytes of a library's host memory, which has Python's buffer interface but does not say so."""
    return memoryview(memory)


def version_of(trt: Any) -> tuple[int, ...]:
    """Version of a loaded library as numbers: "10.3.0.26" -> (10, 3, 0, 26)."""
    return tuple(int(part) for part in trt.__version__.split(".") if part.isdigit())


class LibraryLog:
    """What a library logged. The library is given `logger`."""

    def __init__(self) -> None:
        self.logger: Any = None
        self.listener: Callable[[str], None] | None = None  # receives every line
        self._logged = 0
        self._errors: deque[_Line] = deque(maxlen=_KEPT)
        self._warnings: deque[_Line] = deque(maxlen=_KEPT)

    def mark(self) -> int:
        """This moment, for `errors_since` and `warnings_since`: an older error is no reason for a new failure."""
        return self._logged

    def errors_since(self, mark: int) -> list[str]:
        """Those of the calling thread where it had any: two engines share a library. The first is the cause."""
        lines = [line for line in self._errors if line.number > mark]
        mine = [line for line in lines if line.thread == threading.get_ident()]
        return [line.text for line in mine or lines]

    def warnings_since(self, mark: int) -> list[str]:
        return [line.text for line in self._warnings if line.number > mark]

    def reason(self, mark: int) -> str:
        """The first error since `mark`, or that there was none."""
        return (self.errors_since(mark) or ["the library gave no reason"])[0]

    def ask(self, call: Callable[P, T | None], *arguments: P.args, **options: P.kwargs) -> T:
        """What a call into the library answers.

        Raises:
            DeviceError: None or False, which is how its methods fail, or an exception, which is how its constructors
                do: pybind's "factory function returned nullptr".
        """
        mark = self.mark()
        name = getattr(call, "__name__", "a call")
        with self.errors(f"{name} failed"):
            answer = call(*arguments, **options)
        if answer is None or answer is False:
            raise DeviceError(f"{name} failed: {self.reason(mark)}")
        return answer

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Tells what the library raises inside."""
        mark = self.mark()
        try:
            yield
        except (RuntimeError, TypeError, ValueError, IndexError, MemoryError) as error:
            raise DeviceError(f"{what}: {(self.errors_since(mark) or [first_line(error)])[0]}") from error

    def receive(self, text: str, lines: str) -> None:
        """Note an error or a warning; called by the library, in any thread."""
        self._logged += 1
        kept = {"error": self._errors, "warning": self._warnings}.get(lines)
        if kept is not None:
            kept.append(_Line(self._logged, threading.get_ident(), text))
        if self.listener is not None:
            self.listener(text)


@dataclass(frozen=True)
class _Line:
    number: int
    thread: int
    text: str


@functools.cache
def log_of(trt: Any) -> LibraryLog:
    """The one log of a library: it keeps the first logger it is given and wants it alive for ever."""
    log = LibraryLog()
    base: Any = trt.ILogger
    kinds = {base.INTERNAL_ERROR: "error", base.ERROR: "error", base.WARNING: "warning"}

    class Logger(base):
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            log.receive(text, kinds.get(severity, ""))

    log.logger = Logger()
    return log
