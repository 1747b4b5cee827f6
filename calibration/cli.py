"""`sdi-calibrate`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdi.runtime.common.console import log, out, print_json, run_app, single_command, warn
from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.files import ensure_folder
from sdi.runtime.common.renamed import renamed_option

if TYPE_CHECKING:
    from sdi.calibration.picture_set import CalibrationSet

__all__ = ["main"]

_COUNT = 128  # pictures


def calibrate_command(
    images: Annotated[Path, typer.Option(help="Folder of real pictures of the line.")],
    names: Annotated[
        Path | None,
        typer.Option(help="Text file of stems, one a line. Only these are candidates, e.g. the training split."),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Split file or folder of test pictures: they are never chosen, even under another name. Default: "
            "test.txt in --images or beside it, or a folder test-images beside it."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help=f"Pictures to choose. Default: {_COUNT}.")] = None,
    size: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    seed: Annotated[int, typer.Option(help="Chooses the first picture of each class.")] = 0,
    engine: Annotated[
        Path | None,
        typer.Option(
            help="An engine of the network to calibrate: a file, or a name from sdi-run --list. The fingerprint then "
            "covers its preprocessing and weights too."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for calibration.json.")] = Path("calib"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier calibration.json.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Choose the pictures that INT8 ranges will be measured on.

    Every defect class (the file name before its last '_') gives the same share, and within a class the pictures differ
    as much as possible in brightness, contrast, texture and layout. Copies, near copies and test pictures are left out
    and listed; corrupt, constant and random pictures are refused. The command writes the hashes of the pictures and one
    fingerprint. sdi-export --int8 keeps the ranges that it measures in the same folder.

    Examples:

      sdi-calibrate --images "SD-saliency-900/Source Images" -o calib

      sdi-calibrate --images line-7 --names chosen.txt --count 64 --engine minet-fp32.onnx -o calib-7
    """
    from sdi.calibration.picture_set import SET_FILE, is_calibration_set
    from sdi.calibration.selection import FEW, choose_calibration_set, find_held_out
    from sdi.runtime.common.images import read_split
    from sdi.runtime.common.progress import ConsoleProgress

    path = output / SET_FILE
    if path.exists():
        if not overwrite:
            raise InputError(f"{path} exists; choose another -o or pass --overwrite")
        if not is_calibration_set(path):
            raise InputError(f"{path} is not a calibration set of sdi and is left alone; choose another -o")
    count = renamed_option("--count", count, "--size", size) or _COUNT
    network = _network(engine)
    chosen = choose_calibration_set(
        images,
        count,
        read_split(names) if names else None,
        held_out=find_held_out(images, test),
        seed=seed,
        progress=ConsoleProgress(),
    )
    chosen = replace(chosen, **network)
    ensure_folder(output)
    chosen.write(path)
    if count < FEW:
        warn(f"{count} pictures are few: INT8 ranges then follow single ones; 100 and more are usual")
    _report(chosen, path, json)


def _network(engine: Path | None) -> dict[str, Any]:
    """Preprocessing and weights of the network that the set is for."""
    from sdi.runtime.engine.manifest import read_manifest
    from sdi.runtime.engine.shipped import find_engine

    if engine is None:
        return {}
    manifest = read_manifest(find_engine(engine))
    if manifest is None:
        raise InputError(f"no manifest beside {engine}; export it with sdi-export, or leave --engine out")
    return {"preprocessing": manifest.preprocessing, "weights": manifest.checkpoint_sha256}


def _report(chosen: CalibrationSet, path: Path, json: bool) -> None:
    counts = Counter(picture.defect_class for picture in chosen.pictures)
    if json:
        print_json(
            {
                "path": str(path),
                "fingerprint": chosen.fingerprint,
                "classes": dict(sorted(counts.items())),
                "left_out": list(chosen.left_out),
            }
        )
        return
    if chosen.left_out:
        warn(f"left out: {some_of(list(chosen.left_out), '; ')}")
    shown = ", ".join(f"{n} {name or 'unnamed'}" for name, n in sorted(counts.items()))
    covers = "pictures, preprocessing and weights" if chosen.weights else "the pictures (--engine: and the weights)"
    log.print(f"{len(chosen.pictures)} pictures ({shown}); fingerprint of {covers}: {chosen.fingerprint[:16]}")
    out.print(path)
    log.print(f"next: sdi-export --int8 --calibration {path.parent}")


def main() -> None:
    """Entry point of `sdi-calibrate`."""
    run_app(single_command(calibrate_command))
