"""A checkpoint becomes an ONNX file with its manifest: traced, checked, compared with PyTorch, then kept."""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from sdi.export.engines.base import BuildOptions, EngineBuilder, Exported
from sdi.export.feed import Feed
from sdi.export.int8 import Int8Options, Track
from sdi.export.int8_report import write_int8_report
from sdi.export.onnx_model import FrameShape, onnx_from_module
from sdi.export.parity.comparison import compare
from sdi.export.parity.figures import Parity, to_levels
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.runners import Runner, runner_from_module
from sdi.export.parity.tolerances import TOLERANCES
from sdi.export.plan import engine_from_onnx
from sdi.export.precision import Lowered, Precision, lowered_model
from sdi.export.work import work_by_precision
from sdi.runtime.common.errors import GateError, InputError
from sdi.runtime.common.files import atomic_path, ensure_folder, sha256_of
from sdi.runtime.engine.golden import golden_check, golden_frames, golden_record
from sdi.runtime.engine.manifest import Manifest, Profile, manifest_path, refuse_foreign, write_manifest
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.engine_module import EngineModule
from sdi.train.models.deploy import deploy_form

__all__ = ["ExportRequest", "Precision", "export_engine", "export_onnx", "peak_memory_gb", "random_checkpoint"]

# Gray levels, of a tile's mean: a thousand pixels average rounding away.
# A processor that adds in half too, as ARM does, has three times the difference of one that adds in float32.
_GOLDEN_TOLERANCES = {"fp32": 1.0, "fp16": 6.0, "int8": 12.0}
# Sizes that plans of a --dynamic network take unless told otherwise: least, best, greatest.
_DYNAMIC_FRAMES = ((32, 32), (1080, 1920), (2160, 3840))


@dataclass(frozen=True)
class ExportRequest:
    """What to make of a checkpoint."""

    precision: Precision = "fp32"
    frame_hw: tuple[int, int] | None = None  # the camera's size; None: the network's
    batch: int = 1
    dynamic: bool = False  # batch, height and width of `frame` are free
    raw: bool = False  # float32 probabilities instead of uint8
    planar: bool = False  # float32 [N, 3, H, W] in and [N, 1, H, W] out, for DeepStream's nvinfer and DLA
    batches: tuple[int, int, int] | None = None  # least, best, greatest of a plan; the ONNX file takes any
    frames: tuple[tuple[int, int], ...] | None = None  # the same for height and width, with `dynamic`
    int8: Int8Options | None = None  # how to quantise, for precision int8

    def file_name(self, model: str) -> str:
        """`minet-fp16.onnx`; whatever is not the default is named too, so that no two requests collide."""
        parts = [model, self.precision]
        if self.int8 is not None and self.int8.rest != "fp16":
            parts.append(f"rest{self.int8.rest}")
        if self.dynamic:
            parts.append("dynamic")
        elif self.frame_hw is not None:
            parts.append(f"{self.frame_hw[0]}x{self.frame_hw[1]}")
        if self.batches is not None and not self.dynamic:
            parts.append(f"batch{self.batches[0]}to{self.batches[2]}")
        elif self.batch != 1:
            parts.append(f"batch{self.batch}")
        if self.raw:
            parts.append("raw")
        if self.planar:
            parts.append("planar")
        return "-".join(parts) + ".onnx"

    @property
    def free_batch(self) -> bool:
        """Whether any number of frames goes into the ONNX file."""
        return self.dynamic or self.batches is not None

    def profile(self, network_hw: tuple[int, int]) -> Profile | None:
        """Shapes that plans of it are built for; None where there is but one."""
        if not self.free_batch:
            return None
        batches = self.batches or (1, 1, 1)
        frames = (self.frames or _DYNAMIC_FRAMES) if self.dynamic else (self.frame_hw or network_hw,) * 3
        least, best, greatest = ((n, *size) for n, size in zip(batches, frames, strict=True))
        return least, best, greatest

    def float32_form(self, manifest: Manifest) -> ExportRequest:
        """The request whose file builders take that choose precisions themselves: for INT8, float32 with Q/DQ.

        Args:
            manifest: of the file that was exported for this request; its layers are quantised here too.
        """
        if self.int8 is None:
            return replace(self, precision="fp32")
        return replace(self, int8=replace(self.int8, rest="fp32", keep=tuple(manifest.quantisation.get("kept", ()))))

    def feed(self, network_hw: tuple[int, int]) -> Feed:
        """How the ONNX file takes frames."""
        frame_hw = None if self.dynamic else self.frame_hw or network_hw
        return Feed(frame_hw, None if self.free_batch else self.batch, self.planar)


