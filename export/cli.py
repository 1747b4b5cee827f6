"""`sdi-export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sdi.export.sizes import parse_network_size, parse_sizes
from sdi.export.table import print_exported
from sdi.runtime.common.console import log, run_app, single_command, warn
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.options import OverlapOption
from sdi.runtime.common.progress import ConsoleProgress
from sdi.runtime.common.renamed import renamed_option
from sdi.runtime.engine.tiling import Tile, Tiling, TrainedScale, parse_tile
from sdi.runtime.engine.windows import WindowGrid

if TYPE_CHECKING:
    from sdi.export.engines import BuildOptions, EngineBuilder, Exported
    from sdi.export.exporter import ExportRequest, ExportSource
    from sdi.export.parity.pictures import Pictures
    from sdi.train.checkpoint import Checkpoint

__all__ = ["main"]

_PRECISION = "Precision (several at once make several files)"
_INT8 = "INT8 (with --int8)"
_IO = "I/O contract"
_PARITY = "Comparison with PyTorch"
_TOGETHER = "--int8 and --calibration FOLDER go together; make one: sdi-calibrate --images PICTURES"
_BUILDER = "Engine builder"


def export_command(
    model: Annotated[
        str | None, typer.Option(help="Network, e.g. minet, tsernet; default: what the checkpoint holds.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint. Default: the newest runs/MODEL/*/best.pt, else the one that comes with sdi."),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(help="Build an engine from an ONNX file that sdi-export made; needs no PyTorch."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for files and manifests. Default: here, or that of --onnx."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="What to build: onnx, tensorrt-rtx (anywhere on x86-64, no GPU needed), tensorrt (on the device "
            "it will run on), or auto: the best of them that is available here."
        ),
    ] = "auto",
    fp32: Annotated[
        bool, typer.Option("--fp32", help="Single precision (default).", rich_help_panel=_PRECISION)
    ] = False,
    fp16: Annotated[
        bool,
        typer.Option(
            "--fp16",
            help="Half precision; scaling, sigmoid, resizing of maps stay float32, and so does what --images drive "
            "out of half's range.",
            rich_help_panel=_PRECISION,
        ),
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Convolutions in INT8, kept only if accuracy holds; needs --calibration, unless sdi-train --qat made "
            "the checkpoint. Writes a report.",
            rich_help_panel=_PRECISION,
        ),
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Folder that sdi-calibrate wrote. Ranges are cached in it.", rich_help_panel=_INT8),
    ] = None,
    rest: Annotated[
        Literal["fp16", "fp32"], typer.Option(help="Precision of all that is not INT8.", rich_help_panel=_INT8)
    ] = "fp16",
    ranges: Annotated[
        Literal["minmax", "percentile", "entropy", "mse"],
        typer.Option(
            help="What a tensor's range is: maximum, 99.999 % of values, smallest relative entropy, or smallest "
            "squared error.",
            rich_help_panel=_INT8,
        ),
    ] = "mse",
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="What INT8 may lose. The most sensitive layers stay in --rest until it holds; fails when it cannot. "
            "Default: 0.002 of S-measure, or 0.003 mean map difference where there are no masks.",
            rich_help_panel=_INT8,
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="What --max-drop is measured on: a data folder as sdi-train takes it (its training pictures that did "
            "not calibrate), or pictures. Default: maps of the calibration pictures.",
            rich_help_panel=_INT8,
        ),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Masks of --validation pictures, by stem.", rich_help_panel=_INT8)
    ] = None,
    rank_layers: Annotated[
        bool,
        typer.Option(
            "--rank-layers",
            help="Report every layer's sensitivity even when none has to be kept.",
            rich_help_panel=_INT8,
        ),
    ] = False,
    frame: Annotated[
        str | None,
        typer.Option(
            help="Frame size HxW of the camera, e.g. 1080x1920: resized inside. Default: the network's own. With "
            "--dynamic: min:opt:max size of a plan.",
            rich_help_panel=_IO,
        ),
    ] = None,
    tile: Annotated[
        str,
        typer.Option(
            help="Cut frames of --frame into windows of N or HxW pixels inside the engine (auto: as large as the "
            "training pictures), instead of resizing them to the network's size.",
            rich_help_panel=_IO,
        ),
    ] = "none",
    overlap: OverlapOption = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Run the network at HxW instead of the size it was trained at, e.g. 1024x2624 for frames of 800x2048: "
            "much steel at once, at the scale of the training.",
            rich_help_panel=_IO,
        ),
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic",
            help="Any height and width, and any batch. Plans: 32x32:1080x1920:2160x3840, batch 1:1:1, unless --frame "
            "and --batch give ranges.",
            rich_help_panel=_IO,
        ),
    ] = False,
    batch: Annotated[str, typer.Option(help="Frames a call, N or min:opt:max, e.g. 1:4:8.", rich_help_panel=_IO)] = "1",
    io: Annotated[
        Literal["uint8", "planar"] | None,
        typer.Option(
            help="uint8 (default): frames as OpenCV gives them. planar: float32 [N, 3, H, W] BGR 0..255 in, float32 "
            "[N, 1, H, W] probabilities out, for DeepStream's nvinfer and for --dla.",
            rich_help_panel=_IO,
        ),
    ] = None,
    face: Annotated[Literal["uint8", "planar"] | None, typer.Option(hidden=True, help="Former name of --io.")] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Float32 probabilities out, for other tools; sdi-run refuses such a file.",
            rich_help_panel=_IO,
        ),
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(help="Pictures to compare with PyTorch on; default: synthetic strip.", rich_help_panel=_PARITY),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="How many of --images, spread over the folder.", rich_help_panel=_PARITY)
    ] = 16,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="GPUs a tensorrt-rtx plan is for, e.g. 8.9 (repeat for several). Default: 8.0, 8.6, 8.9, 12.0 and "
            "later.",
            rich_help_panel=_BUILDER,
        ),
    ] = None,
    workspace: Annotated[
        float | None,
        typer.Option(help="GPU memory for scratch, in GiB. Default: all there is.", rich_help_panel=_BUILDER),
    ] = None,
    timing_cache: Annotated[
        bool,
        typer.Option(
            "--timing-cache/--no-timing-cache",
            help="Keep tensorrt's timings beside the engine, so that the next build is quick.",
            rich_help_panel=_BUILDER,
        ),
    ] = True,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="How long the builder searches.", rich_help_panel=_BUILDER)
    ] = None,
    dla: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="DLA core of a Jetson Orin or Xavier; needs --fp16 --io planar. Says what falls back to the GPU.",
            rich_help_panel=_BUILDER,
        ),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Weights can be exchanged in the plan later.", rich_help_panel=_BUILDER)
    ] = False,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="A tensorrt plan that later versions run too; may be slower.",
            rich_help_panel=_BUILDER,
        ),
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="A tensorrt plan for all GPUs from Ampere on; may be slower; not on a Jetson.",
            rich_help_panel=_BUILDER,
        ),
    ] = False,
    detailed_profiling: Annotated[
        bool,
        typer.Option(
            "--detailed-profiling", help="Keep layer details in the plan, for profilers.", rich_help_panel=_BUILDER
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the builder's whole log.", rich_help_panel=_BUILDER)
    ] = False,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="No checkpoint: for timing alone, marked in the manifest."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that sdi-export did not make.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")] = False,
) -> None:
    """Turn a checkpoint into engines: an ONNX file, and a TensorRT plan where one can be built.

    The ONNX file is checked and compared with PyTorch before it is kept; the plan is built from it. A manifest beside
    each says what it is. Plans are executable files: run only those that you or people you trust have made.

    Examples:

      sdi-export --model minet --fp16

      sdi-export --model tsernet --checkpoint best.pt --fp32 --fp16 -o engines

      sdi-export --checkpoint best.pt --frame 1080x1920 --target onnx

      sdi-export --model minet --int8 --calibration calib --validation SD-saliency-900

      sdi-export --onnx minet-fp16.onnx --target tensorrt      # on the Jetson, without PyTorch
    """
    from sdi.export.engines import BuildOptions, choose_builder

    options = BuildOptions(
        compute_capabilities=tuple(compute_capability or ()),
        workspace_gib=workspace,
        timing_cache=timing_cache,
        optimization_level=optimization_level,
        dla_core=dla,
        refit=refit,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        detailed_profiling=detailed_profiling,
    )
    if verbose:
        options = options.with_listener(lambda text: log.print(text, style="dim"))
    wanted = [name for name, given in (("fp32", fp32), ("fp16", fp16), ("int8", int8)) if given]
    io = renamed_option("--io", io, "--face", face) or "uint8"
    if onnx is not None:
        if (
            model
            or checkpoint
            or random_weights
            or frame
            or dynamic
            or raw
            or batch != "1"
            or io != "uint8"
            or tile != "none"
            or network
        ):
            raise InputError("--onnx FILE says what the network is; give it with -o, --target, builder options alone")
        done = _from_onnx(onnx, wanted, target, options, output, overwrite)
    else:
        shape = parse_sizes(frame, batch, dynamic=dynamic)
        if raw and io != "uint8":
            raise InputError("--raw and --io planar exclude each other; planar answers float32 anyway")
        if calibration is not None and not int8:
            raise InputError(_TOGETHER)
        with log.status("loading PyTorch"):
            from sdi.export.exporter import ExportRequest
            from sdi.export.int8 import Int8Options
            from sdi.export.int8_ranges import trained_places
            from sdi.export.network_size import at_network_size
            from sdi.export.parity.pictures import Pictures
        source = _source(model, checkpoint, random_weights, Pictures(images, limit))
        if (network_hw := parse_network_size(network)) is not None:
            source = replace(source, checkpoint=at_network_size(source.checkpoint, network_hw))
        grid = _grid(source.checkpoint, shape["frame_hw"], parse_tile(tile), overlap)
        quantising = None
        if int8:
            trained = trained_places(source.checkpoint)
            if trained is None and calibration is None:
                raise InputError(_TOGETHER)
            if trained is not None and calibration is not None:
                log.print("--calibration is not used: the checkpoint was trained for INT8 and holds its ranges")
                calibration = None
            quantising = Int8Options(
                calibration, rest, ranges, max_drop, validation, masks, rank=rank_layers, trained=trained
            )
        requests = [
            ExportRequest(
                precision,  # type: ignore[arg-type]
                raw=raw,
                planar=io == "planar",
                int8=quantising if precision == "int8" else None,
                grid=grid,
                network_hw=network_hw,
                **shape,
            )
            for precision in wanted or ["fp32"]
        ]
        builders = []
        for request in requests:
            builder, why = choose_builder(target, request.precision, raw=raw)
            builder.check(options, request.precision, request.planar, request.free_batch)
            log.print(f"{request.precision}: target {builder.name} ({why})")
            builders.append(builder)
        work = list(zip(requests, builders, strict=True))
        done = _from_checkpoint(source, work, options, output or Path(), overwrite)
    print_exported(done, json=json)


def _from_checkpoint(
    source: ExportSource,
    work: list[tuple[ExportRequest, EngineBuilder]],
    options: BuildOptions,
    folder: Path,
    overwrite: bool,
) -> list[Exported]:
    from sdi.export.exporter import export_engine, export_onnx

    done: list[Exported] = []
    progress = ConsoleProgress()
    for request, builder in work:
        with log.status(f"exporting {request.file_name(source.checkpoint.model)}"):
            exported = export_onnx(source, request, folder, overwrite=overwrite, progress=progress)
        done.append(exported)
        if builder.suffix != exported.path.suffix:
            done.append(
                export_engine(exported, source, request, builder, options, overwrite=overwrite, progress=progress)
            )
    return done


def _from_onnx(
    onnx: Path, wanted: list[str], target: str, options: BuildOptions, folder: Path | None, overwrite: bool
) -> list[Exported]:

    from sdi.export.engines import choose_builder
    from sdi.export.plan import WantedPlan, engine_from_onnx, onnx_manifest

    manifest = onnx_manifest(onnx)
    like = replace(manifest, precision=wanted[0]) if len(wanted) == 1 else manifest
    builder, why = choose_builder(target, like.precision)
    log.print(f"{like.precision}: target {builder.name} ({why})")
    if builder.suffix == onnx.suffix:
        raise InputError(f"{onnx} is an engine of target onnx already; there is nothing to build: {why}")
    # A builder that chooses precisions itself makes half engines from float32 files.
    as_asked = like.precision == manifest.precision or (
        (manifest.precision, like.precision) == ("fp32", "fp16") and builder.needs_float32("fp16")
    )
    if len(wanted) > 1 or not as_asked:
        raise InputError(f"{onnx} is of precision {manifest.precision}, so the plan will be; leave the precision out")
    dynamic = manifest.batch is None or manifest.frame_hw is None
    builder.check(options, like.precision, manifest.face == "planar", dynamic)
    folder = folder or onnx.parent
    progress = ConsoleProgress()
    plan = WantedPlan(like)
    return [engine_from_onnx(onnx, builder, options, folder, wanted=plan, overwrite=overwrite, progress=progress)]


def _grid(
    checkpoint: Checkpoint, frame_hw: tuple[int, int] | None, tile: Tile, overlap: int | None
) -> WindowGrid | None:
    """The windows that frames are cut into inside the engine; None where they are not."""
    if tile is None:
        if overlap is not None:
            raise InputError("--overlap is of windows: give --tile too")
        return None
    if frame_hw is None:
        raise InputError("--tile cuts frames of a known size: give --frame HxW too")
    if tile == "auto" and checkpoint.native_hw is None:
        raise InputError("the checkpoint does not tell how large its training pictures were; give --tile N")
    scale = TrainedScale(checkpoint.native_hw, checkpoint.mm_per_pixel, checkpoint.input_hw)
    tiling = Tiling(tile, overlap)
    window_hw = tiling.window_hw(scale)
    assert window_hw is not None  # it is known
    return WindowGrid(frame_hw, window_hw, tiling.overlap_of(window_hw))


def _source(model: str | None, path: Path | None, random_weights: bool, pictures: Pictures) -> ExportSource:
    from sdi.export.checkpoint_choice import choose_checkpoint
    from sdi.export.exporter import ExportSource, random_checkpoint
    from sdi.runtime.common.files import sha256_of
    from sdi.train.checkpoint import load_checkpoint

    if random_weights:
        if model is None or path is not None:
            raise InputError("--random-weights needs --model and no --checkpoint")
        warn(f"{model} with random weights: for timing alone")
        return ExportSource(random_checkpoint(model), None, pictures)
    chosen, why = choose_checkpoint(model, path)
    checkpoint = load_checkpoint(chosen, model)
    log.print(f"{checkpoint.model} from {chosen} ({why})")
    done, wanted = checkpoint.training.get("epoch"), checkpoint.training.get("recipe", {}).get("epochs")
    if done is not None and wanted is not None and done < wanted and not checkpoint.metrics:
        warn(f"its training was not finished: {done:.1f} of {wanted} epochs, never scored")
    return ExportSource(checkpoint, sha256_of(chosen), pictures)


def main() -> None:
    """Entry point of `sdi-export`."""
    run_app(single_command(export_command))
