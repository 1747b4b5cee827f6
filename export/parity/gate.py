"""The gate: every candidate against the checkpoint in PyTorch, picture by picture, and the verdict."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sdi.export.parity.candidates import Candidate, open_candidates
from sdi.export.parity.clean import CleanAreas, CleanPatch, clean_areas, worst_patch_picture
from sdi.export.parity.comparison import Comparison, Measurement
from sdi.export.parity.divergence import TracedNetwork, first_divergence
from sdi.export.parity.evidence import offending_pictures, save_evidence
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.result import CandidateResult, Divergence, GateResult
from sdi.export.parity.tolerances import TOLERANCES, Tolerance
from sdi.export.runners import InputSpec, Runner, runner_from_checkpoint
from sdi.runtime.common.files import sha256_of
from sdi.runtime.common.images import write_image
from sdi.runtime.common.output_folder import claim_folder, safe_name
from sdi.runtime.common.progress import SILENT, Progress
from sdi.runtime.engine.tiling import Tiling
from sdi.train.checkpoint import Checkpoint, load_checkpoint

__all__ = ["GateRequest", "run_gate"]

# What rounding to 8 bits may add to a difference: half a level.
_ROUNDING = 0.5 / 255
_ROUNDED = ("max", "p999", "mean", "quantile", "peak")


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
    bisect: bool = False  # look for the first layer of each ONNX file that differs
    overwrite: bool = False  # `evidence` may hold files that are not ours
    clean: Sequence[CleanPatch] = ()  # defect-free steel, of which next to nothing may be taken for a defect
    tiling: Tiling | None = None  # of pictures that are larger than those of the training; None: none is cut


def run_gate(request: GateRequest, pictures: Pictures, progress: Progress = SILENT) -> GateResult:
    """Compare every candidate with the checkpoint in PyTorch, float32.

    Raises:
        InputError: something that cannot be compared; see `open_candidates` and `compare`.
        DeviceError: an execution failed.
    """
    if request.evidence is not None and request.evidence.exists():
        _claim(request.evidence, request.overwrite)  # before the work
    checkpoint = load_checkpoint(request.checkpoint)
    candidates = open_candidates(
        request.engines,
        checkpoint,
        request.checkpoint,
        deploy=request.deploy,
        device=request.device,
        tiling=request.tiling,
    )
    try:
        digest = sha256_of(request.checkpoint)
        candidates = [_told_of_another_checkpoint(candidate, request.checkpoint, digest) for candidate in candidates]
        comparison = Comparison(runner_from_checkpoint(checkpoint), candidates, request.threshold)
        for index in progress.track(range(len(pictures)), "comparing"):
            comparison.add(pictures.names[index], pictures.picture(index), pictures.truth(index))
        judge = _Judge(request, checkpoint, comparison.reference, pictures, progress)
        return GateResult(
            model=checkpoint.model,
            checkpoint={"file": str(request.checkpoint), "sha256": digest},
            threshold=request.threshold,
            pictures=len(pictures),
            synthetic=pictures.synthetic,
            candidates=tuple(map(judge.result, candidates, comparison.measurements())),
            machine=_machine(request.device),
            reference_seconds_per_frame=comparison.reference_seconds,
        )
    finally:
        for candidate in candidates:
            candidate.close()


class _Judge:
    """Turns what was measured of a candidate into its result, and looks closer where the request says so."""

    def __init__(
        self, request: GateRequest, checkpoint: Checkpoint, reference: Runner, pictures: Pictures, progress: Progress
    ) -> None:
        self._request = request
        self._checkpoint = checkpoint
        self._reference = reference
        self._pictures = pictures
        self._progress = progress
        # By the reference and the frame size.
        self._clean_reference: dict[tuple[Runner, tuple[int, int] | None], CleanAreas] = {}
        self._traced: dict[InputSpec, TracedNetwork] = {}

    def result(self, candidate: Candidate, measured: Measurement | None) -> CandidateResult:
        """The result of one candidate; `measured` is None where it cannot run here."""
        result = CandidateResult(
            name=candidate.name,
            kind=candidate.kind,
            file=None if candidate.file is None else str(candidate.file),
            sha256=candidate.sha256,
            precision=candidate.precision,
            notes=(*candidate.notes, *self._notes(candidate)),
            unavailable=candidate.unavailable,
        )
        if measured is None:
            return result
        tolerance = self._request.tolerances[candidate.precision]
        if candidate.rounded:
            why = "half a gray level more, since a plan's maps come rounded"
            tolerance = tolerance.widened(_ROUNDING, _ROUNDED, why)
        rows = tolerance.rows(measured.metrics)
        failures = [row for row in rows if not row.passed]
        evidence = self._evidence(candidate, offending_pictures(failures, measured.pictures))
        clean = self._clean_areas(candidate)
        clean_metrics: dict[str, float] = {}
        if clean is not None:
            clean_metrics = clean.metrics(
                self._clean_reference[candidate.reference or self._reference, candidate.spec.frame_hw]
            )
            clean_rows = tolerance.rows(clean_metrics)
            rows += clean_rows
            if not all(row.passed for row in clean_rows):
                evidence += self._clean_evidence(candidate, clean)
        return replace(
            result,
            seconds_per_frame=measured.seconds_per_frame,
            rows=tuple(rows),
            metrics=measured.metrics | clean_metrics,
            pictures=measured.pictures,
            quantiles=measured.quantiles,
            evidence=tuple(map(str, evidence)),
            divergence=self._divergence(candidate, measured),
            clean=None if clean is None else clean.summary(),
        )

    def _notes(self, candidate: Candidate) -> list[str]:
        notes = []
        if candidate.rounded and candidate.run is not None:
            notes.append("a plan's maps come rounded to 8 bits, so its differences may be half a gray level more")
        if self._request.bisect and candidate.kind != "onnx":
            notes.append("--bisect looks into ONNX files alone")
        elif self._request.bisect and candidate.reference is not None:
            notes.append("--bisect looks into files without --tile and --network alone")
        return notes

    def _evidence(self, candidate: Candidate, chosen: Sequence[int]) -> list[Path]:
        """Pictures of what fails, where a folder for them is named."""
        if not chosen or self._request.evidence is None:
            return []
        folder = _claim(self._request.evidence, self._request.overwrite)
        return save_evidence(folder, candidate, self._reference, self._pictures, chosen)

    def _clean_areas(self, candidate: Candidate) -> CleanAreas | None:
        """What a candidate takes for a defect on clean steel, and the reference at the same frame size."""
        patches, threshold, spec = self._request.clean, self._request.threshold, candidate.spec
        if not patches:
            return None
        assert candidate.run is not None
        reference = candidate.reference or self._reference
        if (reference, spec.frame_hw) not in self._clean_reference:
            found = clean_areas(reference, spec, patches, threshold, self._progress)
            self._clean_reference[reference, spec.frame_hw] = found
        return clean_areas(candidate.run, spec, patches, threshold, self._progress)

    def _clean_evidence(self, candidate: Candidate, areas: CleanAreas) -> list[Path]:
        """The worst patch, where a folder for evidence is named."""
        if self._request.evidence is None:
            return []
        assert candidate.run is not None
        path = _claim(self._request.evidence, self._request.overwrite) / (
            safe_name(f"{candidate.name}-clean steel") + ".png"
        )
        threshold = self._request.threshold
        write_image(path, worst_patch_picture(candidate.name, candidate.run, candidate.spec, areas, threshold))
        return [path]

    def _divergence(self, candidate: Candidate, measured: Measurement) -> Divergence | None:
        """The first layer of an ONNX file that differs, on its worst picture."""
        if not self._request.bisect or candidate.kind != "onnx" or candidate.reference is not None:
            return None
        spec = candidate.spec
        if spec not in self._traced:
            self._progress.log(f"tracing {self._checkpoint.model}, to look into it")
            self._traced[spec] = TracedNetwork(self._checkpoint, spec)
        self._progress.log(f"looking for the first layer of {candidate.name} that differs")
        worst = max(range(len(measured.pictures)), key=lambda index: measured.pictures[index].max)
        name, image = self._pictures.names[worst], self._worst_window(candidate, self._pictures.picture(worst))
        return first_divergence(self._traced[spec], candidate, name, image)

    def _worst_window(self, candidate: Candidate, image: np.ndarray) -> np.ndarray:
        """What a candidate is shown where it differs most: a window of a picture, or the picture."""
        grid = candidate.grid(image)
        if grid is None or candidate.run is None:
            return image
        difference = np.abs(
            candidate.answer(candidate.run, image) - candidate.answer(candidate.reference or self._reference, image)
        )
        worst = max(grid, key=lambda window: np.nan_to_num(difference[window.kept], nan=1.0).max())
        return np.ascontiguousarray(image[worst.seen])


def _claim(folder: Path, overwrite: bool) -> Path:
    return claim_folder(folder, "parity-evidence", overwrite, "sdi-parity --evidence")


def _told_of_another_checkpoint(candidate: Candidate, checkpoint: Path, digest: str) -> Candidate:
    if candidate.checkpoint_sha256 in (None, digest):
        return candidate
    return replace(candidate, notes=(*candidate.notes, f"it was exported from another checkpoint than {checkpoint}"))


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