def export_onnx(
    checkpoint: Checkpoint,
    request: ExportRequest,
    folder: Path,
    *,
    checkpoint_sha256: str | None,
    overwrite: bool = False,
    images: Pictures | None = None,
    say: Callable[[str], None] = lambda text: None,
    track: Track = lambda items, what: items,
) -> Exported:
    """Write `FOLDER/MODEL-PRECISION.onnx` and then its manifest; nothing of it when the file is not right.

    Args:
        checkpoint_sha256: of the checkpoint file; None marks random weights in the manifest.
        overwrite: replace a file that sdi-export did not make.
        images: what to compare on; None draws synthetic strip.
        say: hears what is being done.
        track: wraps long loops, with words for them.
    Raises:
        InputError: the target is there and is not ours, or cannot be written; see also `int8_model`.
        GateError: the file answers otherwise than PyTorch, or INT8 loses too much; nothing is kept.
    """
    started = time.monotonic()
    path = ensure_folder(folder) / request.file_name(checkpoint.model)
    refuse_foreign(path, overwrite)
    network = load_network(checkpoint)
    deployed = deploy_form(network)
    network_hw = checkpoint.input_hw
    frame_hw = request.frame_hw or network_hw
    shape = FrameShape(*frame_hw, batch=request.batch, dynamic=request.dynamic, free_batch=request.free_batch)
    resizes = True if request.dynamic else None
    module = EngineModule(
        deployed, checkpoint.preprocessing, network_hw, raw=request.raw, resizes=resizes, planar=request.planar
    )
    say(f"tracing {checkpoint.model} {request.precision}")
    model = onnx_from_module(module, shape)
    del module, deployed
    gc.collect()  # tracing leaves a copy of the weights in cycles
    opset = model.opset_import[0].version
    say(f"traced in {time.monotonic() - started:.1f} s, {len(model.graph.node)} nodes, opset {opset}")
    reference = runner_from_module(EngineModule(network, checkpoint.preprocessing, network_hw, raw=True))
    pictures, feed = images or Pictures(None), request.feed(network_hw)
    # Eight bits hide what the float32 graph that they come from may get wrong.
    exact = feed.runner(model) if request.precision == "int8" else None
    traced = None if exact is None else _levels(exact, frame_hw)
    del exact
    lowered = lowered_model(
        model,
        request.precision,
        feed,
        pictures,
        int8=request.int8,
        name=checkpoint.model,
        preprocessing=checkpoint.preprocessing.to_dict(),
        weights=checkpoint_sha256,
        say=say,
        track=track,
    )
    model = lowered.model
    with atomic_path(path) as beside:
        _save(model, beside, path)
        onnx.checker.check_model(str(beside), full_check=True)
        layers = work_by_precision(model)
        runner = feed.runner(model)
        lowered = replace(lowered, model=onnx.ModelProto())
        del model  # a wide network is large, and ONNX Runtime has its own copy now
        parity = _gate(reference, runner, request, feed, pictures)
        say("ONNX checker passed; " + _figures(parity))
        golden = _golden(request, frame_hw, _levels(reference, frame_hw), _levels(runner, frame_hw), traced)
        manifest = replace(
            _manifest(beside, lowered, checkpoint, request, golden, parity, frame_hw, checkpoint_sha256),
            layers=layers,
        )
        # A manifest of an older file must not lie beside the new one, whatever happens in between.
        manifest_path(path).unlink(missing_ok=True)
    write_manifest(path, manifest)
    if lowered.quantisation is not None:
        say(f"report: {write_int8_report(path, lowered.quantisation)}")
    seconds = time.monotonic() - started
    say(f"kept {path.name}: {manifest.bytes / 1e6:.1f} MB, {seconds:.1f} s, peak memory {peak_memory_gb():.1f} GB")
    return Exported(path, manifest, seconds)


