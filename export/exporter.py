"""A checkpoint becomes an ONNX file with its manifest: traced, checked, compared with PyTorch, then kept."""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from sdi.export.engines.base import BuildOptions, EngineBuilder, Exported
from sdi.export.int8 import Int8Options
from sdi.export.int8_report import write_int8_report
from sdi.export.network_size import refuse_global_layers
from sdi.export.onnx_model import FrameShape, onnx_from_module
from sdi.export.parity.comparison import compare
from sdi.export.parity.metrics import Parity, to_levels
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.tolerances import TOLERANCES
from sdi.export.plan import WantedPlan, engine_from_onnx
from sdi.export.precision import Converted, Precision, converted_model
from sdi.export.runners import InputSpec, Runner, runner_from_module, runner_in_windows
from sdi.export.traced_model import TracedModel
from sdi.export.window_graph import frame_model, group_size
from sdi.export.work import work_by_precision
from sdi.runtime.common.errors import GateError, InputError
from sdi.runtime.common.files import atomic_path, ensure_folder, sha256_of
from sdi.runtime.common.progress import SILENT, Progress
from sdi.runtime.engine.golden import golden_check, golden_frames, golden_record
from sdi.runtime.engine.manifest import Manifest, Profile, manifest_path, refuse_foreign, write_manifest
from sdi.runtime.engine.windows import WindowGrid, by
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.engine_module import EngineModule
from sdi.train.models.blocks import SaliencyNetwork
from sdi.train.models.deploy import deploy_form

__all__ = [
    "GOLDEN_TOLERANCES",
    "ExportRequest",
    "ExportSource",
    "Precision",
    "export_engine",
    "export_onnx",
    "golden_answers",
    "peak_memory_gb",
    "random_checkpoint",
]

# Gray levels, of a tile's mean: a thousand pixels average rounding away.
# A processor that adds in half too, as ARM does, has three times the difference of one that adds in float32.
GOLDEN_TOLERANCES = {"fp32": 1.0, "fp16": 6.0, "int8": 12.0}
# Sizes that plans of a --dynamic network take unless told otherwise: min, opt, max.
_DYNAMIC_FRAMES = ((32, 32), (1080, 1920), (2160, 3840))


@dataclass(frozen=True)
class ExportSource:
    """What is exported, and the pictures that the files are compared with PyTorch on."""

    checkpoint: Checkpoint
    sha256: str | None  # of the checkpoint's file; None marks random weights in the manifest
    pictures: Pictures = field(default_factory=Pictures)


