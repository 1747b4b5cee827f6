"""What `sdi-doctor --prove` runs on a machine with a GPU, step by step: each a command in a process of its own, so that
one that crashes or hangs is told like any other failure."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.common.files import write_text
from sdi.runtime.common.output_folder import safe_name
from sdi.runtime.common.progress import SILENT, Progress
from sdi.runtime.engine.cuda import Gpu, open_cuda
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.shipped import shipped_engines
from sdi.runtime.engine.tensorrt_library import LIBRARIES

__all__ = ["KINDS", "NETWORKS", "Outcome", "Plan", "Proof", "Step", "prove"]

NETWORKS = ("tsernet-lite", "minet", "csepnet", "csepnet-resnet50", "tsernet-s", "tsernet-xs", "tsernet")
_STEP_TIMEOUT_S = 3600
_TAIL = 4000  # characters of what a step said, in the report

Kind = Literal["build", "self-test", "bench", "tests", "parity"]
KINDS: tuple[Kind, ...] = ("build", "self-test", "bench", "tests", "parity")


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        skipped: why it is not run; empty: it is.
    """

    name: str
    kind: Kind
    command: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a step.

    Attributes:
        answer: the JSON that it printed; None where there is none.
        said: the end of what it logged.
    """

    step: Step
    status: Literal["passed", "failed", "skipped"]
    seconds: float = 0.0
    exit_code: int | None = None
    answer: Any = None
    said: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be proven, and where.

    Attributes:
        folder: of the report; plans go to `plans` in it, what steps said to `steps`.
        tests: the folder of tests that want a GPU; None: there is none here.
        kinds: the steps wanted.
    """

    folder: Path
    tests: Path | None = None
    kinds: tuple[Kind, ...] = KINDS
    networks: tuple[str, ...] = ()  # none: all
    seconds: float = 5.0


@dataclass
class Proof:
    """Outcomes so far, and the GPU they are of."""

    gpu: Gpu
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]


def prove(plan: Plan, progress: Progress = SILENT, run: Callable[[Step], Outcome] | None = None) -> Proof:
    """Run all steps, the later ones on what the earlier ones made.

    Args:
        run: runs one step; by default in a process.
    Raises:
        DeviceError: no GPU answers, so there is nothing to prove.
    """
    proof = Proof(open_cuda().gpu)

    def each(steps: Sequence[Step]) -> None:
        for step in progress.track(steps, "proving", len(steps)):
            progress.log(f"{step.name}: {step.skipped or shlex.join(step.command)}")
            if step.skipped:
                proof.outcomes.append(Outcome(step, "skipped", said=step.skipped))
                continue
            outcome = run(step) if run is not None else _in_a_process(step, plan.folder / "steps")
            proof.outcomes.append(outcome)
            if outcome.status == "failed":
                progress.log(f"{step.name} failed with exit code {outcome.exit_code}")

    if "build" in plan.kinds:
        each(builds(plan))
    plans = sorted((plan.folder / "plans").glob("*.plan"))
    each([step for step in checks(plan, plans, proof.gpu) if step.kind in plan.kinds])
    return proof


def builds(plan: Plan) -> list[Step]:
    """Of every network and precision that can be built here."""
    library = next((library for library in LIBRARIES if library.unavailable() is None), None)
    if library is None:
        reasons = "; ".join(library.unavailable() or "" for library in LIBRARIES)
        return [Step("build", "build", skipped=f"no TensorRT here: {reasons}")]
    out = ("--target", library.target, "-o", str(plan.folder / "plans"))
    steps = []
    for shipped in shipped_engines():
        command = _sdi("export", "--onnx", str(shipped.path), *out)
        steps.append(Step(f"build {shipped.path.stem}", "build", command))
    for network in plan.networks or NETWORKS:
        name = f"build {network}, FP32 and FP16"
        if importlib.util.find_spec("torch") is None:
            steps.append(Step(name, "build", skipped="PyTorch, which exports networks, is not installed"))
            continue
        checkpoint = _checkpoint(network)
        weights = ("--random-weights",) if checkpoint is None else ("--checkpoint", str(checkpoint))
        # In a folder of its own: it would overwrite the shipped engines' plans.
        folder = ("--target", library.target, "-o", str(plan.folder / "plans" / "exported"))
        steps.append(Step(name, "build", _sdi("export", "--model", network, *weights, "--fp32", "--fp16", *folder)))
    return steps


