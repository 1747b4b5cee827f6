"""`make test-jetson`: what can be tried of a Jetson without one. `python -m tools.jetson [--only STEP]... [--whole]`.

Two chains run beside each other, since each waits for one core: the lean runtime's tests with other versions of its
libraries, and everything on emulated aarch64.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sdi.runtime.common.images import write_image
from sdi.runtime.common.strip import draw_strip
from tools.jetson.emulation import emulated_environment
from tools.jetson.environments import ENVIRONMENTS, environment
from tools.jetson.recipe import ROOT, StepError, cache_folder

# Run on emulated aarch64: what computes, reads or writes. The others start many processes, or wait for times that an
# emulator does not keep; `--whole` runs them too.
EMULATED_TESTS = (
    "classes", "defects", "engine", "files", "golden", "images", "inspector", "manifest", "sources", "strip",
)  # fmt: skip
LIMIT_S = 900  # of one command


@dataclass(frozen=True)
class Step:
    """One row of the result."""

    name: str
    seconds: float
    error: str | None


def main() -> int:
    """Run the steps; 1 where one of them failed."""
    parser = argparse.ArgumentParser(prog="make test-jetson", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*ENVIRONMENTS, "aarch64"], help="may be repeated")
    parser.add_argument("--whole", action="store_true", help="all of the runtime's tests on aarch64: an hour or more")
    given = parser.parse_args()
    wanted = given.only or [*ENVIRONMENTS, "aarch64"]
    cache = cache_folder()
    print(f"environments are kept in {cache}", flush=True)

    def lean() -> list[Step]:
        return [_step(name, partial(_lean, name, cache)) for name in ENVIRONMENTS if name in wanted]

    def emulated() -> list[Step]:
        return [_step("aarch64", partial(_emulated, cache, given.whole))] if "aarch64" in wanted else []

    with ThreadPoolExecutor(2) as pool:
        steps = [step for chain in [pool.submit(lean), pool.submit(emulated)] for step in chain.result()]
    for step in steps:
        print(f"{'ok    ' if step.error is None else 'FAILED'} {step.name:10} {step.seconds:5.0f} s")
    for step in steps:
        if step.error is not None:
            print(f"\n{step.name} failed: {step.error}", file=sys.stderr)
    return int(any(step.error is not None for step in steps))


def _step(name: str, work: Callable[[], None]) -> Step:
    started = time.monotonic()
    try:
        work()
        error = None
    except StepError as failure:
        error = str(failure)
    return Step(name, time.monotonic() - started, error)


def _lean(name: str, cache: Path) -> None:
    folder = environment(name, cache)
    versions = "sys.version.split()[0], cv2.__version__, numpy.__version__, onnxruntime.__version__"
    said = _run(folder, ["-c", f"import cv2, numpy, onnxruntime, sys; print({versions})"])
    print(f"{name} ({ENVIRONMENTS[name]}): Python, OpenCV, NumPy, ONNX Runtime {said.strip()}", flush=True)
    _use(folder)
    tests = ["tests/runtime/test_gstreamer.py", "tests/runtime/test_live.py", "tests/runtime/test_faults.py"]
    _pytest(name, folder, tests if name == "gstreamer" else ["tests/runtime"])


def _emulated(cache: Path, whole: bool) -> None:
    folder = emulated_environment(cache)
    shipped = sorted(map(str, (ROOT / "runtime" / "shipped").glob("*.onnx")))
    answers = str(ROOT / "tools" / "jetson" / "answers.py")
    print(_run(folder, [answers, *shipped]), end="", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        _checked([sys.executable, "-m", "tools.jetson.exports", scratch])
        print(_run(folder, [answers, *sorted(map(str, Path(scratch).glob("*.onnx")))]), end="", flush=True)
    _use(folder, "minet")  # emulated half takes half a minute a frame: the default has one frame and its self-test
    with tempfile.TemporaryDirectory() as scratch:
        write_image(Path(scratch) / "strip.png", draw_strip("patch", 1)[0])
        _checked([folder / "bin" / "sdi-run", "--source", f"{scratch}/strip.png"])
    files = ["tests/runtime"] if whole else [f"tests/runtime/test_{name}.py" for name in EMULATED_TESTS]
    _pytest("aarch64", folder, [*files, "--timeout", "600"])


def _use(folder: Path, engine: str | None = None) -> None:
    """`sdi-run --source demo` writes its twelve maps, and `sdi-doctor` finds what is needed."""
    named = ["--engine", engine] if engine else []
    with tempfile.TemporaryDirectory() as scratch:
        _checked([folder / "bin" / "sdi-run", "--source", "demo", "--masks", f"{scratch}/maps", *named])
        maps = len(list(Path(scratch).glob("maps/*.png")))
        if maps != 12:
            raise StepError(f"sdi-run --source demo wrote {maps} maps, expected 12")
    _checked([folder / "bin" / "sdi-doctor"])


def _pytest(name: str, folder: Path, arguments: list[str]) -> None:
    said = _run(folder, ["-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *arguments])
    print(f"{name}: {said.strip().splitlines()[-1]}", flush=True)


def _run(folder: Path, arguments: list[str]) -> str:
    return _checked([folder / "bin" / "python", *arguments])


def _checked(command: list[str | Path]) -> str:
    """Run in the checkout, with its packages.

    Raises:
        StepError: it fails or takes too long.
    """
    # Bytecode of several Pythons must not end up in the checkout.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise StepError(f"{' '.join(words)} took more than {LIMIT_S} s") from error
    if done.returncode != 0:
        raise StepError(f"{' '.join(words)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
