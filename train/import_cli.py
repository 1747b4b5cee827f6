"""`sdi-import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdi.runtime.common.console import log, out, run_app, single_command
from sdi.runtime.common.errors import InputError

__all__ = ["main"]


def import_command(
    published: Annotated[Path, typer.Argument(metavar="AUTHORS.pth", help="Checkpoint that the authors published.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OURS.pt", help="Checkpoint of sdi to write.")],
    model: Annotated[
        str, typer.Option(help="Network whose checkpoint it is: csepnet, csepnet-resnet50, minet or tsernet.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing OURS.pt.")] = False,
) -> None:
    """Turn a checkpoint that a network's authors published into one of sdi, for sdi-export and sdi-parity.

    Every weight must be there and fit; none is dropped but those that the published program never uses.
    Preprocessing and input size become those of the authors' test program; TSERNet's and MINet's divide each
    picture by its own maximum.

    Example:

      sdi-import --model tsernet TSERNet.pth -o tsernet.pt
    """
    if output.resolve() == published.resolve():
        raise InputError(f"-o {output} is the published file itself; choose another name")
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists already; choose another -o, or replace it with --overwrite")

    from sdi.train.authors import checkpoint_from_authors
    from sdi.train.checkpoint import save_checkpoint

    checkpoint = checkpoint_from_authors(published, model)
    save_checkpoint(output, checkpoint)
    height, width = checkpoint.input_hw
    log.print(f"{model} from {published.name}: {len(checkpoint.weights)} tensors, input {height}x{width}")
    out.print(output)


def main() -> None:
    """Entry point of `sdi-import`."""
    run_app(single_command(import_command))
