"""Options that several commands share, each defined once so that it means one thing everywhere."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

__all__ = ["FirstLookOption", "MmPerPixelOption", "OverlapOption", "TileOption", "ZeroCopyOption"]

_SCALE = "Scale and windows"

TileOption = Annotated[
    str,
    typer.Option(
        help="Cut frames into windows of N or HxW pixels. auto: windows as large as the training pictures, where the "
        "frame is over 1.5 times larger in a direction and the engine tells how large they were; none: run every "
        "frame whole, resized to the engine's size.",
        rich_help_panel=_SCALE,
    ),
]
OverlapOption = Annotated[
    int | None,
    typer.Option(help="Pixels that neighbouring windows share at least; default an eighth.", rich_help_panel=_SCALE),
]
FirstLookOption = Annotated[
    str | None,
    typer.Option(
        help="A quicker engine, e.g. minet, that sees every window first; --engine sees only those in which it finds "
        "something with a probability of 0.1 or more.",
        rich_help_panel=_SCALE,
    ),
]
MmPerPixelOption = Annotated[
    float | None,
    typer.Option(
        help="Scale of the frames: windows of --tile auto follow it where the engine knows that of its training "
        "pictures; records tell millimetres too.",
        rich_help_panel=_SCALE,
    ),
]
ZeroCopyOption = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        help="Of plans: let the GPU work in the host's memory instead of copying frames and maps. auto: where both "
        "share their memory, as on a Jetson."
    ),
]
