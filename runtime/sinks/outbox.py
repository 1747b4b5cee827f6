"""Events to a receiver over the network: queued on disk, sent on a thread, kept until the receiver has them."""

from __future__ import annotations

import abc
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdi.runtime.common.console import log, warn
from sdi.runtime.frame import Event, Result, Skipped
from sdi.runtime.records import event_record, skipped_record
from sdi.runtime.sinks.base import Counter, Sink
from sdi.runtime.sinks.spool import Spool

__all__ = ["Courier", "Outbox", "Refused", "Retry", "Undelivered"]

_QUIET = ("frame_stale",)  # may come with every frame: its count is a metric


@dataclass(frozen=True)
class Retry:
    """How an outbox sends an event again. The wait doubles after each attempt."""

    first_s: float = 1.0
    longest_s: float = 30.0
    patience_s: float = 5.0  # for so long the end of a run waits for events in the queue


class Undelivered(Exception):
    """The receiver cannot be reached or does not answer as it should. The event is sent again later."""


class Refused(Exception):
    """The receiver understands the event and will never take it. The next event is sent."""


class Courier(abc.ABC):
    """Delivers events to one receiver; used by one thread.

    Attributes:
        kind: its protocol, e.g. "mqtt".
        name: the receiver, for logs, without a login.
    """

    kind: str
    name: str

    @abc.abstractmethod
    def deliver(self, kind: str, body: bytes, give_up: threading.Event) -> None:
        """Return when the receiver has `body`, a JSON object in ASCII. Every wait is bounded and ends with `give_up`.

        Args:
            kind: that of the event.
        Raises:
            Undelivered, Refused
        """

    def close(self) -> None:
        """Close the connection."""


class Outbox(Sink):
    """Sends every event but `frame_stale` to one receiver, in order and at least once. Frames are not sent.

    Events wait in the spool while they cannot be delivered, also over a restart or a crash. A receiver recognises a
    repeated event by its `seq`. The loop never waits for the network.

    Args:
        station: this machine's name in every message.
    """

    def __init__(self, courier: Courier, spool: Spool, station: str, retry: Retry = Retry()) -> None:
        self.courier = courier
        self.spool = spool
        self._station = station
        self._retry = retry
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._give_up = threading.Event()
        if len(spool):
            log.print(f"{courier.name}: events of an earlier run that are sent now: {len(spool)}")
        self._thread = threading.Thread(target=self._send_all, name=f"to {courier.name}", daemon=True)
        self._thread.start()

    def write(self, result: Result) -> None:
        """Frames are not sent."""

    def note(self, skipped: Skipped) -> None:
        self._queue(skipped_record(skipped))

    def event(self, event: Event) -> None:
        if event.kind not in _QUIET:
            self._queue(event_record(event))

    def counters(self) -> Sequence[Counter]:
        kind = self.courier.kind
        return (
            Counter(f"{kind}_waiting", "Events that wait to be sent.", len(self.spool)),
            Counter(f"{kind}_lost", "Events given up, over all runs.", self.spool.lost),
        )

    def close(self, *, complete: bool) -> None:
        self._ending.set()
        self._wake.set()
        self._thread.join(timeout=self._retry.patience_s)
        self._give_up.set()
        self._thread.join(timeout=self._retry.patience_s)
        waiting, lost = len(self.spool), self.spool.lost
        if waiting:
            warn(f"{self.courier.name}: events that wait for the next run: {waiting}")
        if lost:
            warn(f"{self.courier.name}: events lost so far, because the queue was full or they were refused: {lost}")
        if not self._thread.is_alive():  # else it hangs in a system call, and ends with the process
            self.courier.close()
            self.spool.close()

    def _queue(self, record: dict[str, Any]) -> None:
        self.spool.append(json.dumps({**record, "station": self._station}))
        self._wake.set()

    def _send_all(self) -> None:
        retry = self._retry
        wait_s = retry.first_s
        while not self._give_up.is_set():
            self._wake.clear()
            oldest = self.spool.first()
            if oldest is None:
                if self._ending.is_set():
                    return
                self._wake.wait()
                continue
            number, body = oldest
            try:
                self.courier.deliver(
                    json.loads(body)["event"], f'{{"seq": {number}, {body[1:]}'.encode(), self._give_up
                )
            except Refused as error:
                warn(f"{self.courier.name} refuses event {number}: {error}")
                self.spool.refuse(number)
            except Exception as error:  # Undelivered, or an unforeseen error, which must not end the thread
                if wait_s == retry.first_s:
                    why = error if isinstance(error, Undelivered) else repr(error)
                    warn(f"{self.courier.name}: {why}; events wait on disk and are sent when it answers")
                if self._ending.wait(wait_s):
                    return
                wait_s = min(2 * wait_s, retry.longest_s)
                continue
            else:
                self.spool.remove(number)
            if wait_s > retry.first_s:
                log.print(f"{self.courier.name} answers again; events left to send: {len(self.spool)}")
            wait_s = retry.first_s
