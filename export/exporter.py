"""A checkpoint becomes an ONNX file with its manifest: traced, checked, compared with PyTorch, then kept."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch

from sdi.export.onnx_model import FrameShape, float32_nodes, onnx_from_face, with_probability_output
from sdi.export.parity import (
    TOLERANCES,
    Parity,
    Pictures,
    Runner,
    compare,
    frames_of,
    runner_from_face,
    runner_from_onnx,
)
from sdi.runtime.errors import GateError, InputError
from sdi.runtime.files import atomic_path, ensure_folder, sha256_of
from sdi.runtime.golden import golden_frame, golden_record
from sdi.runtime.manifest import Manifest, manifest_path, read_manifest, write_manifest
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.face import Face
from sdi.train.models.deploy import deploy_form

__all__ = ["ExportRequest", "Exported", "Precision", "export_onnx", "peak_memory_gb", "random_checkpoint"]

Precision = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class ExportRequest:
    """What to make of a checkpoint."""

    precision: Precision = "fp32"
    frame_hw: tuple[int, int] | None = None  # the camera's size; None: the network's
    batch: int = 1
    dynamic: bool = False  # batch, height and width of `frame` are free
    raw: bool = False  # float32 probabilities instead of uint8

    def file_name(self, model: str) -> str:
        """`minet-fp16.onnx`; whatever is not the default is named too, so that no two requests collide."""
        parts = [model, self.precision]
        if self.dynamic:
            parts.append("dynamic")
        elif self.frame_hw is not None:
            parts.append(f"{self.frame_hw[0]}x{self.frame_hw[1]}")
        if self.batch != 1 and not self.dynamic:
            parts.append(f"batch{self.batch}")
        if self.raw:
            parts.append("raw")
        return "-".join(parts) + ".onnx"


@dataclass(frozen=True)
class Exported:
    """What came of a request."""

    path: Path
    manifest: Manifest
    seconds: float


def export_onnx(
    checkpoint: Checkpoint,
    request: ExportRequest,
    folder: Path,
    *,
    checkpoint_sha256: str | None,
    overwrite: bool = False,
    images: Pictures | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write `FOLDER/MODEL-PRECISION.onnx` and then its manifest; nothing of it when the file is not right.

    Args:
        checkpoint_sha256: of the checkpoint file; None marks random weights in the manifest.
        overwrite: replace a file that sdi-export did not make.
        images: what to compare on; None draws synthetic strip.
        say: hears what is being done.
    Raises:
        InputError: the target is there and is not ours, or cannot be written.
        GateError: the file answers otherwise than PyTorch; nothing is kept.
    """
    started = time.monotonic()
    path = ensure_folder(folder) / request.file_name(checkpoint.model)
    _refuse_foreign(path, overwrite)
    network = load_network(checkpoint)
    deployed = deploy_form(network)
    if request.precision == "fp16":
        deployed.half()
    network_hw = checkpoint.input_hw
    frame_hw = request.frame_hw or network_hw
    shape = FrameShape(*frame_hw, batch=request.batch, dynamic=request.dynamic)
    resizes = True if request.dynamic else None
    face = Face(deployed, checkpoint.preprocessing, network_hw, raw=request.raw, resizes=resizes)
    say(f"tracing {checkpoint.model} {request.precision}")
    model = onnx_from_face(face, shape)
    del face, deployed
    opset = model.opset_import[0].version
    say(f"traced in {time.monotonic() - started:.1f} s, {len(model.graph.node)} nodes, opset {opset}")
    reference = runner_from_face(Face(network, checkpoint.preprocessing, network_hw, raw=True))
    with atomic_path(path) as beside:
        onnx.save(model, beside)
        onnx.checker.check_model(str(beside), full_check=True)
        kept_float = float32_nodes(model) if request.precision == "fp16" else ()
        runner = runner_from_onnx(with_probability_output(model), None if request.dynamic else request.batch)
        del model  # a wide network is large, and ONNX Runtime has its own copy now
        parity = _gate(reference, runner, request, frame_hw, images or Pictures(None))
        say("ONNX checker passed; " + _figures(parity))
        manifest = _manifest(beside, kept_float, checkpoint, request, reference, parity, frame_hw, checkpoint_sha256)
        # A manifest of an older file must not lie beside the new one, whatever happens in between.
        manifest_path(path).unlink(missing_ok=True)
    write_manifest(path, manifest)
    seconds = time.monotonic() - started
    say(f"kept {path.name}: {manifest.bytes / 1e6:.1f} MB, {seconds:.1f} s, peak memory {peak_memory_gb():.1f} GB")
    return Exported(path, manifest, seconds)


def peak_memory_gb() -> float:
    """Greatest resident memory of this process so far, in 10^9 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def random_checkpoint(model: str, seed: int = 0) -> Checkpoint:
    """A checkpoint of random weights, for timing."""
    from sdi.train.models import build_model, model_spec

    torch.manual_seed(seed)
    spec = model_spec(model)
    return Checkpoint(model, spec.input_hw, spec.preprocessing, build_model(model).state_dict())


def _gate(
    reference: Runner,
    runner: Runner,
    request: ExportRequest,
    frame_hw: tuple[int, int],
    images: Pictures,
) -> Parity:
    parity = compare(reference, runner, frames_of(images, None if request.dynamic else frame_hw))
    failures = TOLERANCES[request.precision].failures(parity)
    if failures:
        raise GateError(
            f"the exported ONNX file does not answer as PyTorch does: {'; '.join(failures)}; nothing was kept"
        )
    return parity


def _figures(parity: Parity) -> str:
    figures = parity.to_dict()
    return (
        f"against PyTorch on {len(parity.pictures)} pictures: max {figures['max']:.1e}, "
        f"p99.9 {figures['p999']:.1e}, mean {figures['mean']:.1e}, mask IoU {figures['iou']:.4f}"
    )


def _manifest(
    file: Path,
    kept_float: tuple[str, ...],
    checkpoint: Checkpoint,
    request: ExportRequest,
    reference: Runner,
    parity: Parity,
    frame_hw: tuple[int, int],
    checkpoint_sha256: str | None,
) -> Manifest:
    digest = sha256_of(file)
    golden = np.rint(reference(golden_frame(*frame_hw)[None])[0] * 255).astype(np.uint8)
    return Manifest(
        model=checkpoint.model,
        family=checkpoint.family,
        precision=request.precision,
        target="onnx",
        face="raw" if request.raw else "uint8",
        batch=None if request.dynamic else request.batch,
        frame_hw=None if request.dynamic else frame_hw,
        network_hw=checkpoint.input_hw,
        preprocessing=checkpoint.preprocessing.to_dict(),
        random_weights=checkpoint_sha256 is None,
        checkpoint_sha256=checkpoint_sha256,
        onnx_sha256=digest,
        bytes=file.stat().st_size,
        sha256=digest,
        builder={name: version(name) for name in ("sdi", "torch", "onnx", "onnxscript")},
        # Gray levels, of a tile's mean: a thousand pixels average rounding away.
        golden=golden_record(frame_hw, golden, tolerance=1.0 if request.precision == "fp32" else 3.0),
        parity=parity.to_dict(),
        metrics=checkpoint.metrics,
        high_precision_layers=kept_float,
    )


def _refuse_foreign(path: Path, overwrite: bool) -> None:
    if not path.exists() or overwrite:
        return
    try:
        ours = read_manifest(path) is not None
    except InputError:
        ours = False
    if not ours:
        raise InputError(f"{path} exists and has no manifest of sdi; choose another -o or pass --overwrite")
