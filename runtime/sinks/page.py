"""The browser page and Prometheus' metrics."""

from __future__ import annotations

import threading

from sdi.runtime.common.errors import InputError
from sdi.runtime.frame import Event, Result, Skipped
from sdi.runtime.sinks.base import Sink
from sdi.runtime.sinks.board import Board
from sdi.runtime.sinks.metrics import Metrics
from sdi.runtime.sinks.web import Limits, WebServer, is_loopback

__all__ = ["PageSink", "parse_address"]

_TOKEN_LETTERS = 16


class PageSink(Sink):
    """Serves the page, live pictures, its state and metrics during the run. The loop never waits for a reader.

    Args:
        address: host and port; port 0 takes any free one.
        token: the secret that readers must give; None: only this machine may read.
        metrics: None where prometheus_client is not installed.
    Attributes:
        url: where the page is.
    Raises:
        InputError: the address is taken or not this machine's, or others could read without a token.
    """

    def __init__(
        self,
        board: Board,
        metrics: Metrics | None,
        address: tuple[str, int],
        token: str | None,
        limits: Limits | None = None,
    ) -> None:
        if token is None and not is_loopback(address[0]):
            raise InputError(
                f"--http {address[0]}:{address[1]} lets others read: pass --token, or SDI_TOKEN in the environment, of "
                f"{_TOKEN_LETTERS} letters or more, e.g. from: openssl rand -hex 16"
            )
        if token is not None and (len(token) < _TOKEN_LETTERS or not token.isascii() or not token.isalnum()):
            raise InputError(
                f"--token must be {_TOKEN_LETTERS} letters and digits or more, e.g. from: openssl rand -hex 16"
            )
        self.board = board
        self.metrics = metrics
        try:
            self._server = WebServer(address, board, metrics, token, limits or Limits())
        except (OSError, OverflowError, UnicodeError) as error:
            raise InputError(f"--http cannot listen on {address[0]}:{address[1]} ({error}); choose another") from error
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{host}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="page", daemon=True
        )
        self._thread.start()

    def write(self, result: Result) -> None:
        self.board.write(result)
        if self.metrics is not None:
            self.metrics.write(result)

    def note(self, skipped: Skipped) -> None:
        if self.metrics is not None:
            self.metrics.note(skipped)

    def event(self, event: Event) -> None:
        self.board.event(event)
        if self.metrics is not None:
            self.metrics.event(event)

    def close(self, *, complete: bool) -> None:
        self.board.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def parse_address(text: str) -> tuple[str, int]:
    """Read HOST:PORT, [IPV6]:PORT, or PORT alone, which means 127.0.0.1.

    Raises:
        InputError: it is none of them.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise InputError(f"--http '{text}' is no address; expected HOST:PORT, e.g. 127.0.0.1:8080")
    return host.strip("[]") or "127.0.0.1", int(port)
