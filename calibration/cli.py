"""`sdi-calibrate`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from sdi.runtime.console import log, out, print_json, run_app, single_command
from sdi.runtime.errors import InputError
from sdi.runtime.files import ensure_folder

__all__ = ["main"]

_FILE = "calibration.json"


def calibrate_command(
    images: Annotated[Path, typer.Option(help="Folder of real pictures of the line.")],
    names: Annotated[
        Path | None,
        typer.Option(help="Text file of stems, one a line: choose among these alone, e.g. the training split."),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Pictures to choose.")] = 128,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for calibration.json.")] = Path("calib"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier calibration.json.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Choose the pictures that INT8 ranges will be measured on.

    The same share of every defect class (the file name before its last '_'), spread over brightness, no picture
    twice. Writes their hashes and one fingerprint over them.

    Example:

      sdi-calibrate --images "SD-saliency-900/Source Images" --names SD-saliency-900/train.txt -o calib
    """
    from rich.progress import track

    from sdi.calibration.selection import choose_calibration_set
    from sdi.runtime.images import read_split

    path = output / _FILE
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another -o or pass --overwrite")
    chosen = choose_calibration_set(
        images,
        size,
        read_split(names) if names else None,
        lambda paths: track(paths, "reading", console=log, transient=True),
    )
    ensure_folder(output)
    chosen.write(path)
    counts = Counter(picture.defect_class for picture in chosen.pictures)
    if json:
        print_json({"path": str(path), "fingerprint": chosen.fingerprint, "classes": dict(sorted(counts.items()))})
        return
    for twin in chosen.left_out:
        log.print(f"left out: {twin}")
    shown = ", ".join(f"{n} {name or 'unnamed'}" for name, n in sorted(counts.items()))
    log.print(f"{size} pictures ({shown}), fingerprint {chosen.fingerprint[:16]}")
    out.print(path)


def main() -> None:
    """Entry point of `sdi-calibrate`."""
    run_app(single_command(calibrate_command))
