"""An ONNX file with its manifest becomes a plan with its manifest. Needs neither torch nor onnx, so a Jetson can."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from sdi.export.engines.base import BuildJob, BuildOptions, BuiltPlan, EngineBuilder, Exported
from sdi.runtime.common.errors import DeviceError, GateError, InputError
from sdi.runtime.common.files import ensure_folder, sha256_of, write_bytes
from sdi.runtime.engine.cuda import open_cuda
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

__all__ = ["engine_from_onnx", "onnx_manifest"]

TIMING_CACHE = "tensorrt-timing.cache"


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
    name: str | None = None,
    like: Manifest | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Build `FOLDER/MODEL-PRECISION.plan` and then write its manifest; nothing of it when the build fails.

    Where a GPU can run it, the plan is run on the golden pictures before it is kept.

    Args:
        name: of the plan, without suffix; None: as the ONNX file, in the wanted precision.
        like: describes what is wanted where that is not the ONNX file itself: builders that choose precisions take
            the float32 form of a half network.
        overwrite: replace a file that sdi-export did not make.
        say: hears what is being done.
    Raises:
        InputError: a file cannot be read, parsed or written, or is not ours.
        DeviceError: the library or the GPU failed.
        GateError: the plan answers the golden pictures otherwise than PyTorch; nothing is kept.
    """
    started = time.monotonic()
    source = onnx_manifest(onnx)
    wanted = like or source
    stem = name or onnx.stem.replace(f"-{source.precision}", f"-{wanted.precision}")
    path = ensure_folder(folder) / (stem + builder.suffix)
    refuse_foreign(path, overwrite)
    manifest = replace(wanted, onnx_sha256=source.sha256)
    job = BuildJob(
        onnx=onnx,
        tag=tag_of(manifest),
        precision=wanted.precision,
        planar=source.face == "planar",
        profile=source.profile,
        keep_float32=wanted.high_precision_layers,
        timing_cache=path.with_name(TIMING_CACHE) if options.timing_cache else None,
    )
    say(f"building {path.name} with {builder.name}")
    plan = builder.build(job, options)
    manifest_path(path).unlink(missing_ok=True)  # an older file's
    write_bytes(path, plan.data)
    manifest = _describe(manifest, path, builder, plan, options)
    write_manifest(path, manifest)
    for note in plan.notes:
        say(f"note: {note}")
    seconds = time.monotonic() - started
    ran = _self_test(path)
    say(f"kept {path.name}: {manifest.bytes / 1e6:.1f} MB, {plan.layers} layers parsed, {seconds:.1f} s; {ran}")
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
    """Run the golden pictures where that can be; answers what was done, and removes a plan that fails."""
    try:
        open_cuda()
        engine = open_engine(path)
    except DeviceError as error:
        return f"not run here: {error}"
    with engine:
        try:
            engine.self_test()
        except DeviceError as error:
            path.unlink()
            manifest_path(path).unlink()
            raise GateError(f"{error}; nothing was kept") from error
        return f"the golden pictures pass on {engine.device}"
