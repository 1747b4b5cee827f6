"""What the benchmarks share: the checkpoint, engines exported from it, pictures, and word of progress."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.progress import Progress
from sdi.runtime.common.strip import DEFECTS, draw_strip

if TYPE_CHECKING:
    from sdi.train.checkpoint import Checkpoint

__all__ = ["Workbench", "sdi_command"]


class Workbench:
    """A temporary folder with what is made for the benchmarks, each thing once.

    Args:
        folder: exists, and is removed by the caller.
        cores: threads that every candidate gets.
        progress: logs what is being done.
        advance: called after every round with (round, rounds).
    """

    def __init__(self, folder: Path, cores: int, progress: Progress, advance: Callable[[int, int], None]) -> None:
        self.folder = folder
        self.cores = cores
        self.progress = progress
        self._advance = advance
        self._engines: dict[tuple[str, tuple[int, int]], Path] = {}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """MINet as the package ships it, else with random weights."""
        from sdi.export.exporter import random_checkpoint
        from sdi.train.checkpoint import load_checkpoint, shipped_checkpoint

        shipped = shipped_checkpoint("minet")
        return random_checkpoint("minet") if shipped is None else load_checkpoint(shipped, "minet")

    @property
    def weights(self) -> str:
        """Which weights `checkpoint` holds, for a note."""
        from sdi.train.checkpoint import shipped_checkpoint

        if shipped_checkpoint("minet") is None:
            return "random weights (none are shipped; speed does not depend on them)"
        return "the shipped weights"

    def engine(self, precision: str, input_hw: tuple[int, int] | None = None) -> Path:
        """The checkpoint as an ONNX engine whose network runs at `input_hw`; by default at its own size."""
        from sdi.export.exporter import ExportRequest, ExportSource, export_onnx
        from sdi.export.network_size import at_network_size

        checkpoint = self.checkpoint
        key = (precision, input_hw or checkpoint.input_hw)
        if key not in self._engines:
            self.progress.log(f"exporting minet {precision} {key[1][0]}x{key[1][1]}")
            sized = at_network_size(checkpoint, key[1])
            request = ExportRequest(precision)  # type: ignore[arg-type]
            folder = self.folder / f"{precision}-{key[1][0]}x{key[1][1]}"
            self._engines[key] = export_onnx(ExportSource(sized, None), request, folder).path
        return self._engines[key]

    def strips(self, count: int) -> list[Path]:
        """`count` pictures of synthetic strip, 200x200 BMP like SD-saliency-900, in their own folder."""
        folder = self.folder / f"strips-{count}"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"strip_{number:04}.bmp" for number in range(count)]
        for number, path in enumerate(paths):
            if not path.exists():
                cv2.imwrite(str(path), self.picture(number, (200, 200))[0])
        return paths

    def picture(self, seed: int, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Synthetic strip with a defect, (H, W, 3) uint8 BGR, and its mask (H, W) uint8."""
        return draw_strip(DEFECTS[seed % len(DEFECTS)], seed, size_hw)

    def rounds(self, count: int) -> Iterator[int]:
        """0 to count - 1, telling of the progress."""
        for number in range(count):
            self._advance(number, count)
            yield number
        self._advance(count, count)


def sdi_command(name: str) -> str:
    """The installed command `name` of the Python that runs this.

    Raises:
        InputError: sdi is not installed here.
    """
    beside = Path(sys.executable).parent / name  # not resolved: a venv's python is a link out of it
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise InputError(f"{name} is not installed; pip install -e '.[dev]'")
    return found
