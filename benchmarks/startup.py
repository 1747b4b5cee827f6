"""How long the runtime takes to be there, in fresh processes with a warm disk cache."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.rows import Row, Table
from benchmarks.timing import Candidate, interleaved, process, quotients
from benchmarks.workbench import Workbench, sdi_command

__all__ = ["run"]

_ROUNDS = 7


def run(bench: Workbench) -> Table:
    """Wall times of importing the runtime, of asking for help, and of a first result."""
    run_it = sdi_command("sdi-run")
    engine = bench.engine("fp32")
    demo = [run_it, "--engine", str(engine), "--source", "demo", "--jsonl", "-", "--device", "cpu"]
    candidates = {
        "nothing": process([sys.executable, "-c", "pass"], bench.folder),
        "import": process([sys.executable, "-c", "import sdi.runtime"], bench.folder),
        "help": process([run_it, "--help"], bench.folder),
        "first": _first_line([*demo, "--threads", str(bench.cores)], bench),
    }
    bench.progress.log("timing start-up")
    for candidate in candidates.values():  # fills the disk cache and writes the byte code
        candidate()
    seconds = interleaved(candidates, bench.rounds(_ROUNDS))
    rows = [
        Row("`python -c 'import sdi.runtime'`", "s", seconds["import"], at_most=0.5),
        Row("`sdi-run --help`", "s", seconds["help"], at_most=1.0),
        Row("`sdi-run --source demo`, start to first result", "s", seconds["first"]),
        Row("`python -c pass`", "s", seconds["nothing"]),
        Row(
            "importing the runtime over `python -c pass`",
            "x",
            quotients(seconds["import"], seconds["nothing"]),
        ),
    ]
    notes = (
        f"Whole processes, {_ROUNDS} times each after one that fills the disk cache. The first result is "
        "the first JSON line of the demo with the FP32 MINet engine: imports, checks of the engine file, "
        "loading and a frame."
    )
    return Table("startup", "Start-up", notes, rows)


def _first_line(command: list[str], bench: Workbench) -> Candidate:
    """Seconds until a process has written its first line; it then runs to its end, outside the time."""

    def timed() -> float:
        started = time.perf_counter()
        with subprocess.Popen(command, cwd=bench.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
            assert running.stdout is not None
            line = running.stdout.readline()
            seconds = time.perf_counter() - started
            running.stdout.read()
        if running.returncode != 0 or not line:
            raise subprocess.CalledProcessError(running.returncode, command)
        return seconds

    return timed
