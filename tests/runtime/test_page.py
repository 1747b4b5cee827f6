"""The page over HTTP as a browser reads it, and in a real browser where there is one."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.frame import Event, Frame, Result, Skipped
from sdi.runtime.inspection.defects import DefectRule, find_regions
from sdi.runtime.run.outputs import Outputs
from sdi.runtime.sinks.board import Board
from sdi.runtime.sinks.metrics import Metrics
from sdi.runtime.sinks.page import PageSink, parse_address
from sdi.runtime.sinks.web import Limits
from sdi.runtime.sources.base import Source

WAIT_S = 30.0
TOKEN = "0123456789abcdef"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
Start = Callable[..., PageSink]


def _result(index: int, source: str = "strip", side: int = 160, drops: int = 0) -> Result:
    """A bright square on gray; odd frames have it."""
    image = np.full((side, side, 3), 90, np.uint8)
    saliency = np.zeros((side, side), np.uint8)
    if index % 2:
        image[40:80, 40:80] = 230
        saliency[40:80, 40:80] = 255
    frame = Frame(index, f"f{index}", source, image, time.monotonic(), time.time())
    return Result(frame, saliency, find_regions(saliency), 5.0, 8.0 + index, drops, bool(index % 2))


def _alarm(result: Result) -> Event:
    details = {"frame": result.frame.index, "name": result.frame.name}
    details |= {"defects": [region.to_dict() for region in result.regions]}
    return Event("alarm", result.frame.source, "1 defect <b>", result.frame.wall_time, details, result)


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(
            host: str = "127.0.0.1",
            token: str | None = None,
            sources: tuple[str, ...] = ("strip",),
            metrics: bool = True,
            limits: Limits | None = None,
        ) -> PageSink:
            counted = None
            if metrics:
                pytest.importorskip("prometheus_client", reason="prometheus_client: pip install 'sdi[line]'")
                counted = Metrics(sources)
            board = Board(sources, DefectRule(), "mill 3")
            return stack.enter_context(PageSink(board, counted, (host, 0), token, limits))

        yield begin


def _connect(page: PageSink) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", urlsplit(page.url).port or 0, timeout=WAIT_S)


def _get(page: PageSink, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = _connect(page)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def _picture(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


class Stream:
    """A reader of live pictures."""

    def __init__(self, page: PageSink, query: str = "") -> None:
        self.connection = _connect(page)
        self.connection.request("GET", f"/live.mjpg{query}")
        self.answer = self.connection.getresponse()
        if self.answer.status == 200:
            assert self._part() == b""

    def next(self) -> np.ndarray:
        return _picture(self._part())

    def _part(self) -> bytes:
        """What comes before the head of the next part."""
        data = b""
        while not data.endswith(b"\r\n--picture\r\nContent-Type: image/jpeg\r\n\r\n"):
            line = self.answer.readline()
            assert line, "the stream has ended"
            data += line
        return data.rpartition(b"\r\n--picture")[0]


def test_figures_alarms_and_thumbnails(start: Start) -> None:
    page = start()
    for index in range(10):
        page.write(_result(index, drops=2))
    page.event(_alarm(_result(9)))
    page.event(Event("source_lost", "strip", "strip was lost", 0.0))
    status, headers, body = _get(page, "/state.json")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    state = json.loads(body)
    (source,) = state["sources"]
    assert (source["frames"], source["with_defects"], source["drops"], source["state"]) == (10, 5, 2, "lost")
    assert source["age_ms"] == {"p50": 12.5, "p95": 16.5}
    assert source["engine_ms"] == {"p50": 5.0, "p95": 5.0}
    assert source["fps"] > 0
    assert max(area for _, area, _ in source["areas"]) == 1600
    (alarm,) = state["alarms"]
    assert (alarm["id"], alarm["text"], alarm["source"]) == (1, "1 defect <b>", "strip")
    status, headers, body = _get(page, f"/alarms/{alarm['id']}.jpg")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    thumbnail = _picture(body)
    assert thumbnail.shape == (160, 160, 3)
    blue, _, red = thumbnail[60, 60].astype(int)
    assert red > blue + 40  # marked
    assert np.ptp(thumbnail[120, 120].astype(int)) < 10  # the rest is as it was
    page.write(_result(10))
    assert json.loads(_get(page, "/state.json")[2])["sources"][0]["state"] == "ok"


def test_old_alarms_go_and_large_pictures_shrink(start: Start) -> None:
    page = start()
    for _ in range(30):
        page.event(_alarm(_result(1, side=700)))
    state = json.loads(_get(page, "/state.json")[2])
    assert state["alarm_count"] == 30
    assert [alarm["id"] for alarm in state["alarms"]] == list(range(30, 18, -1))
    assert _picture(_get(page, "/alarms/30.jpg")[2]).shape == (320, 320, 3)
    for path in ("/alarms/6.jpg", "/alarms/x.jpg", "/alarms/²"[:8] + "%C2%B2", "/alarms/"):
        assert _get(page, path)[0] == 404


def test_live_pictures_are_the_newest_marked(start: Start) -> None:
    page = start(sources=("left", "the right & all"))
    page.write(_result(1, "the right & all"))
    stream = Stream(page, "?source=the+right+%26+all")
    assert stream.answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=picture"
    marked = stream.next()
    assert int(marked[60, 60, 2]) > int(marked[60, 60, 0]) + 40
    page.write(_result(2, "the right & all"))
    clean = stream.next()
    assert np.ptp(clean[60, 60].astype(int)) < 10
    assert Stream(page, "?source=nowhere").answer.status == 404


def test_a_reader_that_reads_nothing_holds_up_neither_the_loop_nor_the_end(start: Start) -> None:
    page = start()
    lazy = socket.create_connection(("127.0.0.1", urlsplit(page.url).port or 0))
    lazy.sendall(b"GET /live.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (900, 900, 3), dtype=np.uint8)  # more than any buffer holds
    for index in range(200):
        frame = Frame(index, f"f{index}", "strip", noise, 0.0, 0.0)
        page.write(Result(frame, np.zeros((900, 900), np.uint8), [], 1.0, 1.0, 0))
    assert lazy.recv(100).startswith(b"HTTP/1.1 200")  # it did get the beginning
    assert json.loads(_get(page, "/state.json")[2])["sources"][0]["frames"] == 200


def test_readers_are_bounded(start: Start) -> None:
    page = start()
    page.write(_result(1))
    streams = [Stream(page) for _ in range(Limits().streams)]
    assert Stream(page).answer.status == 503
    assert _get(page, "/state.json")[0] == 200
    idle = [socket.create_connection(("127.0.0.1", urlsplit(page.url).port or 0)) for _ in range(Limits().connections)]
    assert idle[-1].recv(100).startswith(b"HTTP/1.1 503 ")
    for one in (*idle, *(stream.connection for stream in streams)):
        one.close()


def test_a_reader_that_left_gives_its_place_back_though_no_picture_comes(start: Start) -> None:
    page = start(limits=Limits(streams=1, timeout_s=0.1))
    stream = Stream(page)
    assert Stream(page).answer.status == 503
    stream.answer.close()
    stream.connection.close()
    deadline = time.monotonic() + WAIT_S
    while (status := Stream(page).answer.status) == 503:
        assert time.monotonic() < deadline, "its place was never given back"
    assert status == 200


def test_metrics(start: Start) -> None:
    page = start()
    for index in range(5):
        page.write(_result(index, drops=index))
    page.note(Skipped("bad", "strip", "truncated", 0.0))
    page.event(_alarm(_result(1)))
    page.event(Event("source_lost", "strip", "lost", 0.0))
    status, headers, body = _get(page, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    samples = {
        (sample.name, sample.labels.get("kind") or sample.labels.get("le")): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["sdi_frames_total", None] == 5
    assert samples["sdi_frames_with_defects_total", None] == 2
    assert samples["sdi_frames_dropped_total", None] == 4
    assert samples["sdi_skipped_total", None] == 1
    assert samples["sdi_alarm", None] == 0
    assert samples["sdi_source_up", None] == 0
    assert samples["sdi_events_total", "alarm"] == 1
    assert samples["sdi_engine_seconds_count", None] == 5
    assert samples["sdi_engine_seconds_sum", None] == pytest.approx(0.025)
    assert samples["sdi_age_seconds_bucket", "0.01"] == 3  # 8, 9 and 10 ms
    assert ("process_resident_memory_bytes", None) in samples


def test_metrics_tell_what_waits_and_what_was_lost(closed_port: int, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="prometheus_client: pip install 'sdi[line]'")
    outputs = Outputs(
        webhook=f"http://127.0.0.1:{closed_port}/",
        queue=tmp_path / "q",
        keep_defects=tmp_path / "e",
        http="127.0.0.1:0",
    )

    class Named(Source):
        name, live = "strip", True

        def frames(self) -> Any:
            return iter(())

    with ExitStack() as stack:
        *_, page = sinks = outputs.open(stack, [Named()], DefectRule())
        assert isinstance(page, PageSink)
        for sink in sinks:
            sink.event(Event("started", "", "", 0.0))
        text = _get(page, "/metrics")[2].decode()
        assert "\nsdi_webhook_waiting 1.0\n" in text
        assert "\nsdi_webhook_lost 0.0\n" in text
        assert "\nsdi_evidence_lost 0.0\n" in text


def test_without_the_library_the_page_is_there_and_metrics_say_what_to_install(start: Start) -> None:
    page = start(metrics=False)
    assert _get(page, "/")[0] == 200
    status, _, body = _get(page, "/metrics")
    assert (status, body) == (501, b"prometheus_client is not installed: pip install 'sdi[line]'\n")


PATHS = ("/", "/state.json", "/live.mjpg", "/alarms/1.jpg", "/metrics", "/page.js", "/nothing")


def test_with_a_token_nothing_is_told_without_it(start: Start) -> None:
    page = start(token=TOKEN)
    page.write(_result(1))
    page.event(_alarm(_result(1)))
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer é"},
        {"Cookie": "sdi_token=x"},
        {"Cookie": "sdi_token="},
        {"Cookie": ";;=;"},
    )
    for headers in wrong:
        for path in PATHS:
            status, answered, body = _get(page, path, **headers)
            assert (status, answered.get("Location")) in ((401, None), (303, "/login"))
            assert b"strip" not in body
    for headers in ({"Authorization": f"Bearer {TOKEN}"}, {"Cookie": f"other=1; sdi_token={TOKEN}"}):
        assert _get(page, "/state.json", **headers)[0] == 200
        assert _get(page, "/nothing", **headers)[0] == 404


def test_logging_in_by_the_form(start: Start) -> None:
    page = start(token=TOKEN)
    assert b'action="/login"' in _get(page, "/login")[2]

    def log_in(body: str, **headers: str) -> http.client.HTTPResponse:
        connection = _connect(page)
        connection.request("POST", "/login", body, {"Content-Type": "application/x-www-form-urlencoded", **headers})
        return connection.getresponse()

    assert log_in("token=wrong").status == 401
    assert log_in("").status == 401
    assert log_in("token=" + "x" * 2000).status == 404
    answer = log_in(f"token={TOKEN}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert _get(page, "/", Cookie=cookie.partition(";")[0])[0] == 200


def test_a_page_elsewhere_cannot_read_ours_under_its_own_name(start: Start) -> None:
    """Its name may lead to this machine: the browser would take us for that page."""
    page = start()
    for host, status in (("evil.example", 403), ("evil.example:80", 403), ("localhost:8080", 200), ("[::1]:1", 200)):
        assert _get(page, "/state.json", Host=host)[0] == status


def test_answers_are_safe_and_nothing_comes_from_elsewhere(start: Start) -> None:
    page = start()
    for path in ("/", "/page.css", "/page.js", "/icon.svg", "/login"):
        status, headers, body = _get(page, path)
        assert status == 200
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", body)


@pytest.mark.parametrize(
    "request_",
    [b"", b"\r\n\r\n", b"GARBAGE\x00\xff\r\n\r\n", b"GET /%zz?source=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
     b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: [\r\n\r\n",
     b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
     b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n"],
)  # fmt: skip
def test_garbage_harms_nobody(request_: bytes, start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    page = start()
    with socket.create_connection(("127.0.0.1", urlsplit(page.url).port or 0), timeout=WAIT_S) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100)
    assert not answer or re.match(rb"HTTP/1\.1 [1345]\d\d |<!DOCTYPE", answer)
    assert _get(page, "/state.json")[0] == 200
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "failed" not in err


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("8080", ("127.0.0.1", 8080)), (":8080", ("127.0.0.1", 8080)),
     ("[::1]:80", ("::1", 80)), ("mill-3:80", ("mill-3", 80))],
)  # fmt: skip
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:-1", ":²"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="is no address; expected HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_others_are_served_only_with_a_token(host: str, start: Start) -> None:
    with pytest.raises(InputError, match=r"lets others read: pass --token, .*openssl rand -hex 16"):
        start(host)
    with pytest.raises(InputError, match="must be 16 letters and digits or more"):
        start(host, token="short")


def test_an_address_that_is_taken(start: Start) -> None:
    port = urlsplit(start().url).port
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port} .*in use"):
        PageSink(Board(["strip"], DefectRule(), ""), None, ("127.0.0.1", port or 0), None)


class Browser:
    """A real Chromium, told what to do through a pair of pipes (DevTools protocol, messages end with a null byte)."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}")
        # It reads from descriptor 3 and writes to 4.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", CHROMIUM, *options, "--remote-debugging-pipe"],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._messages = os.fdopen(self._in, "rb")
        self._number = 0
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    _session = ""

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        answer = self.send(method, **parameters)
        assert "error" not in answer, answer
        return answer["result"]

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            data = b"".join(iter(lambda: self._messages.read(1), b"\0"))  # events in between are of no interest
            answer: dict[str, Any] = json.loads(data)
            if answer.get("id") == self._number:
                return answer

    def wait_for(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        script = (
            "new Promise((done, failed) => { const began = Date.now(); const look = () => {"
            f" if ({condition}) done(true); else if (Date.now() - began > {WAIT_S * 1e3}) failed('never');"
            " else setTimeout(look, 30); }; look(); })"
        )
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "navigated" in answer.get("error", {}).get("message", ""):  # the next page is the one to ask
            self.wait_for(condition)
        else:
            assert answer["result"]["result"]["value"] is True, (condition, self.text("document.body.innerText"))

    def text(self, expression: str) -> str:
        return self.do("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._messages.close()
        os.close(self._out)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    started = Browser(tmp_path / "profile")
    yield started
    started.close()


def test_a_real_browser_shows_it(start: Start, browser: Browser) -> None:
    page = start(sources=("strip <i>", "other"))
    for index in range(8):
        page.write(_result(index, "strip <i>"))
    page.event(_alarm(_result(7, "strip <i>")))
    browser.do("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    browser.do("Page.navigate", url=page.url)
    browser.wait_for("document.querySelector('#frames')?.textContent === '8'")
    browser.wait_for("document.querySelector('li img')?.naturalWidth === 160")
    browser.wait_for("document.querySelector('#live').naturalWidth === 160")
    for name, text in (("station", "mill 3"), ("state", "alarm"), ("age", "11.5 / 14.6 ms"), ("with-defects", "4")):
        assert browser.text(f"document.getElementById('{name}').textContent") == text
    assert browser.text("document.querySelector('li p').textContent") == "strip <i>: 1 defect <b>"  # text, no markup
    assert browser.text("document.querySelector('#plot .area').getAttribute('d')").startswith("M")
    assert browser.text("String(document.documentElement.scrollWidth)") == "390"  # nothing juts out on a phone
    page.write(_result(8, "strip <i>"))
    browser.wait_for("document.querySelector('#state').textContent === 'ok'")
    page.event(Event("source_lost", "strip <i>", "it was lost", 0.0))
    browser.wait_for("document.querySelector('#state').textContent === 'lost'")
    page.close(complete=True)
    browser.wait_for("!document.querySelector('#trouble').hidden")


def test_a_real_browser_logs_in(start: Start, browser: Browser) -> None:
    page = start(token=TOKEN)
    page.write(_result(1))
    browser.do("Page.navigate", url=page.url)
    browser.wait_for("document.querySelector('input[name=token]') !== null")
    browser.text(f"document.querySelector('input').value = '{TOKEN}'; document.querySelector('button').click(); ''")
    browser.wait_for("document.querySelector('#frames')?.textContent === '1'")
    browser.wait_for("document.querySelector('#live').naturalWidth === 160")
