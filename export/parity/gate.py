"""The gate: every contender against the checkpoint in PyTorch, picture by picture, and the verdict."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sdi.export.feed import Feed
from sdi.export.parity.clean import CleanAreas, CleanPatch, clean_areas, patch_picture
from sdi.export.parity.comparison import Comparison
from sdi.export.parity.contenders import Contender, open_contenders
from sdi.export.parity.evidence import save_evidence
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.result import GateResult
from sdi.export.parity.runners import Runner, runner_from_checkpoint
from sdi.export.parity.tolerances import TOLERANCES, Tolerance
from sdi.export.parity.where import TracedNetwork, first_difference
from sdi.runtime.common.files import sha256_of
from sdi.runtime.common.images import write_image
from sdi.runtime.common.output_folder import claim_folder, safe_name
from sdi.train.checkpoint import Checkpoint, load_checkpoint

__all__ = ["GateRequest", "run_gate"]

Track = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class GateRequest:
    """What to compare, and how."""

    checkpoint: Path
    engines: Sequence[Path] = ()
    deploy: bool = False  # the deploy form in PyTorch too
    device: str = "cpu"  # for ONNX files: "cpu" or "cuda"
    threshold: float = 0.5  # probability from which a pixel belongs to a mask
    tolerances: Mapping[str, Tolerance] = field(default_factory=lambda: TOLERANCES)
    evidence: Path | None = None  # folder for the pictures of what fails; made when something does
    where: bool = False  # look for the first layer of each ONNX file that differs
    overwrite: bool = False  # `evidence` may hold files that are not ours
    clean: Sequence[CleanPatch] = ()  # defect-free steel, of which next to nothing may be taken for a defect


def run_gate(
    request: GateRequest,
    pictures: Pictures,
    *,
    track: Track = lambda items, what: items,
    say: Callable[[str], None] = lambda text: None,
) -> GateResult:
    """Compare every runner with the checkpoint in PyTorch, float32.

    Args:
        track: wraps long loops, with words for them.
        say: hears what is being done.
    Raises:
        InputError: something that cannot be compared; see `open_contender` and `compare`.
        DeviceError: an execution failed.
    """
    if request.evidence is not None and request.evidence.exists():
        _claim(request.evidence, request.overwrite)  # before the work
    checkpoint = load_checkpoint(request.checkpoint)
    contenders = open_contenders(
        request.engines, checkpoint, request.checkpoint, deploy=request.deploy, device=request.device
    )
    try:
        digest = sha256_of(request.checkpoint)
        for contender in contenders:
            _tell_of_another_checkpoint(contender, request.checkpoint, digest)
        comparison = Comparison(runner_from_checkpoint(checkpoint), contenders, request.threshold)
        for index in track(range(len(pictures)), "comparing"):
            comparison.add(pictures.names[index], pictures.picture(index), pictures.truth(index))
        result = GateResult(
            model=checkpoint.model,
            checkpoint={"file": str(request.checkpoint), "sha256": digest},
            threshold=request.threshold,
            pictures=len(pictures),
            synthetic=pictures.synthetic,
            runners=comparison.results(request.tolerances),
            machine=_machine(request.device),
            reference_seconds_per_frame=comparison.reference_seconds,
        )
        for contender, runner in zip(contenders, result.runners, strict=True):
            if runner.failures and request.evidence is not None:
                folder = _claim(request.evidence, request.overwrite)
                runner.evidence += map(str, save_evidence(folder, runner, contender, comparison.reference, pictures))
        if request.where:
            _look_where(checkpoint, contenders, result, pictures, say)
        if request.clean:
            _judge_clean(request, comparison.reference, contenders, result, track)
        return result
    finally:
        for contender in contenders:
            contender.close()


def _judge_clean(
    request: GateRequest, reference: Runner, contenders: Sequence[Contender], result: GateResult, track: Track
) -> None:
    """Add figures and verdicts on clean steel to each runner's, and its worst patch where one fails."""
    expected: dict[tuple[int, int] | None, CleanAreas] = {}  # by frame size
    for contender, runner in zip(contenders, result.runners, strict=True):
        if contender.run is None:
            continue
        feed, tolerance = contender.feed, request.tolerances[contender.precision]
        if feed.frame_hw not in expected:
            expected[feed.frame_hw] = clean_areas(reference, feed, request.clean, request.threshold, track)
        areas = clean_areas(contender.run, feed, request.clean, request.threshold, track)
        figures = areas.figures(expected[feed.frame_hw])
        rows = tolerance.rows(figures)
        runner.figures |= figures
        runner.rows += rows
        runner.clean = areas.to_dict()
        if request.evidence is not None and not all(row.passed for row in rows):
            folder = _claim(request.evidence, request.overwrite)
            path = folder / f"{safe_name(f'{runner.name}-clean steel')}.png"
            picture = patch_picture(contender.run, feed, areas, areas.worst, runner.name, request.threshold)
            write_image(path, picture)
            runner.evidence.append(str(path))


def _look_where(
    checkpoint: Checkpoint,
    contenders: Sequence[Contender],
    result: GateResult,
    pictures: Pictures,
    say: Callable[[str], None],
) -> None:
    """Add the first layer that differs to the result of each ONNX file, on its worst picture."""
    traced: dict[Feed, TracedNetwork] = {}
    for contender, runner in zip(contenders, result.runners, strict=True):
        if contender.kind != "onnx":
            runner.notes.append("--where looks into ONNX files alone")
            continue
        if contender.feed not in traced:
            say(f"tracing {checkpoint.model}, to look into it")
            traced[contender.feed] = TracedNetwork(checkpoint, contender.feed)
        say(f"looking for the first layer of {contender.name} that differs")
        worst = max(range(len(pictures)), key=lambda i: runner.pictures[i]["max"])
        runner.where = first_difference(traced[contender.feed], contender, pictures.picture(worst))
        runner.where["picture"] = pictures.names[worst]


def _claim(folder: Path, overwrite: bool) -> Path:
    return claim_folder(folder, "parity-evidence", overwrite, "sdi-parity --evidence")


def _tell_of_another_checkpoint(contender: Contender, checkpoint: Path, digest: str) -> None:
    if contender.checkpoint_sha256 not in (None, digest):
        contender.notes.append(f"it was exported from another checkpoint than {checkpoint}")


def _machine(device: str) -> dict[str, Any]:
    names = ("sdi", "torch", "numpy", "onnx")
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": device,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}, **_onnxruntime()},
        "made": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
    }


def _onnxruntime() -> dict[str, str]:
    import onnxruntime  # its package has one of several names

    return {"onnxruntime": onnxruntime.__version__}
