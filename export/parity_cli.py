"""`sdi-parity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdi.runtime.console import log, out, print_json, run_app, single_command, warn
from sdi.runtime.errors import GateError, InputError

if TYPE_CHECKING:
    import numpy as np

    from sdi.export.parity import Parity, Tolerance

__all__ = ["main"]


def parity_command(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint: the reference, in PyTorch, float32.")],
    engine: Annotated[Path, typer.Option(help="Engine to judge: an ONNX file made by sdi-export.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of real pictures. Default: synthetic strip, a weaker proof.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Compare on N pictures, spread over the folder.")] = None,
    threshold: Annotated[float, typer.Option(help="Probability from which a pixel belongs to the mask.")] = 0.5,
    json: Annotated[bool, typer.Option("--json", help="Print figures, bounds and each picture as JSON.")] = False,
) -> None:
    """Prove that an engine answers what was trained.

    Compares raw probabilities, before rounding, on real pictures. Exit code 0: within the bounds of the engine's
    precision; 1: not; 2: the two cannot be compared.

    Example:

      sdi-parity --checkpoint best.pt --engine minet-fp16.onnx --images strip/
    """
    if not 0 < threshold <= 1:
        raise InputError(f"--threshold must be above 0 and at most 1, got {threshold}")
    with log.status("loading PyTorch"):
        from sdi.export.parity import TOLERANCES
    tolerance, precision, parity = _measure(checkpoint, engine, images, limit, threshold)
    failures = tolerance.failures(parity)
    if json:
        bounds = {name: getattr(tolerance, name) for name in ("max", "p999", "mean", "iou")}
        print_json(
            {
                "passed": not failures,
                "precision": precision,
                "measured": parity.to_dict(),
                "bounds": bounds,
                "failures": failures,
                "threshold": threshold,
                "pictures": parity.pictures,
            }
        )
    else:
        _show(parity, TOLERANCES[precision], precision)
    if failures:
        worst = max(parity.pictures, key=lambda picture: picture["max"])
        raise GateError(f"{engine} fails the {precision} gate: {'; '.join(failures)}; worst picture {worst['name']}")


def _measure(
    checkpoint: Path, engine: Path, images: Path | None, limit: int | None, threshold: float
) -> tuple[Tolerance, str, Parity]:
    import onnx
    from rich.progress import track

    from sdi.export.onnx_model import with_probability_output
    from sdi.export.parity import TOLERANCES, compare, frames_of, runner_from_checkpoint, runner_from_onnx
    from sdi.runtime.engine import open_engine
    from sdi.train.checkpoint import load_checkpoint

    with open_engine(engine, device="cpu") as opened:  # checks the file, its manifest and its face
        manifest, frame_hw, batch = opened.manifest, opened.frame_hw, opened.batch
    if manifest is None:
        raise InputError(f"no manifest beside {engine}: its precision is unknown; export it again with sdi-export")
    reference = load_checkpoint(checkpoint, manifest.model)
    if manifest.preprocessing != reference.preprocessing.to_dict():
        raise InputError(f"{engine} preprocesses by {manifest.preprocessing}, {checkpoint} by others; export it again")
    runner = runner_from_onnx(with_probability_output(onnx.load(engine)), batch)
    pictures = _pictures(images, limit)
    shown = track(frames_of(pictures, frame_hw), "comparing", total=len(pictures), console=log, transient=True)
    parity = compare(runner_from_checkpoint(reference, manifest.network_hw), runner, shown, threshold)
    return TOLERANCES[manifest.precision], manifest.precision, parity


def _pictures(images: Path | None, limit: int | None) -> list[tuple[str, np.ndarray]]:
    import numpy as np

    from sdi.runtime.images import list_images, read_image
    from sdi.runtime.strip import DEFECTS, draw_strip

    if images is None:
        warn("no --images: comparing on synthetic strip, a weaker proof", "note:")
        return [(f"{kind}_{seed}", draw_strip(kind, seed)[0]) for seed in (1, 2) for kind in (*DEFECTS, "clean")]
    paths = list_images(images)
    if limit is not None and limit < len(paths):
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).round().astype(int)]
    return [(path.stem, read_image(path)) for path in paths]


def _show(parity: Parity, tolerance: Tolerance, precision: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{precision} against PyTorch, {len(parity.pictures)} pictures", title_justify="left")
    for heading in ("figure", "measured", "bound", ""):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for name, measured in parity.to_dict().items():
        bound = getattr(tolerance, name)
        good = measured >= bound if name == "iou" else measured <= bound
        label = "mask IoU" if name == "iou" else f"{'p99.9' if name == 'p999' else name} difference"
        shown = f"{measured:.5f}" if name == "iou" else f"{measured:.2e}"
        sign = "at least" if name == "iou" else "at most"
        table.add_row(label, shown, f"{sign} {bound:g}", Text("pass", "green") if good else Text("FAIL", "bold red"))
    out.print(table)
    log.print(f"bounds: {tolerance.reason}")


def main() -> None:
    """Entry point of `sdi-parity`."""
    run_app(single_command(parity_command))
