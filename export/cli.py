"""`sdi-export`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdi.runtime.console import log, out, print_json, run_app, single_command, warn
from sdi.runtime.errors import InputError

if TYPE_CHECKING:
    from sdi.export.exporter import Exported
    from sdi.train.checkpoint import Checkpoint

__all__ = ["main"]

_FACE = "Face of the engine"


def export_command(
    model: Annotated[
        str | None, typer.Option(help="Network, e.g. minet, tsernet; default: what the checkpoint holds.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint. Default: the newest runs/MODEL/*/best.pt, else the one that comes with sdi."),
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Single precision (default).")] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Half precision; scaling, sigmoid, resizing of maps stay float32.")
    ] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the engine and its manifest.")] = Path(),
    frame: Annotated[
        str | None,
        typer.Option(
            help="Frame size HxW of the camera, e.g. 1080x1920: resized inside. Default: the network's own.",
            rich_help_panel=_FACE,
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Any batch, height and width.", rich_help_panel=_FACE)
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Frames a call.", rich_help_panel=_FACE)] = 1,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Float32 probabilities out, for other tools; sdi-run refuses such a file.",
            rich_help_panel=_FACE,
        ),
    ] = False,
    images: Annotated[
        Path | None, typer.Option(help="Pictures to compare with PyTorch on; default: synthetic strip.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of --images, spread over the folder.")] = 16,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="No checkpoint: for timing alone, marked in the manifest."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that sdi-export did not make.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")] = False,
) -> None:
    """Turn a checkpoint into an engine: one ONNX file with uint8 frames in and uint8 saliency out.

    The file is checked and compared with PyTorch before it is kept; a manifest beside it says what it is.

    Examples:

      sdi-export --model minet --fp16

      sdi-export --model tsernet --checkpoint best.pt --fp32 --fp16 -o engines

      sdi-export --checkpoint best.pt --frame 1080x1920
    """
    with log.status("loading PyTorch"):
        from sdi.export.exporter import ExportRequest, export_onnx
        from sdi.export.parity import Pictures

    if dynamic and (frame or batch != 1):
        raise InputError("--dynamic leaves batch, height and width free; give it without --frame and --batch")
    precisions = [name for name, wanted in (("fp32", fp32), ("fp16", fp16)) if wanted] or ["fp32"]
    frame_hw = _frame_hw(frame)
    pictures = Pictures(images, limit)
    source, digest = _checkpoint(model, checkpoint, random_weights)
    done: list[Exported] = []
    for precision in precisions:
        request = ExportRequest(precision, frame_hw, batch, dynamic, raw)  # type: ignore[arg-type]
        with log.status(f"exporting {request.file_name(source.model)}"):
            done.append(
                export_onnx(
                    source,
                    request,
                    output,
                    checkpoint_sha256=digest,
                    overwrite=overwrite,
                    images=pictures,
                    say=log.print,
                )
            )
    _report(done, json)


def _frame_hw(frame: str | None) -> tuple[int, int] | None:
    if frame is None:
        return None
    parts = re.fullmatch(r"(\d+)x(\d+)", frame)
    if parts is None or min(int(parts[1]), int(parts[2])) < 32:
        raise InputError(f"--frame takes height x width of at least 32, e.g. 1080x1920; got '{frame}'")
    return int(parts[1]), int(parts[2])


def _checkpoint(model: str | None, path: Path | None, random_weights: bool) -> tuple[Checkpoint, str | None]:
    from sdi.export.checkpoint_choice import choose_checkpoint
    from sdi.export.exporter import random_checkpoint
    from sdi.runtime.files import sha256_of
    from sdi.train.checkpoint import load_checkpoint

    if random_weights:
        if model is None or path is not None:
            raise InputError("--random-weights needs --model and no --checkpoint")
        warn(f"{model} with random weights: for timing alone")
        return random_checkpoint(model), None
    chosen, why = choose_checkpoint(model, path)
    checkpoint = load_checkpoint(chosen, model)
    log.print(f"{checkpoint.model} from {chosen} ({why})")
    done, wanted = checkpoint.training.get("epoch"), checkpoint.training.get("recipe", {}).get("epochs")
    if done is not None and wanted is not None and done < wanted and not checkpoint.metrics:
        warn(f"its training was not finished: {done:.1f} of {wanted} epochs, never scored")
    return checkpoint, sha256_of(chosen)


def _report(done: list[Exported], json: bool) -> None:
    if json:
        from dataclasses import asdict

        rows: list[dict[str, Any]] = [{"path": str(item.path), **asdict(item.manifest)} for item in done]
        print_json(rows)
        return
    for item in done:
        out.print(item.path)
    log.print(f"next: sdi-run --engine {done[-1].path} --source demo --overlay out")


def main() -> None:
    """Entry point of `sdi-export`."""
    run_app(single_command(export_command))
