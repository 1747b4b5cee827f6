"""Word of a run to systemd: it has begun, it goes on, it ends.

The protocol is that of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names, in a unit with `Type=notify`.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from sdi.runtime.common.console import warn

if TYPE_CHECKING:
    from typing_extensions import Self

    from sdi.runtime.pipeline.loop import Loop

__all__ = ["Watchdog", "notify"]

_STATUS_S = 10.0  # between two words of a run that nobody watches


def notify(*lines: str) -> bool:
    """Send lines such as "READY=1" to the service manager; False where none has started this process."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # a name of Linux's own, without a file
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1.0)
        sender.sendto("\n".join(lines).encode(), address)
        return True
    return False


class Watchdog:
    """Around a run: `READY=1`, then `WATCHDOG=1` for as long as every stage goes on, at the end `STOPPING=1`.

    A stage that is silent for half of the unit's `WatchdogSec` is named on stderr, and no word is sent until it goes
    on: systemd aborts the process, whose threads' stacks are then written to stderr, and starts it again. Does nothing
    where no service manager listens.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._limit_s = _limit_s()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._limit_s is not None:
            with suppress(OSError):  # stderr may be no file
                faulthandler.enable()  # for SIGABRT
        if notify("READY=1", self._status()):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            notify("STOPPING=1", self._status())

    def _watch(self) -> None:
        hangs = stopping = False
        while not self._ended.wait(_STATUS_S if self._limit_s is None else self._limit_s / 4):
            stage, silent_s = self._loop.quietest()
            hung, hangs = hangs, self._limit_s is not None and silent_s > self._limit_s / 2
            if self._loop.stopping and not stopping:
                stopping = notify("STOPPING=1")
            if hangs:
                if not hung:
                    warn(f"{stage} has given no sign of life for {silent_s:.1f} s", "hangs:")
                notify(f"STATUS={stage} hangs for {silent_s:.0f} s; {self._figures()}")
            else:
                notify("WATCHDOG=1", self._status())

    def _status(self) -> str:
        return f"STATUS={self._figures()}"

    def _figures(self) -> str:
        summary = self._loop.summary
        lost = sum(source.lost for source in summary.sources)
        return f"{summary.frames} frames, {summary.alarms} alarms, {summary.drops} dropped, sources lost {lost} times"


def _limit_s() -> float | None:
    """The unit's `WatchdogSec`; None where it has none, or means another process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with suppress(ValueError):
        limit_s = int(os.environ.get("WATCHDOG_USEC", "")) / 1e6
        return limit_s if limit_s > 0 else None
    return None
