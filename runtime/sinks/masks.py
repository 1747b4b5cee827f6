"""Saliency maps as PNG files."""

from __future__ import annotations

from pathlib import Path

from sdi.runtime.common.images import write_image
from sdi.runtime.common.output_folder import claim_folder, remove_stale
from sdi.runtime.frame import Result, Skipped
from sdi.runtime.sinks.base import Sink

__all__ = ["MasksSink"]


class MasksSink(Sink):
    """`FOLDER/NAME.png`: (H, W) 8-bit gray at the frame's own size, probability x 255, as metrics want it."""

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self._folder = claim_folder(folder, "masks", overwrite)

    def write(self, result: Result) -> None:
        write_image(self._folder / f"{result.frame.name}.png", result.saliency)

    def note(self, skipped: Skipped) -> None:
        remove_stale(self._folder, skipped.name)
