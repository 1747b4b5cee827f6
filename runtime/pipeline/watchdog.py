"""Notifications to systemd: a run is ready, it goes on, it ends.

They are datagrams to the socket in `NOTIFY_SOCKET`, as sd_notify(3) describes. The unit needs `Type=notify`.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
from contextlib import suppress

from sdi.runtime.common.console import warn
from sdi.runtime.pipeline.loop import Loop, Report
from sdi.runtime.pipeline.summary import Summary

__all__ = ["Watchdog", "notify"]

_STATUS_S = 10.0  # between two notifications where the unit has no `WatchdogSec`


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
    """Runs a loop and notifies systemd: `READY=1` at its start, `WATCHDOG=1` while it goes on, `STOPPING=1` at its end.

    A stage that is silent for half of the unit's `WatchdogSec` hangs: a warning on stderr names it, and `WATCHDOG=1` is
    not sent until the stage goes on. If it stays silent, systemd aborts the process and starts it again; the process
    then writes the stack of every thread to stderr. Where no service manager listens, the loop runs as it would alone.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._limit_s = _limit_s()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def run(self, report: Report = lambda item: None) -> Summary:
        """As `Loop.run`. Use once."""
        if self._limit_s is not None:
            with suppress(OSError):  # stderr may be no file
                faulthandler.enable()  # for SIGABRT
        try:
            return self._loop.run(report, ready=self._ready)
        finally:
            self._ended.set()
            if self._thread.ident is not None:
                self._thread.join()
                notify("STOPPING=1", self._status())

    def _ready(self) -> None:
        if notify("READY=1", self._status()):
            self._thread.start()

    def _watch(self) -> None:
        hangs = stopping = False
        while not self._ended.wait(_STATUS_S if self._limit_s is None else self._limit_s / 4):
            stage, silence_s = self._loop.most_silent()
            hung, hangs = hangs, self._limit_s is not None and silence_s > self._limit_s / 2
            if self._loop.stopping and not stopping:
                stopping = notify("STOPPING=1")
            if hangs:
                if not hung:
                    warn(f"{stage} has given no sign of life for {silence_s:.1f} s", "hangs:")
                notify(f"STATUS={stage} hangs for {silence_s:.0f} s; {self._counts()}")
            else:
                notify("WATCHDOG=1", self._status())

    def _status(self) -> str:
        return f"STATUS={self._counts()}"

    def _counts(self) -> str:
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
