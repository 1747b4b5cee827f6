"""One thread at a time inside an engine, and none after it was closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sdi.runtime.common.errors import DeviceError

__all__ = ["Guard"]

PATIENCE_S = 30.0  # longer than any call takes that is still at work


class Guard:
    """Serialises the calls of one engine.

    A thread that holds the engine when a signal handler closes it finds its memory still there: the lock is not
    reentrant, and `closing` gives up instead of waiting for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._released = False

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Holds the engine for one call.

        Raises:
            DeviceError: it was closed, or another thread did not leave it in `PATIENCE_S`.
        """
        with self._held(name):
            if self._closed:
                raise DeviceError(f"{name} was closed; open it again")
            yield

    @contextmanager
    def closing(self, name: str) -> Iterator[bool]:
        """Holds the engine to free what it has; False where that was done before. No call gets in any more.

        Raises:
            DeviceError: another thread did not leave it in `PATIENCE_S`: nothing may be freed then, but `close` can be
                called again.
        """
        self._closed = True  # first: who waits for the lock is refused
        with self._held(name):
            first, self._released = not self._released, True
            yield first

    @contextmanager
    def _held(self, name: str) -> Iterator[None]:
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise DeviceError(
                f"{name} is in use by another thread, which has not left it for {PATIENCE_S:g} s: the device hangs, or "
                "two threads share one engine; open one for each thread"
            )
        try:
            yield
        finally:
            self._lock.release()
