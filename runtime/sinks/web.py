"""A small HTTP server: the page, live pictures, state and metrics of a run."""

from __future__ import annotations

import hmac
import http.server
import ipaddress
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sdi.runtime.common.console import warn
from sdi.runtime.sinks.board import Board
from sdi.runtime.sinks.metrics import Metrics
from sdi.runtime.sinks.view import WHOLE, View

__all__ = ["Limits", "WebServer", "is_loopback"]

_STREAM_PAUSE_S = 0.1  # between two live pictures: 10 a second, whatever the camera does
_COOKIE = "sdi_token"
_COOKIE_S = 30 * 24 * 3600
_FILES = {"/": "page.html", "/page.js": "page.js"}
_OPEN_FILES = {"/login": "login.html", "/page.css": "page.css", "/icon.svg": "icon.svg"}  # without a token too
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"  # nothing from elsewhere


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Limits:
    """What readers may ask of the server."""

    connections: int = 32  # at a time; one more is answered 503
    streams: int = 8  # of them with live pictures
    timeout_s: float = 10.0  # for one read or write; slower readers are disconnected


class WebServer(http.server.ThreadingHTTPServer):
    """A thread for each of a bounded number of connections; every read and write has a timeout.

    Args:
        address: host and port; port 0 takes any free one.
        token: the secret that readers must give, in a cookie (from the form at /login) or as a bearer token. None: no
            secret is needed, and requests under foreign host names are refused.
    """

    daemon_threads = True
    block_on_close = False  # a reader that hangs must not hold up the end of a run
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        board: Board,
        metrics: Metrics | None,
        token: str | None,
        limits: Limits = Limits(),
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.board = board
        self.metrics = metrics
        self.token = token
        self.limits = limits
        self.streams = threading.BoundedSemaphore(limits.streams)
        self._connections = threading.BoundedSemaphore(limits.connections)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._connections.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread could be started
                self._connections.release()
                raise
            return
        with suppress(OSError):
            request.setblocking(False)
            request.send(b"HTTP/1.1 503 Too many readers\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log our own faults; ignore readers that disconnect in the middle."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            warn(f"a request to the page failed: {error!r}")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "sdi-run", ""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.limits.timeout_s)

    def do_GET(self) -> None:
        self._route(self._get)

    def do_POST(self) -> None:
        self._route(self._post)

    def _route(self, answer: Callable[[str, dict[str, list[str]]], None]) -> None:
        try:
            if self.server.board.closed:  # a connection that was kept alive outlives the run
                self.close_connection = True
                self._refuse(503, "the run has ended")
                return
            parts = urlsplit(self.path)
            answer(parts.path, parse_qs(parts.query))
        except OSError:  # gone, or slower than the timeout
            self.close_connection = True
        except ValueError as error:  # no address, no host name
            self._refuse(400, f"that is no request: {error}")

    def _get(self, path: str, query: dict[str, list[str]]) -> None:
        if not self._host_is_ours():
            self._refuse(403, "this page is served to this machine alone; see --token")
        elif path in _OPEN_FILES:
            self._send_file(_OPEN_FILES[path])
        elif not self._knows_token():
            self._ask_for_token(path)
        elif path in _FILES:
            self._send_file(_FILES[path])
        elif path == "/state.json":
            self._send("application/json", json.dumps(self.server.board.snapshot()).encode())
        elif path == "/live.mjpg":
            self._stream(query)
        elif path.startswith("/alarms/"):
            self._send_thumbnail(path.removeprefix("/alarms/").removesuffix(".jpg"))
        elif path == "/metrics" and self.server.metrics is not None:
            self._send(*self.server.metrics.render())
        elif path == "/metrics":
            self._refuse(501, "prometheus_client is not installed: pip install 'sdi[line]'")
        else:
            self._refuse(404, "there is nothing here")

    def _post(self, path: str, query: dict[str, list[str]]) -> None:
        """Log in: a browser keeps the token as a cookie."""
        length = self.headers.get("Content-Length", "")
        if path != "/login" or not length.isdecimal() or int(length) > 1000:
            self.close_connection = True  # its body stays unread
            self._refuse(404, "there is nothing here")
            return
        form = parse_qs(self.rfile.read(int(length)).decode(errors="replace"))
        given = form.get("token", [""])[0].strip()
        if not self._host_is_ours() or not self._is_token(given):
            self._send_file("login.html", 401)
            return
        cookie = f"{_COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/; Max-Age={_COOKIE_S}"
        self._send("text/plain", b"", 303, {"Set-Cookie": cookie, "Location": "/"})

    def _host_is_ours(self) -> bool:
        """Without a token, a page elsewhere could make a browser here read ours under a name of its own."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        return self.server.token is not None or is_loopback(host)

    def _knows_token(self) -> bool:
        if self.server.token is None:
            return True
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(given.strip())
        cookies: SimpleCookie = SimpleCookie()
        with suppress(CookieError):
            cookies.load(self.headers.get("Cookie", ""))
        return _COOKIE in cookies and self._is_token(cookies[_COOKIE].value)

    def _is_token(self, given: str) -> bool:
        token = self.server.token or ""
        return hmac.compare_digest(given.encode(errors="replace"), token.encode())  # in constant time

    def _ask_for_token(self, path: str) -> None:
        if path == "/":
            self._send("text/plain", b"", 303, {"Location": "/login"})
        else:
            self._send("text/plain", b"the token is missing or wrong\n", 401, {"WWW-Authenticate": "Bearer"})

    def _stream(self, query: dict[str, list[str]]) -> None:
        board = self.server.board
        names = board.names()
        source = query.get("source", names[:1])[0]
        view = View.parse(query["view"][0]) if "view" in query else WHOLE
        if source not in names:
            self._refuse(404, "there is no such source")
        elif not self.server.streams.acquire(blocking=False):
            self._refuse(503, "too many readers of live pictures")
        else:
            try:
                self._send_pictures(board, source, view)
            finally:
                self.server.streams.release()

    def _send_pictures(self, board: Board, source: str, view: View) -> None:
        self.send_response(200)
        self._send_headers({"Content-Type": "multipart/x-mixed-replace; boundary=picture", "Connection": "close"})
        # Browsers show a picture when the part after it begins: so its head goes out at once.
        head = b"\r\n--picture\r\nContent-Type: image/jpeg\r\n\r\n"
        self.wfile.write(head)
        seen = 0
        while not board.closed and not self._is_gone():
            started = time.monotonic()
            newest = board.live(source, seen, self.server.limits.timeout_s, view)
            if newest is None:
                continue
            seen, jpeg = newest
            self.wfile.write(jpeg + head)
            time.sleep(max(0.0, _STREAM_PAUSE_S - (time.monotonic() - started)))

    def _is_gone(self) -> bool:
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(self.server.limits.timeout_s)

    def _send_thumbnail(self, number: str) -> None:
        jpeg = self.server.board.thumbnail(int(number)) if number.isascii() and number.isdigit() else None
        if jpeg is None:
            self._refuse(404, "that alarm is no longer among the last")
        else:
            self._send("image/jpeg", jpeg)

    def _send_file(self, name: str, status: int = 200) -> None:
        data = (files("sdi.runtime.sinks") / "static" / name).read_bytes()
        self._send(_TYPES[name.rpartition(".")[2]], data, status)

    def _refuse(self, status: int, why: str) -> None:
        self._send("text/plain; charset=utf-8", f"{why}\n".encode(), status)

    def _send(self, kind: str, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self._send_headers({"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def _send_headers(self, headers: dict[str, str]) -> None:
        safety = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in {**safety, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads a log of every picture."""