@dataclass(frozen=True)
class ExportRequest:
    """What to make of a checkpoint."""

    precision: Precision = "fp32"
    frame_hw: tuple[int, int] | None = None  # the camera's size; None: the network's
    batch: int = 1
    dynamic: bool = False  # batch, height and width of `frame` are free
    raw: bool = False  # float32 probabilities instead of uint8
    planar: bool = False  # float32 [N, 3, H, W] in and [N, 1, H, W] out, for DeepStream's nvinfer and DLA
    batches: tuple[int, int, int] | None = None  # min, opt, max of a plan; the ONNX file takes any
    frames: tuple[tuple[int, int], ...] | None = None  # the same for height and width, with `dynamic`
    int8: Int8Options | None = None  # how to quantise, for precision int8
    network_hw: tuple[int, int] | None = None  # where it is not the size that the network was trained at
    grid: WindowGrid | None = None  # of frames that are cut inside; its frame is `frame_hw`

    def __post_init__(self) -> None:
        if self.grid is not None:
            if self.dynamic or self.free_batch or self.batch != 1 or self.raw or self.planar:
                raise InputError(
                    "--tile puts one uint8 frame of a fixed size in windows; give it with --frame HxW, without "
                    "--dynamic, --batch, --raw and --io planar"
                )
            group_size(len(self.grid))  # too many are told of before the work

    def file_name(self, model: str) -> str:
        """`minet-fp16.onnx`; whatever is not the default is named too, so that no two requests collide."""
        parts = [model, self.precision]
        if self.int8 is not None and self.int8.rest != "fp16":
            parts.append(f"rest{self.int8.rest}")
        if self.dynamic:
            parts.append("dynamic")
        elif self.frame_hw is not None:
            parts.append(by(self.frame_hw))
        if self.grid is not None:
            parts.append(f"tile{by(self.grid.window_hw)}")
        if self.batches is not None and not self.dynamic:
            parts.append(f"batch{self.batches[0]}to{self.batches[2]}")
        elif self.batch != 1:
            parts.append(f"batch{self.batch}")
        if self.network_hw is not None:
            parts.append(f"network{by(self.network_hw)}")
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
        low, opt, high = ((n, *size) for n, size in zip(batches, frames, strict=True))
        return low, opt, high

    def float32_form(self, manifest: Manifest) -> ExportRequest:
        """The request of the float32 form, for builders that choose precisions themselves: for INT8, float32 with Q/DQ.

        Args:
            manifest: of the file that was exported for this request; its layers are quantised here too.
        """
        if self.int8 is None:
            return replace(self, precision="fp32")
        return replace(self, int8=replace(self.int8, rest="fp32", keep=tuple(manifest.quantisation.get("kept", ()))))

    def input_spec(self, network_hw: tuple[int, int]) -> InputSpec:
        """How the ONNX file takes frames."""
        frame_hw = None if self.dynamic else self.frame_hw or network_hw
        return InputSpec(frame_hw, None if self.free_batch else self.batch, self.planar, fills=self.grid is not None)


