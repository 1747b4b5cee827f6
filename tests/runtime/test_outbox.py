"""Events by webhook and MQTT, against real servers on this machine: none lost, in order, whatever goes down."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.frame import Event, Skipped
from sdi.runtime.sinks.outbox import Courier, Outbox, Retry, Undelivered
from sdi.runtime.sinks.spool import Spool
from sdi.runtime.sinks.webhook import WebhookCourier

WAIT_S = 30.0
SOON = Retry(first_s=0.01, longest_s=0.1)
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
Answer = Callable[[http.server.BaseHTTPRequestHandler, dict[str, Any]], int]


class Receiver:
    """A web service that answers as it is told: by default 200 to everything. `arrived` holds what it accepted."""

    def __init__(self, port: int = 0, answer: Answer = lambda handler, body: 200) -> None:
        self.arrived: queue.Queue[dict[str, Any]] = queue.Queue()
        self.asked: queue.Queue[dict[str, Any]] = queue.Queue()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.headers, owner.path = self.headers, self.path
                owner.asked.put(body)
                status = answer(self, body)
                if status == 200:
                    owner.arrived.put(body)
                with suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    if status == 302:
                        self.send_header("Location", "/elsewhere")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hooks/strip?key=secret"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def take(self, count: int) -> list[dict[str, Any]]:
        return [self.arrived.get(timeout=WAIT_S) for _ in range(count)]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    started: list[Receiver] = []

    def start(*arguments: Any, **options: Any) -> Receiver:
        started.append(Receiver(*arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.close()


def _event(number: int) -> Event:
    return Event("alarm", "strip", f"number {number}", 1e9 + number, {"frame": number})


def _post(url: str, folder: Path, *numbers: int, timeout_s: float = 10.0) -> Outbox:
    box = Outbox(WebhookCourier(url, timeout_s), Spool(folder / "q"), "mill 3", SOON)
    for number in numbers:
        box.event(_event(number))
    return box


def _frames(bodies: list[dict[str, Any]]) -> list[int]:
    return [body["frame"] for body in bodies]


def test_a_webhook_gets_every_event_in_order_and_no_frame(
    receiver: Callable[..., Receiver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDI_WEBHOOK_TOKEN", "letmein")
    service = receiver()
    with _post(service.url, tmp_path, *range(20)) as box:
        box.event(Event("frame_stale", "strip", "old", 0.0))  # may come with every frame: not sent
        box.note(Skipped("bad", "strip", "truncated", 1e9))
        bodies = service.take(21)
    assert bodies[0] == {
        "seq": 1, "event": "alarm", "source": "strip", "time": "2001-09-09T01:46:40.000+00:00", "text": "number 0",
        "frame": 0, "station": "mill 3",
    }  # fmt: skip
    assert [body["seq"] for body in bodies] == list(range(1, 22))
    assert _frames(bodies[:20]) == list(range(20))
    assert (bodies[20]["event"], bodies[20]["reason"]) == ("skipped", "truncated")
    assert service.path == "/hooks/strip?key=secret"
    assert service.headers["Authorization"] == "Bearer letmein"
    assert service.headers["Content-Type"] == "application/json"
    assert "secret" not in box.courier.name
    assert service.arrived.empty()


def test_a_webhook_that_is_down_loses_nothing(
    receiver: Callable[..., Receiver], closed_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = threading.Event()

    class Telling(WebhookCourier):
        def deliver(self, *arguments: Any) -> None:
            try:
                super().deliver(*arguments)
            except Undelivered:
                told.set()
                raise

    box = Outbox(Telling(f"http://127.0.0.1:{closed_port}/"), Spool(tmp_path / "q"), "mill 3", SOON)
    for number in range(5):
        box.event(_event(number))
    assert told.wait(WAIT_S)
    service = receiver(closed_port)
    assert _frames(service.take(5)) == list(range(5))
    box.close(complete=True)
    err = capsys.readouterr().err
    assert err.count("cannot be reached (") == 1  # once an outage
    assert "answers again" in err


@pytest.mark.parametrize("status", [500, 503, 404, 401, 429, 302])
def test_a_webhook_that_answers_with_an_error_is_asked_again(
    status: int, receiver: Callable[..., Receiver], tmp_path: Path
) -> None:
    """A wrong address or login may be mended meanwhile, and a redirect would lose the body: all are tried again."""
    answers = iter([200, status, status, 200, 200])
    service = receiver(answer=lambda handler, body: next(answers))
    with _post(service.url, tmp_path, 0, 1, 2):
        assert _frames(service.take(3)) == [0, 1, 2]
    assert _frames([service.asked.get() for _ in range(5)]) == [0, 1, 1, 1, 2]
    assert service.path.startswith("/hooks")


def test_an_event_that_can_never_be_taken_does_not_hold_up_the_rest(
    receiver: Callable[..., Receiver], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = receiver(answer=lambda handler, body: 422 if body["frame"] == 1 else 200)
    with _post(service.url, tmp_path, 0, 1, 2) as box:
        assert _frames(service.take(2)) == [0, 2]
    assert box.spool.lost == 1
    assert "refuses event 2: it answered 422" in capsys.readouterr().err


def test_a_webhook_that_hangs_holds_up_nobody(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    hung, go_on = threading.Event(), threading.Event()

    def hang(handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> int:
        if not hung.is_set():
            hung.set()
            go_on.wait(WAIT_S)
            return 500
        return 200

    service = receiver(answer=hang)
    box = _post(service.url, tmp_path, 0, timeout_s=0.2)
    assert hung.wait(WAIT_S)
    for number in range(1, 50):
        box.event(_event(number))  # returns though the receiver hangs
    assert _frames(service.take(50)) == list(range(50))
    go_on.set()
    box.close(complete=True)


def test_an_outage_longer_than_the_run_is_made_good_by_the_next(
    receiver: Callable[..., Receiver], closed_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{closed_port}/"
    _post(url, tmp_path, 0, 1, 2).close(complete=True)
    assert "events that wait for the next run: 3" in capsys.readouterr().err
    service = receiver(closed_port)
    with _post(url, tmp_path, 3):
        bodies = service.take(4)
    assert _frames(bodies) == [0, 1, 2, 3]
    assert [body["seq"] for body in bodies] == [1, 2, 3, 4]
    assert "events of an earlier run that are sent now: 3" in capsys.readouterr().err


def test_sdi_run_tells_a_webhook_what_it_could_not_tell_before(
    sdi_run: Callable[..., tuple[int, str, str]],
    make_engine: Callable[..., Path],
    make_video: Callable[..., Path],
    receiver: Callable[..., Receiver],
    closed_port: int,
    tmp_path: Path,
) -> None:
    options = ("--engine", make_engine(), "--source", make_video(frames=50), "--webhook", f"http://127.0.0.1:{closed_port}/x",
               "--queue", tmp_path / "queue", "--station", "mill 3", "--jsonl", tmp_path / "r.jsonl")  # fmt: skip
    code, _, err = sdi_run(*options)
    assert code == 0
    assert "cannot be reached" in err
    waiting = [line for line in map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines()) if "event" in line]
    assert [record["event"] for record in waiting] == ["started", "alarm", "stopped"]
    assert waiting[-1]["reason"] == "end of the source"
    service = receiver(closed_port)
    assert sdi_run(*options)[0] == 0
    bodies = service.take(2 * len(waiting))
    assert [body["seq"] for body in bodies] == list(range(1, 2 * len(waiting) + 1))
    for body, record in zip(bodies, waiting, strict=False):
        assert body == {"seq": body["seq"], **record, "station": "mill 3"}


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ftp://x/y", "is no URL of a web service"),
        ("http:///y", "is no URL of a web service"),
        ("http://x:port/", "is no URL"),
        ("http://[::1/", "is no URL"),
        ("http://x/Bänder", "holds letters that no URL may"),
        ("http://x/a b", "holds letters that no URL may"),
        ("https://me:secret@x/", "takes no login in its URL; put a token in the environment"),
    ],
)
def test_webhooks_that_cannot_be(url: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        WebhookCourier(url)
    assert "me:secret" not in str(error.value)


class Broker:
    """Mosquitto, started and stopped at will on one port, with a subscriber whose session outlives both."""

    def __init__(self, folder: Path, port: int) -> None:
        import paho.mqtt.client as paho

        self.port = port
        self.arrived: queue.Queue[tuple[str, bytes, bool]] = queue.Queue()
        self._seen: set[int] = set()
        self._process: subprocess.Popen[str] | None = None
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nuser root\n"
        )
        self._subscriber = paho.Client(paho.CallbackAPIVersion.VERSION2, "test", clean_session=False)
        self._subscriber.reconnect_delay_set(1, 1)
        subscribed = threading.Event()
        self._subscriber.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._subscriber.on_subscribe = lambda *_: subscribed.set()
        self._subscriber.on_message = lambda client, data, message: self.arrived.put(
            (message.topic, message.payload, message.retain)
        )
        self.start()
        self._subscriber.connect("127.0.0.1", port)
        self._subscriber.loop_start()
        assert subscribed.wait(WAIT_S)

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-v", "-c", str(self._settings)], stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "running" in line:
                threading.Thread(target=self._process.stderr.read, daemon=True).start()
                return
        raise AssertionError("mosquitto did not start")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(WAIT_S)

    def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        """The next events, without the status, and without what comes again: an acknowledgement may get lost."""
        taken: list[tuple[str, dict[str, Any]]] = []
        while len(taken) < count:
            topic, payload, _ = self.arrived.get(timeout=WAIT_S)
            if "/event/" in topic and (number := json.loads(payload)["seq"]) not in self._seen:
                self._seen.add(number)
                taken.append((topic, json.loads(payload)))
        return taken

    def status(self, wanted: bytes) -> tuple[str, bytes, bool]:
        """Wait for a status; what else comes is left out."""
        while True:
            message = self.arrived.get(timeout=WAIT_S)
            if message[0].endswith("/status") and message[1] == wanted:
                return message

    def close(self) -> None:
        self._subscriber.disconnect()
        self._subscriber.loop_stop()
        self.stop()


@pytest.fixture
def broker(tmp_path: Path, closed_port: int) -> Iterator[Broker]:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'sdi[line]'")
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    started = Broker(tmp_path, closed_port)
    yield started
    started.close()


def _mqtt(broker: Broker, folder: Path, prefix: str = "/strip") -> Outbox:
    from sdi.runtime.sinks.mqtt import MqttCourier

    courier = MqttCourier(f"mqtt://127.0.0.1:{broker.port}{prefix}", "mill3", answer_s=0.6, reconnect_s=1)
    return Outbox(courier, Spool(folder / "q"), "mill3", SOON)


def test_a_broker_gets_every_event_under_its_topic_and_the_status(broker: Broker, tmp_path: Path) -> None:
    with _mqtt(broker, tmp_path, prefix="") as box:
        for number in range(10):
            box.event(_event(number))
        box.event(Event("source_lost", "strip", "lost", 0.0, {"frame": 10}))
        taken = broker.take(11)
    assert [topic for topic, _ in taken] == ["sdi/mill3/event/alarm"] * 10 + ["sdi/mill3/event/source_lost"]
    assert _frames([body for _, body in taken]) == list(range(11))
    assert [body["seq"] for _, body in taken] == list(range(1, 12))
    assert broker.status(b"offline")[0] == "sdi/mill3/status"


def test_a_broker_that_is_down_at_the_start_and_goes_down_again_loses_nothing(broker: Broker, tmp_path: Path) -> None:
    broker.stop()
    box = _mqtt(broker, tmp_path)
    for number in range(5):
        box.event(_event(number))
    broker.start()
    assert _frames([body for _, body in broker.take(5)]) == list(range(5))
    broker.stop()
    for number in range(5, 10):
        box.event(_event(number))
    broker.start()
    bodies = [body for _, body in broker.take(5)]
    assert _frames(bodies) == list(range(5, 10))
    box.close(complete=True)
    assert len(Spool(tmp_path / "q")) == 0


def test_a_broker_that_does_not_come_back_leaves_the_events_to_the_next_run(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.stop()
    box = _mqtt(broker, tmp_path)
    box.event(_event(0))
    box.event(_event(1))
    started = time.monotonic()
    box.close(complete=True)
    assert time.monotonic() - started < WAIT_S
    assert "events that wait for the next run: 2" in capsys.readouterr().err
    broker.start()
    with _mqtt(broker, tmp_path) as box:
        box.event(_event(2))
        assert _frames([body for _, body in broker.take(3)]) == [0, 1, 2]


def test_the_broker_says_offline_for_a_run_that_was_killed(
    broker: Broker, sdi_run_process: Callable[..., Any], make_engine: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "watched").mkdir()
    process = sdi_run_process("--engine", make_engine(), "--watch", tmp_path / "watched", "--queue", tmp_path / "queue",
                              "--mqtt", f"mqtt://127.0.0.1:{broker.port}/killed")  # fmt: skip
    ((topic, body),) = broker.take(1)
    assert (topic, body["event"], body["sources"]) == ("killed/event/started", "started", [f"watch:{tmp_path}/watched"])
    process.kill()
    assert broker.status(b"offline")[0] == "killed/status"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("tcp://x", "is no address of a broker"),
        ("mqtt://", "is no address of a broker"),
        ("mqtt://x:0x/", "no such address can be"),
        ("mqtt://" + "x" * 70, "no such address can be"),
        ("mqtt://x/strip/#", r"holds none of \+ # \?"),
        ("mqtt://x/a/+/b", r"holds none of \+ # \?"),
    ],
)
def test_brokers_that_cannot_be(url: str, text: str) -> None:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'sdi[line]'")
    from sdi.runtime.sinks.mqtt import MqttCourier

    with pytest.raises(InputError, match=text):
        MqttCourier(url, "mill3")


def test_a_courier_that_fails_as_nobody_thought_of_is_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: queue.Queue[bytes] = queue.Queue()

    class Odd(Courier):
        kind = name = "odd"
        answers = iter((ValueError("odd"), None))

        def deliver(self, kind: str, body: bytes, give_up: threading.Event) -> None:
            if (error := next(self.answers)) is not None:
                raise error
            taken.put(body)

    with Outbox(Odd(), Spool(tmp_path / "q"), "mill 3", SOON) as box:
        box.event(_event(0))
        assert json.loads(taken.get(timeout=WAIT_S))["seq"] == 1
    assert "odd: ValueError('odd')" in capsys.readouterr().err


def test_a_courier_that_hangs_for_ever_does_not_hang_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go = threading.Event()

    class Hanging(Courier):
        kind = name = "hanging"

        def deliver(self, kind: str, body: bytes, give_up: threading.Event) -> None:
            let_go.wait(WAIT_S)

    box = Outbox(Hanging(), Spool(tmp_path / "q"), "mill 3", Retry(patience_s=0.2))
    box.event(_event(0))
    box.close(complete=True)
    assert "hanging: events that wait for the next run: 1" in capsys.readouterr().err
    let_go.set()
