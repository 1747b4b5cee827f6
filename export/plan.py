"""An ONNX file with its manifest becomes a plan with its manifest. Needs neither torch nor onnx, so a Jetson can."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from sdi.export.engines.base import BuildJob, BuildOptions, BuiltPlan, EngineBuilder, Exported
from sdi.runtime.common.errors import DeviceError, GateError, InputError
from sdi.runtime.common.files import ensure_folder, sha256_of, write_bytes
from sdi.runtime.common.progress import SILENT, Progress
from sdi.runtime.engine.manifest import (
    Manifest,
    manifest_path,
    read_manifest,
    refuse_foreign,
    verify_file,
    write_manifest,
)
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.plan import tag_of

__all__ = ["WantedPlan", "engine_from_onnx", "onnx_manifest"]

TIMING_CACHE = "tensorrt-timing.cache"


@dataclass(frozen=True)
class WantedPlan:
    """What a plan is to be, where its ONNX file is another form.

    Builders that choose precisions themselves take the float32 form of a half network.
    """

    manifest: Manifest  # of the form that is wanted
    stem: str | None = None  # the plan's name without suffix; None: the ONNX file's, in the wanted precision


def onnx_manifest(onnx: Path) -> Manifest:
    """The manifest of an ONNX file that an engine is to be built from.

    Raises:
        InputError: no such file, no manifest of ours beside it, one that does not match, or a raw file.
    """
    if not onnx.is_file():
        raise InputError(f"no such file: {onnx}; make one with sdi-export --target onnx")
    manifest = read_manifest(onnx)
    if manifest is None:
        raise InputError(
            f"no manifest beside {onnx}: engines are built from files that sdi-export made; copy "
            f"{manifest_path(onnx).name} too, or export it again"
        )
    verify_file(onnx, manifest)
    if manifest.target != "onnx":
        raise InputError(f"{onnx} is of target {manifest.target}, not an ONNX file")
    if manifest.face == "raw":
        raise InputError(f"{onnx} was exported with --raw, for other tools; export it again without")
    return manifest


def engine_from_onnx(
    onnx: Path,
    builder: EngineBuilder,
    options: BuildOptions,
    folder: Path,
    *,
    wanted: WantedPlan | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Build `FOLDER/MODEL-PRECISION.plan` and then write its manifest; nothing of it when the build fails.

    Where a GPU can run it, the plan is run on the golden pictures before it is kept.

    Args:
        wanted: what the plan is to be; None: what the ONNX file is.
        overwrite: replace a file that sdi-export did not make.
    Raises:
        InputError: a file cannot be read, parsed or written, or is not ours.
        DeviceError: the library or the GPU failed.
        GateError: the plan answers the golden pictures otherwise than PyTorch; nothing is kept.
    """
    started = time.monotonic()
    source = onnx_manifest(onnx)
    wanted = wanted or WantedPlan(source)
    manifest = replace(wanted.manifest, onnx_sha256=source.sha256)
    stem = wanted.stem or onnx.stem.replace(f"-{source.precision}", f"-{manifest.precision}")
    path = ensure_folder(folder) / (stem + builder.suffix)
    refuse_foreign(path, overwrite)
    job = BuildJob(
        onnx=onnx,
        tag=tag_of(manifest),
        precision=manifest.precision,
        planar=source.face == "planar",
        profile=source.profile,
        keep_float32=manifest.high_precision_layers,
        timing_cache=path.with_name(TIMING_CACHE) if options.timing_cache else None,
    )
    progress.log(f"building {path.name} with {builder.name}")
    plan = builder.build(job, options)
    manifest_path(path).unlink(missing_ok=True)  # an older file's
    write_bytes(path, plan.data)
    manifest = _describe(manifest, path, builder, plan, options)
    write_manifest(path, manifest)
    for note in plan.notes:
        progress.log(f"note: {note}")
    seconds = time.monotonic() - started
    ran = _self_test(path)
    progress.log(
        f"kept {path.name}: {manifest.bytes / 1e6:.1f} MB, {plan.layers} layers parsed, {seconds:.1f} s; {ran}"
    )
    return Exported(path, manifest, seconds)


def _describe(
    manifest: Manifest, path: Path, builder: EngineBuilder, plan: BuiltPlan, options: BuildOptions
) -> Manifest:
    return replace(
        manifest,
        target=builder.name,
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
        builder={"sdi": version("sdi"), builder.name: plan.version},
        compute_capabilities=plan.compute_capabilities,
        gpu=plan.gpu,
        build={"layers": plan.layers, **options.record()},
        notes=(*manifest.notes, *plan.notes),
    )


def _self_test(path: Path) -> str:
    """Run the golden pictures where that can be; answers what was done, and removes a plan that answers wrong."""
    try:
        with open_engine(path) as engine:
            golden, device = engine.golden_check(), engine.device
    except DeviceError as error:  # of the device, which may pass: the plan stays
        return f"not run here: {error}"
    if golden is not None and not golden.passed:
        path.unlink()
        manifest_path(path).unlink()
        raise GateError(
            f"{path.name} answers a golden picture otherwise than PyTorch on {device}: off by {golden.difference:.1f} "
            f"gray levels, {golden.tolerance:g} are allowed; nothing was kept"
        )
    return f"the golden pictures pass on {device}"