def export_onnx(
    source: ExportSource,
    request: ExportRequest,
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Write `FOLDER/MODEL-PRECISION.onnx` and then its manifest. Nothing is kept of a file that fails a check.

    Args:
        overwrite: replace a file that sdi-export did not make.
    Raises:
        InputError: the target is there and is not ours, or cannot be written; see also `int8_model`.
        GateError: the file's answers differ from PyTorch's, or INT8 loses too much; nothing is kept.
    """
    started = time.monotonic()
    checkpoint = source.checkpoint
    path = ensure_folder(folder) / request.file_name(checkpoint.model)
    refuse_foreign(path, overwrite)
    network = load_network(checkpoint)
    frame_hw = request.frame_hw or checkpoint.input_hw
    reference = runner_from_module(EngineModule(network, checkpoint.preprocessing, checkpoint.input_hw, raw=True))
    if request.grid is not None:
        reference = runner_in_windows(reference, request.grid)
    progress.log(f"tracing {checkpoint.model} {request.precision}")
    traced = _traced(source, request, network)
    gc.collect()  # tracing leaves a copy of the weights in cycles
    opset, nodes = traced.model.opset_import[0].version, len(traced.model.graph.node)
    if request.network_hw is not None:
        refuse_global_layers(traced.model, checkpoint.model)
    progress.log(f"traced in {time.monotonic() - started:.1f} s, {nodes} nodes, opset {opset}")
    pictures, spec = source.pictures, request.input_spec(checkpoint.input_hw)
    float32_answers = None
    if request.precision == "int8":  # eight bits hide what the float32 graph that they come from may get wrong
        float32_answers = golden_answers(spec.runner(_for_frames(traced.model, request)), frame_hw)
    converted = converted_model(traced, request.precision, pictures, request.int8, progress)
    converted = replace(converted, model=_for_frames(converted.model, request))
    del traced
    with atomic_path(path) as beside:
        _save(converted.model, beside, path)
        onnx.checker.check_model(str(beside), full_check=True)
        layers = work_by_precision(converted.model)
        runner = spec.runner(converted.model)
        # A wide network is large, and ONNX Runtime has its own copy now.
        converted = replace(converted, model=onnx.ModelProto())
        parity = _gate(reference, runner, request, spec.frames(pictures))
        progress.log("ONNX checker passed; " + _metrics_in_words(parity))
        golden = _golden(
            request, frame_hw, golden_answers(reference, frame_hw), golden_answers(runner, frame_hw), float32_answers
        )
        manifest = replace(_manifest(beside, source, request, converted, parity), golden=golden, layers=layers)
        # A manifest of an older file must not lie beside the new one, whatever happens in between.
        manifest_path(path).unlink(missing_ok=True)
    write_manifest(path, manifest)
    if converted.quantisation is not None:
        progress.log(f"report: {write_int8_report(path, converted.quantisation)}")
    seconds = time.monotonic() - started
    size, peak = manifest.bytes / 1e6, peak_memory_gb()
    progress.log(f"kept {path.name}: {size:.1f} MB, {seconds:.1f} s, peak memory {peak:.1f} GB")
    return Exported(path, manifest, seconds)


def export_engine(
    exported: Exported,
    source: ExportSource,
    request: ExportRequest,
    builder: EngineBuilder,
    options: BuildOptions,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Build the engine of an exported ONNX file, beside it. See `engine_from_onnx` for what it raises.

    A builder that chooses precisions itself is given the float32 form, exported for it and dropped afterwards.
    """
    folder = exported.path.parent
    if not builder.needs_float32(request.precision):
        return engine_from_onnx(exported.path, builder, options, folder, overwrite=overwrite, progress=progress)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sdi-") as scratch:
        twin = export_onnx(source, request.float32_form(exported.manifest), Path(scratch), progress=progress)
        wanted = WantedPlan(exported.manifest, exported.path.stem)
        return engine_from_onnx(
            twin.path, builder, options, folder, wanted=wanted, overwrite=overwrite, progress=progress
        )


def golden_answers(runner: Runner, frame_hw: tuple[int, int]) -> np.ndarray:
    """The answers to the golden pictures, (2, H, W) uint8."""
    return np.stack([to_levels(runner(frame[None])[0]) for frame in golden_frames(*frame_hw)])


def peak_memory_gb() -> float:
    """Peak resident memory of this process so far, in 10^9 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def random_checkpoint(model: str, seed: int = 0) -> Checkpoint:
    """A checkpoint of random weights, for timing."""
    from sdi.train.models import build_model, model_spec

    torch.manual_seed(seed)
    spec = model_spec(model)
    return Checkpoint(model, spec.input_hw, spec.preprocessing, build_model(model).state_dict())


def _traced(source: ExportSource, request: ExportRequest, network: SaliencyNetwork) -> TracedModel:
    checkpoint = source.checkpoint
    network_hw = checkpoint.input_hw
    module = EngineModule(
        deploy_form(network),
        checkpoint.preprocessing,
        network_hw,
        raw=request.raw,
        resizes=True if request.dynamic else None,
        planar=request.planar,
    )
    grid = request.grid  # the network is traced, and quantised, for one window
    height, width = (request.frame_hw or network_hw) if grid is None else grid.window_hw
    shape = FrameShape(height, width, request.batch, request.dynamic, request.free_batch)
    return TracedModel(
        onnx_from_module(module, shape),
        checkpoint.model,
        checkpoint.preprocessing.to_dict(),
        source.sha256,
        request.input_spec(network_hw) if grid is None else InputSpec(grid.window_hw),
    )


def _for_frames(model: onnx.ModelProto, request: ExportRequest) -> onnx.ModelProto:
    return model if request.grid is None else frame_model(model, request.grid)


def _gate(
    reference: Runner, runner: Runner, request: ExportRequest, frames: Iterable[tuple[str, np.ndarray]]
) -> Parity:
    parity = compare(reference, runner, frames)
    failures = TOLERANCES[request.precision].failures(parity)
    if failures:
        raise GateError(
            f"the exported ONNX file does not answer as PyTorch does: {'; '.join(failures)}; nothing was kept"
        )
    return parity


def _golden(
    request: ExportRequest,
    frame_hw: tuple[int, int],
    reference: np.ndarray,
    made: np.ndarray,
    float32: np.ndarray | None,
) -> dict[str, Any]:
    """Check the answers to the golden pictures, and record them.

    The first picture is coloured, so it shows BGR taken for RGB, which gray steel does not. No steel looks like it, so
    INT8 answers it in its own way. The record of an INT8 file therefore holds the file's own answers. PyTorch's answers
    are compared with those of the float32 graph that the file comes from.

    Args:
        reference, made, float32: answers of PyTorch, of the file, and, of an INT8 file, of its float32 graph.
    Raises:
        GateError: the answers differ from PyTorch's.
    """
    precision: Precision = request.precision if float32 is None else "fp32"
    record = golden_record(frame_hw, reference, tolerance=GOLDEN_TOLERANCES[precision])
    answer = made if float32 is None else float32
    check = golden_check(record, lambda frames: answer)
    if not check.passed:
        raise GateError(
            f"the exported ONNX file answers the golden pictures otherwise than PyTorch: off by {check.difference:.1f} "
            f"gray levels, {check.tolerance:g} are allowed; nothing was kept"
        )
    return record if float32 is None else golden_record(frame_hw, made, tolerance=GOLDEN_TOLERANCES["int8"])


def _save(model: onnx.ModelProto, beside: Path, path: Path) -> None:
    try:
        onnx.save(model, beside)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; make room or choose another folder") from error


def _metrics_in_words(parity: Parity) -> str:
    metrics = parity.to_dict()
    return (
        f"against PyTorch on {len(parity.pictures)} pictures: max {metrics['max']:.1e}, "
        f"p99.9 {metrics['p999']:.1e}, mean {metrics['mean']:.1e}, mask IoU {metrics['iou']:.4f}"
    )


def _manifest(
    file: Path, source: ExportSource, request: ExportRequest, converted: Converted, parity: Parity
) -> Manifest:
    """Everything but the golden record and the layers."""
    checkpoint, quantisation = source.checkpoint, converted.quantisation
    digest = sha256_of(file)
    return Manifest(
        model=checkpoint.model,
        family=checkpoint.family,
        precision=request.precision,
        target="onnx",
        face="raw" if request.raw else "planar" if request.planar else "uint8",
        batch=None if request.free_batch else request.batch,
        frame_hw=None if request.dynamic else request.frame_hw or checkpoint.input_hw,
        network_hw=checkpoint.input_hw,
        preprocessing=checkpoint.preprocessing.to_dict(),
        random_weights=source.sha256 is None,
        checkpoint_sha256=source.sha256,
        onnx_sha256=digest,
        bytes=file.stat().st_size,
        sha256=digest,
        builder={name: version(name) for name in ("sdi", "torch", "onnx", "onnxscript")},
        golden={},
        parity=parity.to_dict(),
        metrics=checkpoint.metrics,
        calibration=quantisation.fingerprint if quantisation is not None else None,
        high_precision_layers=converted.float32,
        quantisation=quantisation.summary() if quantisation is not None else {},
        notes=converted.notes,
        profile=request.profile(checkpoint.input_hw),
        native_hw=_native_hw(checkpoint, request.grid),
        tile_hw=None if request.grid is None else request.grid.window_hw,
        overlap=None if request.grid is None else request.grid.overlap,
        mm_per_pixel=checkpoint.mm_per_pixel,
    )


def _native_hw(checkpoint: Checkpoint, grid: WindowGrid | None) -> tuple[int, int] | None:
    """Of the engine: what fills its frame at the scale of the training."""
    native = checkpoint.native_hw
    if native is None or grid is None:
        return native
    sizes = zip(grid.frame_hw, native, grid.window_hw, strict=True)
    height, width = (round(frame * own / window) for frame, own, window in sizes)
    return height, width
