"""`sdi-eval`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdi.runtime.console import log, out, print_json, run_app, single_command
from sdi.runtime.errors import InputError

if TYPE_CHECKING:
    from sdi.train.data import Pair

__all__ = ["main"]

_ALL = "all"


def eval_command(
    maps: Annotated[Path, typer.Option(help="Folder of 8-bit saliency maps named as the pictures, as sdi-run writes.")],
    data: Annotated[Path | None, typer.Option(envvar="SDI_DATA", help="Folder in the SD-saliency-900 layout.")] = None,
    images: Annotated[Path | None, typer.Option(help="Instead of --data: folder of pictures.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks (0 and 255) with the pictures' stems.")] = None,
    split: Annotated[str, typer.Option(help="Split of --data: test, train or all.")] = "test",
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score saliency maps as the papers do: S-measure, F-measure, E-measure and MAE, from PySODMetrics.

    One row for all pictures and one for each defect class (the name before its last '_').

    Example:

      sdi-eval --maps maps --data SD-saliency-900
    """
    from rich.progress import track

    from sdi.train.data import find_pairs

    if images is not None or masks is not None:
        data, split = None, _ALL
    pairs = find_pairs(data, None if split == _ALL else split, images=images, masks=masks)
    absent = [pair.name for pair in pairs if not (maps / f"{pair.name}.png").is_file()]
    if absent:
        raise InputError(
            f"{len(absent)} of {len(pairs)} pictures have no map in {maps}, e.g. {absent[0]}.png; "
            "make them: sdi-run --source PICTURES --masks " + str(maps)
        )
    rows = _score(track(pairs, "scoring", console=log, transient=True), maps)
    if json:
        print_json(rows)
    else:
        _show(rows)


def _score(pairs: Iterable[Pair], maps: Path) -> dict[str, dict[str, float]]:
    """Scores and number of pictures, for all and by defect class."""
    from sdi.runtime.classes import defect_class
    from sdi.runtime.images import read_gray
    from sdi.train.data import read_truth
    from sdi.train.scores import Scores

    gathered: dict[str, tuple[Scores, list[str]]] = {}
    for pair in pairs:
        path = maps / f"{pair.name}.png"
        saliency, truth = read_gray(path), read_truth(pair.mask)
        if saliency.shape != truth.shape:
            raise InputError(
                f"map {path} is {saliency.shape[1]}x{saliency.shape[0]}, its mask {truth.shape[1]}x{truth.shape[0]}"
            )
        for name in (_ALL, f"class {defect_class(pair.name) or 'unnamed'}"):
            scores, names = gathered.setdefault(name, (Scores(), []))
            scores.update(saliency, truth)
            names.append(pair.name)
    return {name: {"pictures": len(names), **scores.compute()} for name, (scores, names) in gathered.items()}


def _show(rows: dict[str, dict[str, float]]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))  # ten columns in 80 characters
    for heading in ("", *rows[_ALL]):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(str(v) if isinstance(v, int) else f"{v:.4f}" for v in row.values()))
    out.print(table)


def main() -> None:
    """Entry point of `sdi-eval`."""
    run_app(single_command(eval_command))
