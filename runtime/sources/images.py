"""Image files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import read_image
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources.base import Source

__all__ = ["ImageSource"]


class ImageSource(Source):
    """The given files in the given order. One that cannot be read is skipped and counted.

    Raises:
        InputError: two files share a stem, so that what is written for them would collide.
    """

    live = False

    def __init__(self, name: str, paths: list[Path]) -> None:
        self.name = name
        self.length = len(paths)
        self.inputs = paths
        shared = [stem for stem, n in Counter(path.stem for path in paths).items() if n > 1]
        if shared:
            twins = sorted(str(path) for path in paths if path.stem == shared[0])
            raise InputError(f"{len(shared)} names stand for several images, e.g. {', '.join(twins)}; run them apart")

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        index = 0
        for path in self.inputs:
            try:
                image = read_image(path)
            except InputError as error:
                yield self.skipped(path.stem, str(error))
                continue
            yield self.frame(index, path.stem, image)
            index += 1
