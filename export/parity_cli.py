"""`sdi-parity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdi.runtime.console import log, out, print_json, run_app, single_command, warn
from sdi.runtime.errors import GateError, InputError
from sdi.runtime.files import sha256_of

if TYPE_CHECKING:
    from sdi.export.parity import Parity, Tolerance
    from sdi.runtime.manifest import Manifest

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
    manifest, parity = _measure(checkpoint, engine, images, limit, threshold)
    tolerance = TOLERANCES[manifest.precision]
    failures = tolerance.failures(parity)
    if json:
        print_json(
            {
                "passed": not failures,
                "precision": manifest.precision,
                "measured": parity.to_dict(),
                "bounds": {name: bound for name, _, bound, _ in tolerance.rows(parity)},
                "failures": failures,
                "threshold": threshold,
                "pictures": parity.pictures,
            }
        )
    else:
        _show(parity, tolerance, manifest.precision)
    if failures:
        worst = max(parity.pictures, key=lambda picture: picture["max"])
        other = manifest.checkpoint_sha256 != sha256_of(checkpoint)
        raise GateError(
            f"{engine} fails the {manifest.precision} gate: {'; '.join(failures)}; worst picture {worst['name']}"
            + (f"; it was exported from another checkpoint than {checkpoint}" if other else "")
        )


def _measure(
    checkpoint: Path, engine: Path, images: Path | None, limit: int | None, threshold: float
) -> tuple[Manifest, Parity]:
    import onnx
    from rich.progress import track

    from sdi.export.onnx_model import with_probability_output
    from sdi.export.parity import TOLERANCES, Pictures, compare, frames_of, runner_from_checkpoint, runner_from_onnx
    from sdi.runtime.engine import open_engine
    from sdi.train.checkpoint import load_checkpoint

    with open_engine(engine, device="cpu") as opened:  # checks the file, its manifest and its face
        manifest, frame_hw, batch = opened.manifest, opened.frame_hw, opened.batch
    if manifest is None:
        raise InputError(f"no manifest beside {engine}: its precision is unknown; export it again with sdi-export")
    if manifest.precision not in TOLERANCES:
        raise InputError(
            f"{engine} is of precision '{manifest.precision}'; bounds are known for {', '.join(TOLERANCES)}"
        )
    reference = load_checkpoint(checkpoint, manifest.model)
    if manifest.preprocessing != reference.preprocessing.to_dict():
        raise InputError(f"{engine} preprocesses by {manifest.preprocessing}, {checkpoint} by others; export it again")
    runner = runner_from_onnx(with_probability_output(onnx.load(engine)), batch)
    pictures = Pictures(images, limit)
    if images is None:
        warn("no --images: comparing on synthetic strip, a weaker proof", "note:")
    shown = track(frames_of(pictures, frame_hw), "comparing", total=len(pictures), console=log, transient=True)
    parity = compare(runner_from_checkpoint(reference, manifest.network_hw), runner, shown, threshold)
    return manifest, parity


def _show(parity: Parity, tolerance: Tolerance, precision: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from sdi.export.parity import FIGURES

    table = Table(title=f"{precision} against PyTorch, {len(parity.pictures)} pictures", title_justify="left")
    for heading in ("figure", "measured", "bound", ""):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for name, measured, bound, good in tolerance.rows(parity):
        shown = f"{measured:.5f}" if name == "iou" else f"{measured:.2e}"
        sign = "at least" if name == "iou" else "at most"
        verdict = Text("pass", "green") if good else Text("FAIL", "bold red")
        table.add_row(FIGURES[name], shown, f"{sign} {bound:g}", verdict)
    out.print(table)
    log.print(f"bounds: {tolerance.reason}")


def main() -> None:
    """Entry point of `sdi-parity`."""
    run_app(single_command(parity_command))
