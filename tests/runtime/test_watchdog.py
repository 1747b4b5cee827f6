"""Word to systemd: a real datagram socket in its place, real runs, and stages that hang on purpose."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import PlainEngine
from sdi.runtime.frame import Event, Frame, Result, Skipped
from sdi.runtime.inspection.inspector import Inspector
from sdi.runtime.pipeline.channel import Channel
from sdi.runtime.pipeline.heartbeat import Heartbeat
from sdi.runtime.pipeline.loop import Loop
from sdi.runtime.pipeline.watchdog import Watchdog, notify
from sdi.runtime.sinks.base import Sink
from sdi.runtime.sources.base import Source

WAIT_S = 30.0
SYSTEMD_ANALYZE = Path("/usr/bin/systemd-analyze")
UNIT = Path(__file__).resolve().parents[2] / "deploy" / "sdi.service"

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="systemd is a matter of Linux")


class Manager:
    """What systemd is to a service: a socket that hears. `until` waits for a line."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(WAIT_S)
        self.heard: list[str] = []

    def next(self) -> list[str]:
        lines = self._socket.recv(4096).decode().split("\n")
        self.heard += lines
        return lines

    def until(self, start: str) -> str:
        while True:
            for line in self.next():
                if line.startswith(start):
                    return line

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@sdi-test-{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def manager(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    manager = Manager(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    yield manager
    manager.close()


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))  # it went away
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1234")  # a manager outside a virtual machine
    assert not notify("READY=1")


def test_a_run_says_ready_alive_and_stopping(
    manager: Manager, sdi_run_process: Callable[..., subprocess.Popen[bytes]], make_engine: Any, tmp_path: Path
) -> None:
    """`sdi-run` over a folder in which no picture appears: that is no hang."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    process = sdi_run_process("--engine", make_engine(), "--watch", folder, "--jsonl", tmp_path / "line.jsonl")
    assert manager.next()[0] == "READY=1"
    assert (tmp_path / "line.jsonl").read_text().count('"started"') == 1  # ready is the run, not the process
    for _ in range(8):  # 0.8 s without a frame, twice the limit
        manager.until("WATCHDOG=1")
    process.send_signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    assert process.wait(WAIT_S) == 0
    assert "STATUS=0 frames, 0 alarms, 0 dropped, sources lost 0 times" in manager.heard
    assert not any("hangs" in line for line in manager.heard)


def test_aborted_it_tells_where_every_thread_was(
    manager: Manager, sdi_run_process: Callable[..., subprocess.Popen[bytes]], make_engine: Any, tmp_path: Path
) -> None:
    process = sdi_run_process("--engine", make_engine(), "--watch", tmp_path, preexec_fn=_no_core)
    manager.until("WATCHDOG=1")
    process.send_signal(signal.SIGABRT)  # what systemd sends to a service that hangs
    _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == -signal.SIGABRT
    for stage in (b"_grab", b"_infer", b"_judge", b"_write"):
        assert stage in told


def _no_core() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Source(Source):
    """Frames until stopped, each after `before`."""

    name, live = "strip", True

    def __init__(self, before: Callable[[], object]) -> None:
        self.before = before

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        index = 0
        while not self.stopping:
            self.before()
            self.pause(0.01)
            yield self.frame(index, str(index), np.zeros((4, 6, 3), np.uint8))
            index += 1


class _Inspector(Inspector):
    def __init__(self, before: Callable[[], object]) -> None:
        super().__init__()
        self.before = before

    def inspect(self, frame: Frame, saliency: np.ndarray) -> Any:
        self.before()
        return super().inspect(frame, saliency)


class _Sink(Sink):
    def __init__(self, before: Callable[[], object]) -> None:
        self.before = before

    def write(self, result: Result) -> None:
        self.before()


@pytest.mark.parametrize("address", ["path"], indirect=True)
@pytest.mark.parametrize(
    ("hanging", "named"),
    [("source", "reading strip"), ("engine", "the engine"), ("inspector", "judging"), ("sink", "writing")],
)
def test_a_stage_that_hangs_is_named_and_no_word_is_sent_until_it_goes_on(
    hanging: str, named: str, manager: Manager, capsys: pytest.CaptureFixture[str]
) -> None:
    free = threading.Event()
    free.set()

    def before(stage: str) -> Callable[[], object]:
        return lambda: free.wait(WAIT_S) if stage == hanging else None

    loop = Loop(
        _Source(before("source")),
        PlainEngine(lambda frames: before("engine")()),
        [_Sink(before("sink"))],
        _Inspector(before("inspector")),
    )

    thread = threading.Thread(target=Watchdog(loop).run, daemon=True)
    thread.start()
    manager.until("WATCHDOG=1")
    free.clear()
    try:
        manager.until(f"STATUS={named} hangs for")
        for _ in range(6):  # 0.6 s, beyond the limit
            (line,) = manager.next()
            assert line.startswith(f"STATUS={named} hangs for")
    finally:
        free.set()
    manager.until("WATCHDOG=1")
    loop.stop()
    manager.until("STOPPING=1")
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert f"hangs: {named} has given no sign of life for" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["path"], indirect=True)
@pytest.mark.parametrize(("name", "value"), [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "soon"), ("WATCHDOG_USEC", "0")])
def test_a_watchdog_of_another_process_or_none_asks_for_no_word(
    name: str, value: str, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    loop = Loop(_Source(lambda: None), PlainEngine(), [])
    Watchdog(loop).run(lambda item: loop.stop())
    manager.until("STOPPING=1")
    assert manager.heard[0] == "READY=1"
    assert "WATCHDOG=1" not in manager.heard


@pytest.mark.skipif(not SYSTEMD_ANALYZE.exists(), reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault_with_our_unit(tmp_path: Path) -> None:
    """As it is, but for the program, which is not installed where the unit expects it."""
    text = UNIT.read_text()
    assert "Type=notify" in text
    unit = tmp_path / "sdi.service"
    unit.write_text(text.replace("/opt/sdi/bin/sdi-run", "/bin/true"))
    done = subprocess.run([SYSTEMD_ANALYZE, "verify", unit], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "sdi.service" in line]
    assert ours == []


def test_a_stage_that_never_waits_gives_signs_of_life() -> None:
    """A sink that is always behind finds its queue full, and is no hang."""
    now = [100.0]
    judging, writing = (Heartbeat(name, lambda: now[0]) for name in ("judging", "writing"))
    channel: Channel[str] = Channel(1, over=lambda: False)
    judging.beat()
    writing.beat()
    now[0] += 9
    assert (judging.silence_s(), writing.silence_s()) == (9, 9)
    assert channel.put("first", judging)
    assert (judging.silence_s(), writing.silence_s()) == (0, 9)
    assert channel.get(writing) == "first"
    assert writing.silence_s() == 0
    now[0] += 9
    writing.end()
    assert writing.silence_s() == 0  # it has ended, so nothing is expected of it


def test_a_heartbeat_that_has_not_begun_is_not_silent() -> None:
    assert Heartbeat("writing").silence_s() == 0


def test_silence_counts_from_the_start_of_a_run_to_its_end() -> None:
    loop = Loop(_Source(lambda: None), PlainEngine(), [])
    assert loop.most_silent()[1] == 0
    with suppress(ZeroDivisionError):
        loop.run(lambda item: 1 // 0)
    assert loop.most_silent()[1] == 0
