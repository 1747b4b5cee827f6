"""What sdi-export has made, in a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sdi.runtime.common.console import log, out, print_json

if TYPE_CHECKING:
    from sdi.export.engines import Exported

__all__ = ["print_exported"]


def print_exported(done: list[Exported], *, json: bool) -> None:
    """Print a row for each file that was made, and what to do next; or the manifests as JSON."""
    if json:
        rows: list[dict[str, Any]] = [
            {"path": str(item.path), "seconds": round(item.seconds, 1), **asdict(item.manifest)} for item in done
        ]
        print_json(rows)
        return
    _show(done)
    runs = [item.path for item in done if item.manifest.face == "uint8" and _runs_here(item)]
    if runs:
        log.print(f"next: sdi-run --engine {runs[-1]} --source demo --overlay out")


def _runs_here(item: Exported) -> bool:
    return item.manifest.target == "onnx" or item.manifest.gpu is not None


def _show(done: list[Exported]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"in {done[0].path.parent.resolve()}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("file", overflow="fold")
    for heading in ("MB", "layers (MACs)", "target", "s", "max diff."):
        words = heading in ("layers (MACs)", "target")
        table.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for item in done:
        manifest = item.manifest
        layers = sorted(manifest.layers.items(), key=lambda entry: -entry[1]["macs"])
        table.add_row(
            item.path.name,
            f"{manifest.bytes / 1e6:.1f}",
            "\n".join(f"{values['layers']} {kind} ({values['macs']:.1%})" for kind, values in layers),
            manifest.target,
            f"{item.seconds:.0f}",
            f"{manifest.parity['max']:.1e}",
        )
    out.print(table)
    plans = any(item.path.suffix == ".plan" for item in done)
    log.print("max diff.: maximum difference from PyTorch" + ("; a plan's is its ONNX file's" if plans else ""))