def checks(plan: Plan, plans: Sequence[Path], gpu: Gpu) -> list[Step]:
    """What is asked of the plans that were built, and of the executor."""
    exported = sorted((plan.folder / "plans" / "exported").glob("*.plan"))
    engines = [part for path in (*plans, *exported) for part in ("--engine", str(path))]
    missing = "" if engines else "no plan was built"
    golden = _sdi("parity", "--self-test", "--json", *engines)
    copies = ("--compare-copies",) if gpu.integrated else ()
    timed = _sdi("bench", "--json", "--seconds", str(plan.seconds), *copies, *engines)
    steps = [
        Step("golden pictures of all plans", "self-test", golden, missing),
        Step("speed of all plans", "bench", timed, missing),
    ]
    if plan.tests is None:
        steps.append(Step("tests on the GPU", "tests", skipped="tests/gpu is not here; run this in a checkout of sdi"))
    else:
        quiet = ("-q", "--no-header", "-p", "no:cacheprovider", "-n0")
        steps.append(Step("tests on the GPU", "tests", (sys.executable, "-m", "pytest", str(plan.tests), *quiet)))
    return [*steps, *_parity(exported)]


def _parity(exported: Sequence[Path]) -> list[Step]:
    """Plans against PyTorch, where the checkpoint they were exported from is here."""
    steps = []
    for network in NETWORKS:
        checkpoint = _checkpoint(network)
        mine = [path for path in exported if _model(path) == network]
        if checkpoint is None:
            continue
        name = f"parity of {network} with PyTorch"
        if not mine:
            steps.append(Step(name, "parity", skipped="no plan was exported from its checkpoint"))
            continue
        engines = [part for path in mine for part in ("--engine", str(path))]
        command = _sdi("parity", "--checkpoint", str(checkpoint), "--json", "--tile", "none", *engines)
        steps.append(Step(name, "parity", command))
    return steps


def _checkpoint(network: str) -> Path | None:
    """The one that comes with sdi."""
    package = importlib.util.find_spec("sdi")
    places = (package.submodule_search_locations or ()) if package is not None else ()
    paths = [Path(place) / "train" / "weights" / f"{network}.pt" for place in places]
    return next((path for path in paths if path.is_file()), None)


def _model(plan: Path) -> str | None:
    manifest = read_manifest(plan)
    return None if manifest is None else manifest.model


def _sdi(command: str, *arguments: str) -> tuple[str, ...]:
    """A command of sdi in this Python, whatever is on the path."""
    module = {
        "export": "sdi.export.cli",
        "parity": "sdi.export.parity.cli",
        "bench": "sdi.runtime.bench.cli",
    }[command]
    return (sys.executable, "-c", f"from {module} import main; main()", *arguments)


def _in_a_process(step: Step, folder: Path) -> Outcome:
    began = time.monotonic()
    try:
        done = subprocess.run(step.command, capture_output=True, text=True, errors="replace", timeout=_STEP_TIMEOUT_S)
        code, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as hung:
        code, out, err = -1, _text(hung.stdout), f"{_text(hung.stderr)}\nnot done within {_STEP_TIMEOUT_S} s"
    except OSError as error:
        raise DeviceError(f"{step.name} cannot be started: {error.strerror}") from error
    seconds = time.monotonic() - began
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{safe_name(step.name)}.txt", f"$ {shlex.join(step.command)}\n{out}\n{err}")
    try:
        answer = json.loads(out)
    except ValueError:
        answer = None
    said = err if answer is not None else f"{out}\n{err}"
    return Outcome(step, "failed" if code else "passed", seconds, code, answer, said.strip()[-_TAIL:])


def _text(out: bytes | str | None) -> str:
    return out.decode(errors="replace") if isinstance(out, bytes) else out or ""
