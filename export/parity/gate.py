"""The gate: every candidate against the checkpoint in PyTorch, picture by picture, and the verdict."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sdi.export.parity.candidates import Candidate, open_candidates
from sdi.export.parity.clean import CleanAreas, CleanPatch, clean_areas, patch_picture
from sdi.export.parity.comparison import Comparison
from sdi.export.parity.divergence import TracedNetwork, first_divergence
from sdi.export.parity.evidence import save_evidence
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.result import GateResult
from sdi.export.parity.tolerances import TOLERANCES, Tolerance
from sdi.export.runners import InputSpec, Runner, runner_from_checkpoint
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
        InputError: something that cannot be compared; see `open_candidate` and `compare`.
        DeviceError: an execution failed.
    """
    if request.evidence is not None and request.evidence.exists():
        _claim(request.evidence, request.overwrite)  # before the work
    checkpoint = load_checkpoint(request.checkpoint)
    candidates = open_candidates(
        request.engines, checkpoint, request.checkpoint, deploy=request.deploy, device=request.device
    )
    try:
        digest = sha256_of(request.checkpoint)
        for candidate in candidates:
            _tell_of_another_checkpoint(candidate, request.checkpoint, digest)
        comparison = Comparison(runner_from_checkpoint(checkpoint), candidates, request.threshold)
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
        for candidate, runner in zip(candidates, result.runners, strict=True):
            if runner.failures and request.evidence is not None:
                folder = _claim(request.evidence, request.overwrite)
                runner.evidence += map(str, save_evidence(folder, runner, candidate, comparison.reference, pictures))
        if request.where:
            _look_where(checkpoint, candidates, result, pictures, say)
        if request.clean:
            _judge_clean(request, comparison.reference, candidates, result, track)
        return result
    finally:
        for candidate in candidates:
            candidate.close()


def _judge_clean(
    request: GateRequest, reference: Runner, candidates: Sequence[Candidate], result: GateResult, track: Track
) -> None:
    """Add figures and verdicts on clean steel to each runner's, and its worst patch where one fails."""
    expected: dict[tuple[int, int] | None, CleanAreas] = {}  # by frame size
    for candidate, runner in zip(candidates, result.runners, strict=True):
        if candidate.run is None:
            continue
        spec, tolerance = candidate.spec, request.tolerances[candidate.precision]
        if spec.frame_hw not in expected:
            expected[spec.frame_hw] = clean_areas(reference, spec, request.clean, request.threshold, track)
        areas = clean_areas(candidate.run, spec, request.clean, request.threshold, track)
        figures = areas.figures(expected[spec.frame_hw])
        rows = tolerance.rows(figures)
        runner.figures |= figures
        runner.rows += rows
        runner.clean = areas.to_dict()
        if request.evidence is not None and not all(row.passed for row in rows):
            folder = _claim(request.evidence, request.overwrite)
            path = folder / f"{safe_name(f'{runner.name}-clean steel')}.png"
            picture = patch_picture(candidate.run, spec, areas, areas.worst, runner.name, request.threshold)
            write_image(path, picture)
            runner.evidence.append(str(path))


def _look_where(
    checkpoint: Checkpoint,
    candidates: Sequence[Candidate],
    result: GateResult,
    pictures: Pictures,
    say: Callable[[str], None],
) -> None:
    """Add the first layer that differs to the result of each ONNX file, on its worst picture."""
    traced: dict[InputSpec, TracedNetwork] = {}
    for candidate, runner in zip(candidates, result.runners, strict=True):
        if candidate.kind != "onnx":
            runner.notes.append("--where looks into ONNX files alone")
            continue
        if candidate.spec not in traced:
            say(f"tracing {checkpoint.model}, to look into it")
            traced[candidate.spec] = TracedNetwork(checkpoint, candidate.spec)
        say(f"looking for the first layer of {candidate.name} that differs")
        worst = max(range(len(pictures)), key=lambda i: runner.pictures[i]["max"])
        runner.where = first_divergence(traced[candidate.spec], candidate, pictures.picture(worst))
        runner.where["picture"] = pictures.names[worst]


def _claim(folder: Path, overwrite: bool) -> Path:
    return claim_folder(folder, "parity-evidence", overwrite, "sdi-parity --evidence")


def _tell_of_another_checkpoint(candidate: Candidate, checkpoint: Path, digest: str) -> None:
    if candidate.checkpoint_sha256 not in (None, digest):
        candidate.notes.append(f"it was exported from another checkpoint than {checkpoint}")


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
