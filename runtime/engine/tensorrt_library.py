"""The two TensorRT libraries as values: their names, how they are loaded, and what they say.

TensorRT and TensorRT-RTX have nearly the same Python interface, so what builds and runs plans is written once and is
given the library.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdi.runtime.common.errors import DeviceError

__all__ = ["LIBRARIES", "TENSORRT", "TENSORRT_RTX", "Library", "bytes_of", "library_of", "log_of", "version_of"]


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
    """What a library logged since `clear`. The library is given `logger`."""

    def __init__(self) -> None:
        self.logger: Any = None
        self.listener: Callable[[str], None] | None = None  # receives every line
        self.clear()

    def clear(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def last_error(self) -> str:
        """The last error, or that there was none."""
        return self.errors[-1] if self.errors else "the library gave no reason"


@functools.cache
def log_of(trt: Any) -> LibraryLog:
    """The one log of a library: it keeps the first logger it is given and wants it alive for ever."""
    log = LibraryLog()
    base: Any = trt.ILogger

    class Logger(base):
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (base.INTERNAL_ERROR, base.ERROR):
                log.errors.append(text)
            elif severity == base.WARNING:
                log.warnings.append(text)
            if log.listener is not None:
                log.listener(text)

    log.logger = Logger()
    return log
