"""How candidates are timed: side by side, round after round, so that what disturbs one disturbs the other."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["Candidate", "hold_cores", "interleaved", "process", "quotients", "repeated"]

Candidate = Callable[[], float]
"""Does its work once and answers the seconds that it took."""

# ONNX Runtime's and OpenMP's workers spin for milliseconds after a call; they must not on the other's time.
_REST_S = 0.05
_BLOCK_S = 0.4  # how long a block of repeated calls should take


def hold_cores(wanted: int) -> int:
    """Keep this process and its children to `wanted` cores where the system can; answer how many it has now.

    Call it before importing libraries that size their thread pools by the cores they see.
    """
    if not hasattr(os, "sched_setaffinity"):
        return min(wanted, os.cpu_count() or 1)
    cores = sorted(os.sched_getaffinity(0))[:wanted]
    os.sched_setaffinity(0, cores)
    return len(cores)


def repeated(call: Callable[[], object]) -> Candidate:
    """Seconds per call, over as many calls as fill a block. Warms up here, outside any measurement."""
    call()
    call()
    started = time.perf_counter()
    call()
    calls = max(1, round(_BLOCK_S / (time.perf_counter() - started)))

    def block() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls

    return block


def process(command: list[str], folder: Path) -> Candidate:
    """Wall time of a fresh process, from its start to its end.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """

    def fresh() -> float:
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - started

    return fresh


def interleaved(candidates: dict[str, Candidate], rounds: Iterable[int]) -> dict[str, list[float]]:
    """Seconds of every candidate in every round: A B A B and so on."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in rounds:
        for name, candidate in candidates.items():
            time.sleep(_REST_S)
            seconds[name].append(candidate())
    return seconds


def quotients(above: list[float], below: list[float]) -> list[float]:
    """Round by round, `above` / `below`."""
    return [a / b for a, b in zip(above, below, strict=True)]