def export_engine(
    exported: Exported,
    builder: EngineBuilder,
    options: BuildOptions,
    checkpoint: Checkpoint,
    request: ExportRequest,
    *,
    checkpoint_sha256: str | None,
    overwrite: bool = False,
    images: Pictures | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Build the engine of an exported ONNX file, beside it. See `engine_from_onnx` for what it raises.

    A builder that chooses precisions itself is given the float32 form, exported for it and dropped afterwards.
    """
    folder = exported.path.parent
    if not builder.needs_float32(request.precision):
        return engine_from_onnx(exported.path, builder, options, folder, overwrite=overwrite, say=say)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sdi-") as scratch:
        twin = export_onnx(
            checkpoint,
            request.float32_form(exported.manifest),
            Path(scratch),
            checkpoint_sha256=checkpoint_sha256,
            images=images,
            say=say,
        )
        return engine_from_onnx(
            twin.path,
            builder,
            options,
            folder,
            name=exported.path.stem,
            like=exported.manifest,
            overwrite=overwrite,
            say=say,
        )


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
    feed: Feed,
    images: Pictures,
) -> Parity:
    parity = compare(reference, runner, feed.frames(images))
    failures = TOLERANCES[request.precision].failures(parity)
    if failures:
        raise GateError(
            f"the exported ONNX file does not answer as PyTorch does: {'; '.join(failures)}; nothing was kept"
        )
    return parity


def _levels(runner: Runner, frame_hw: tuple[int, int]) -> np.ndarray:
    """The answers to the golden pictures, (2, H, W) uint8."""
    return np.stack([to_levels(runner(frame[None])[0]) for frame in golden_frames(*frame_hw)])


def _golden(
    request: ExportRequest,
    frame_hw: tuple[int, int],
    reference: np.ndarray,
    made: np.ndarray,
    traced: np.ndarray | None,
) -> dict[str, Any]:
    """The golden record, once the file is known to keep it.

    The first picture has colours, so it tells BGR from RGB where gray steel does not. It is unlike all steel, and what
    eight bits make of it is their own: an INT8 file is asked for what it answers here, and PyTorch's answer is asked
    of the float32 graph that it comes from.

    Args:
        reference, made, traced: answers of PyTorch, of the file, and of the float32 graph where the file is INT8.
    Raises:
        GateError: the answer is another than PyTorch's.
    """
    precision: Precision = request.precision if traced is None else "fp32"
    record = golden_record(frame_hw, reference, tolerance=_GOLDEN_TOLERANCES[precision])
    answer = made if traced is None else traced
    check = golden_check(record, lambda frames: answer)
    if not check.passed:
        raise GateError(
            f"the exported ONNX file answers the golden pictures otherwise than PyTorch: off by {check.difference:.1f} "
            f"gray levels, {check.tolerance:g} are allowed; nothing was kept"
        )
    return record if traced is None else golden_record(frame_hw, made, tolerance=_GOLDEN_TOLERANCES["int8"])


def _save(model: onnx.ModelProto, beside: Path, path: Path) -> None:
    try:
        onnx.save(model, beside)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; make room or choose another folder") from error


def _figures(parity: Parity) -> str:
    figures = parity.to_dict()
    return (
        f"against PyTorch on {len(parity.pictures)} pictures: max {figures['max']:.1e}, "
        f"p99.9 {figures['p999']:.1e}, mean {figures['mean']:.1e}, mask IoU {figures['iou']:.4f}"
    )


def _manifest(
    file: Path,
    lowered: Lowered,
    checkpoint: Checkpoint,
    request: ExportRequest,
    golden: dict[str, Any],
    parity: Parity,
    frame_hw: tuple[int, int],
    checkpoint_sha256: str | None,
) -> Manifest:
    digest = sha256_of(file)
    quantisation = lowered.quantisation
    return Manifest(
        model=checkpoint.model,
        family=checkpoint.family,
        precision=request.precision,
        target="onnx",
        face="raw" if request.raw else "planar" if request.planar else "uint8",
        batch=None if request.free_batch else request.batch,
        frame_hw=None if request.dynamic else frame_hw,
        network_hw=checkpoint.input_hw,
        preprocessing=checkpoint.preprocessing.to_dict(),
        random_weights=checkpoint_sha256 is None,
        checkpoint_sha256=checkpoint_sha256,
        onnx_sha256=digest,
        bytes=file.stat().st_size,
        sha256=digest,
        builder={name: version(name) for name in ("sdi", "torch", "onnx", "onnxscript")},
        golden=golden,
        parity=parity.to_dict(),
        metrics=checkpoint.metrics,
        calibration=quantisation.fingerprint if quantisation is not None else None,
        high_precision_layers=lowered.float32,
        quantisation=quantisation.summary() if quantisation is not None else {},
        notes=lowered.notes,
        profile=request.profile(checkpoint.input_hw),
        native_hw=checkpoint.native_hw,
        mm_per_pixel=checkpoint.mm_per_pixel,
    )
