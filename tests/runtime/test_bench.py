"""`sdi-bench`: its statistics against numpy on a clock of our own, and the command on the network that sdi ships."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdi.runtime.bench import latency_figures, time_calls
from sdi.runtime.shipped import default_engine


def _bench(*options: str) -> subprocess.CompletedProcess[str]:
    code = "from sdi.runtime.bench_cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=120)


def test_figures_are_those_of_numpy() -> None:
    values = list(np.random.default_rng(0).gamma(2.0, 5.0, 501))
    ordered = sorted(values)
    figures = latency_figures(values, frames_a_call=4)
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
    for row in report["start"]:
        assert row["process_ms"] > row["import_ms"] + row["load_ms"] + row["first_frame_ms"]
    assert all(row["frames"] >= 1 for row in report["loop"])


def test_markdown_has_a_row_an_engine() -> None:
    done = _bench("--engine", str(default_engine()), "--seconds", "0.01", "--warmup", "0", "--markdown")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 9  # three tables: heading, rule, engine
    assert len({row.count("|") for row in rows[:3]}) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", "0"), "--batch takes whole numbers"),
        (("--size", "200"), "--size takes HxW"),
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
