"""`sdi-bench`: its statistics against numpy on a clock of our own, and the command on the network that sdi ships."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import PlainEngine
from sdi.runtime.bench.cli import main
from sdi.runtime.bench.loop import measure_loops
from sdi.runtime.bench.measure import latency_metrics, strip_frames, time_calls
from sdi.runtime.doctor.gpu_state import GpuState, jetson_state, smi_state, throttling
from sdi.runtime.doctor.probes import Clock
from sdi.runtime.engine.onnx_runtime import OnnxRuntimeEngine
from sdi.runtime.engine.shipped import default_engine
from sdi.runtime.pipeline.summary import SourceSummary, Summary


def _bench(*options: str) -> subprocess.CompletedProcess[str]:
    code = "from sdi.runtime.bench.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=120)


def test_figures_are_those_of_numpy() -> None:
    values = list(np.random.default_rng(0).gamma(2.0, 5.0, 501))
    ordered = sorted(values)
    figures = latency_metrics(values, frames_a_call=4)
    # With 501 values the percentiles fall on ranks, so no interpolation is in question.
    wanted = (ordered[0], ordered[250], ordered[450], ordered[495])
    assert [figures[key] for key in ("min_ms", "p50_ms", "p90_ms", "p99_ms")] == pytest.approx(wanted)
    assert figures["n"] == 501
    assert figures["frames_per_s"] == pytest.approx(4000 * 501 / sum(values))


def test_engines_take_turns_on_the_clock_given() -> None:
    now = 0.0
    order: list[str] = []

    def call(name: str, takes_s: float) -> None:
        nonlocal now
        order.append(name)
        now += takes_s

    fast, slow = time_calls([lambda: call("a", 0.125), lambda: call("b", 0.25)], 0.5, 1, clock=lambda: now)
    assert "".join(order) == "ab" + "aab" * 2  # the warm-up, then turns of a quarter second
    assert fast == [125.0] * 4
    assert slow == [250.0] * 2


def test_the_shipped_engine_is_measured() -> None:
    engine = str(default_engine())
    done = _bench(
        "--engine", engine, "--engine", engine, "--seconds", "0.05", "--warmup", "1", "--threads", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"]["cores"] >= 1
    assert "numpy" in report["machine"]["packages"]
    assert len(report["engines"]) == len(report["loop"]) == len(report["start"]) == 2
    for row in report["engines"]:
        assert 0 < row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
    assert report["engines"][0]["ratio"] == 1
    for row in report["loop"]:
        assert row["frames"] >= 2
        assert row["of_alone"] > 0
        assert row["engine_ms"]["p50"] <= row["age_ms"]["p50"] <= row["age_ms"]["p99"]
    for row in report["engines"]:
        assert (row["device_p50_ms"], "throttled" in row) == (None, False)  # a CPU has no clock of its own
    for row in report["start"]:
        assert row["process_ms"] > row["import_ms"] + row["load_ms"] + row["first_frame_ms"]
    assert all(row["frames"] >= 1 for row in report["loop"])


def test_markdown_has_a_row_an_engine() -> None:
    done = _bench("--engine", str(default_engine()), "--seconds", "0.01", "--warmup", "0", "--markdown")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 9  # three tables: heading, rule, engine
    assert len({row.count("|") for row in rows[:3]}) == 1
    assert "| age_p50 | age_p95 | age_p99 |" in rows[3]


def test_the_loop_takes_turns_with_the_engine_alone() -> None:
    """An engine on which every call waits for the loop's or the bench's turn: the order of calls tells the turns."""
    order: list[str] = []

    def noting(name: str) -> PlainEngine:
        def note(frames: np.ndarray) -> None:
            turn = name + ("L" if threading.current_thread().name == "infer" else "A")
            if not order or order[-1] != turn:
                order.append(turn)

        return PlainEngine(note)

    frames = strip_frames((16, 16))
    figures = measure_loops([(noting("a"), frames), (noting("b"), frames)], 0.2)
    assert order == ["aA", "aL", "bA", "bL"] * 2
    for row in figures:
        assert row["frames"] == row["sources"][0]["frames"] > 2
        assert row["frames_per_s"] > 0


def test_runs_are_joined() -> None:
    runs = []
    for start in (0, 10):
        run = Summary([SourceSummary("a", frames=5, drops=start)], frames=5, seconds=1.0)
        for value in range(start, start + 5):
            run.age_ms.add(value)
        runs.append(run)
    whole = Summary.joined(runs)
    assert (whole.frames, whole.seconds, whole.drops) == (10, 2.0, 10)
    assert sorted(whole.age_ms.values_ms) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


SMI = "NVIDIA RTX A2000, {now}, 2100, 71, 69.51, {reasons}\n"


def test_nvidia_smi_is_understood() -> None:
    state = smi_state(SMI.format(now=1980, reasons="0x0000000000000064"))
    assert state is not None
    assert (state.name, state.clock) == ("NVIDIA RTX A2000", Clock(1980, 2100))
    assert state.held_by == ("power cap", "heat (driver)", "heat (hardware)")
    assert (state.temperature_c, state.power_w) == (71.0, 69.51)
    idle = smi_state(SMI.format(now=2100, reasons="0x0000000000000001"))  # idle is no throttling
    assert idle is not None
    assert idle.held_by == ()
    silent = smi_state("Orin (nvgpu), [N/A], [N/A], [N/A], [N/A], [Not Supported]")
    assert silent == GpuState("Orin (nvgpu)")
    assert smi_state("No devices were found") is None
    assert smi_state("") is None


def _jetson(sys: Path, clock: int, alert: int, events: int) -> GpuState:
    files = {
        "class/devfreq/17000000.gpu/cur_freq": clock * 10**6,
        "class/devfreq/17000000.gpu/max_freq": 1020 * 10**6,
        "class/devfreq/17000000.gpu/min_freq": 306 * 10**6,
        "class/thermal/cooling_device0/type": "pwm-fan",
        "class/thermal/cooling_device0/cur_state": 3,
        "class/thermal/cooling_device1/type": "gpu-throttle-alert",
        "class/thermal/cooling_device1/cur_state": alert,
        "class/hwmon/hwmon3/oc1_event_cnt": 0,
        "class/hwmon/hwmon3/oc3_event_cnt": events,
        "class/hwmon/hwmon3/oc3_throt_en": 1,
    }
    for name, value in files.items():
        (sys / name).parent.mkdir(parents=True, exist_ok=True)
        (sys / name).write_text(f"{value}\n")
    return jetson_state(sys, "NVIDIA Jetson Orin Nano", "MAXN_SUPER")


def test_a_jetson_is_understood(tmp_path: Path) -> None:
    cool = _jetson(tmp_path, 1020, 0, 37)
    assert cool.clock == Clock(1020, 1020, 306)
    assert (cool.held_by, cool.power_mode) == ((), "MAXN_SUPER")
    assert cool.events == {"under-voltage": 0, "over-current": 37}
    assert throttling(cool, cool) == []  # old events are of earlier work
    hot = _jetson(tmp_path, 612, 1, 39)
    assert throttling(cool, hot) == ["heat (gpu-throttle-alert)", "over-current", "clock 612 of 1020 MHz"]
    assert throttling(hot, cool)[0] == "heat (gpu-throttle-alert)"


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ((2100, "0x0"), (2100, "0x0"), []),
        ((2010, "0x0"), (2100, "0x1"), []),  # within 5 % of its greatest
        ((2100, "0x4"), (1980, "0x0"), ["power cap", "clock 1980 of 2100 MHz"]),
        ((2100, "0x0"), (2100, "0x20"), ["heat (driver)"]),
        (None, (1200, "0x0"), ["clock 1200 of 2100 MHz"]),
        (None, None, []),
    ],
)
def test_throttling_is_told(before: tuple[int, str] | None, after: tuple[int, str] | None, wanted: list[str]) -> None:
    looks = [smi_state(SMI.format(now=look[0], reasons=look[1])) if look else None for look in (before, after)]
    assert throttling(*looks) == wanted


def test_a_gpu_shows_its_own_time_and_what_held_it_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real engine that says it is on a GPU, and made-up looks: cool before, capped after."""
    cool, capped = (smi_state(SMI.format(now=now, reasons=held)) for now, held in ((2100, "0x0"), (1500, "0x4")))
    looks = iter([cool, capped, cool, cool])  # around the engine alone, and around the loop
    real = OnnxRuntimeEngine.__init__

    def on_gpu(self: OnnxRuntimeEngine, *arguments: Any) -> None:
        real(self, *arguments)
        self.on_gpu = True

    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", on_gpu)
    monkeypatch.setattr(OnnxRuntimeEngine, "device_ms", lambda self, frames: 1.25)
    monkeypatch.setattr("sdi.runtime.bench.measure.read_gpu_state", lambda: next(looks))
    arguments = ["sdi-bench", "--engine", str(default_engine()), "--seconds", "0.01", "--warmup", "0", "--threads", "1"]
    monkeypatch.setattr("sys.argv", [*arguments, "--markdown"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[0].endswith("| device_p50_ms | gpu_mhz | power_mode | throttled |")
    assert rows[2].endswith("| 1.2 | 1500 | ? | power cap, clock 1500 of 2100 MHz |")
    assert rows[3].endswith("| age_p99 | throttled |")
    assert rows[5].endswith("| no |")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", "0"), "--batch takes whole numbers"),
        (("--frame", "200"), "--frame takes HxW"),
        (("--json", "--markdown"), "exclude each other"),
    ],
)
def test_wrong_use_is_explained(options: tuple[str, ...], said: str) -> None:
    done = _bench("--engine", str(default_engine()), *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_engine_is_named(tmp_path: Path) -> None:
    done = _bench("--engine", str(tmp_path / "no.onnx"))
    assert done.returncode == 2
    assert "no.onnx" in done.stderr
    assert not done.stdout
