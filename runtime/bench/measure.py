"""The speed of engines on this machine: alone, on the device and at the start; and their memory."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.common.images import resize_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.doctor.gpu_state import GpuState, read_gpu_state
from sdi.runtime.engine.base import Engine

__all__ = [
    "describe_machine",
    "device_metrics",
    "latency_metrics",
    "measure_start",
    "resident_mib",
    "state_under_load",
    "strip_frames",
    "time_calls",
]

_TURN_S = 0.25  # engines take turns of this length, so that a busy spell of the machine slows all of them
_DEVICE_CALLS = 100
_START_TIMEOUT_S = 600  # TensorRT's provider and TensorRT-RTX compile at first use
_PACKAGES = ("sdi", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu12-bindings", "numpy")

# In a process of its own: this one has loaded libraries already, which would make times and memory look better.
_START = """
import json, sys, time
t0 = time.perf_counter()
import numpy as np
from sdi.runtime.bench.measure import resident_mib
from sdi.runtime.engine.open import open_engine
path, device, threads, height, width = json.loads(sys.argv[1])
t1, before = time.perf_counter(), resident_mib("VmRSS")
with open_engine(path, device, threads) as engine:
    t2 = time.perf_counter()
    engine(np.zeros((height, width, 3), np.uint8))
    t3 = time.perf_counter()
    print(json.dumps({"import_ms": (t1 - t0) * 1e3, "load_ms": (t2 - t1) * 1e3, "first_frame_ms": (t3 - t2) * 1e3,
                      "resident_before_mib": before, "resident_after_mib": resident_mib("VmRSS"),
                      "peak_mib": resident_mib("VmHWM")}))
"""


def strip_frames(size_hw: tuple[int, int]) -> list[np.ndarray]:
    """Synthetic strip of every kind, each (H, W, 3) uint8 BGR of `size_hw`."""
    pictures = (draw_strip(kind, seed=1)[0] for kind in (*DEFECTS, "clean"))
    return [np.ascontiguousarray(resize_image(picture, size_hw)) for picture in pictures]


def latency_metrics(values_ms: Sequence[float], frames_a_call: int = 1) -> dict[str, float]:
    """`n` calls, their `min`, `p50`, `p90` and `p99` in ms, and frames a second by the mean."""
    p50, p90, p99 = np.percentile(values_ms, (50, 90, 99))
    return {
        "n": len(values_ms),
        "min_ms": float(np.min(values_ms)),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "frames_per_s": 1e3 * frames_a_call / float(np.mean(values_ms)),
    }


def time_calls(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Milliseconds of each call. `calls` take turns until each has had `seconds`, and at least one call.

    Args:
        warmup: calls of each that are made first and not counted.
    """
    for call in calls:
        for _ in range(warmup):
            call()
    kept: list[list[float]] = [[] for _ in calls]
    spent = [0.0] * len(calls)
    while min(spent) < seconds:
        for number, call in enumerate(calls):
            turn = 0.0
            while turn < min(_TURN_S, seconds):
                started = clock()
                call()
                took = clock() - started
                kept[number].append(took * 1e3)
                turn += took
            spent[number] += turn
    return kept


def state_under_load(call: Callable[[], object]) -> GpuState | None:
    """The GPU's clock, and what slows it, while `call` is repeated; outside any measurement."""
    with ThreadPoolExecutor(1) as pool:
        state = pool.submit(read_gpu_state)
        while not state.done():
            call()
        return state.result()


def device_metrics(engine: Engine, frames: np.ndarray) -> dict[str, float | None]:
    """Time on the device for `frames`: `device_p50_ms`, `device_p99_ms`; None where the device cannot measure it."""
    values: list[float] = []
    while len(values) < _DEVICE_CALLS and (value := engine.device_ms(frames)) is not None:
        values.append(value)
    p50, p99 = np.percentile(values, (50, 99)).tolist() if values else (None, None)
    return {"device_p50_ms": p50, "device_p99_ms": p99}


def measure_start(path: Path, device: str, threads: int | None, size_hw: tuple[int, int]) -> dict[str, float | None]:
    """A fresh process from its start to the first answer: times in ms, resident memory in MiB (Linux; else None).

    Raises:
        DeviceError: the process failed or hung.
    """
    given = json.dumps([str(path), device, threads, *size_hw])
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _START, given], capture_output=True, text=True, timeout=_START_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{path.name} gave no first frame within {_START_TIMEOUT_S} s in a fresh process") from error
    process_ms = (time.perf_counter() - started) * 1e3
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DeviceError(f"{path.name} does not start in a fresh process: {last}; try sdi-doctor --engine {path}")
    return {"process_ms": process_ms, **json.loads(done.stdout.splitlines()[-1])}


def resident_mib(field: str) -> float | None:
    """`VmRSS` or `VmHWM` (its peak) of this process in MiB; None where the system does not give it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return None


def describe_machine() -> dict[str, Any]:
    """The machine that is measured; its load and clock are those of this moment, None where they cannot be read."""
    mhz = load = None
    with suppress(OSError, ValueError):
        mhz = int(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").read_text()) / 1e3
    with suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
    packages = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
        "load_1min": load,
        "cpu0_mhz": mhz,
    }


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
