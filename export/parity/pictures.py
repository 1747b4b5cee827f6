"""The pictures that runners are compared on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sdi.runtime.common.images import list_images, read_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.train.data import Pair, read_truth

__all__ = ["Pictures"]

_STRIP = (*DEFECTS, "clean")  # clean strip too: only on dark maps does a stretch to 0..1 show


class Pictures:
    """Named pictures of a folder, or synthetic strip, read one by one as they are asked for.

    Args:
        folder: None draws strip of every kind, and clean strip.
        limit: take this many, spread evenly over the folder.
        pairs: instead of a folder: pictures whose masks are known.
    Raises:
        InputError: no folder, no picture in it, or, while reading, one that cannot be read.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None, pairs: list[Pair] | None = None) -> None:
        items: list[tuple[str, Path, Path | None]] | None = None
        if pairs is not None:
            items = [(pair.name, pair.image, pair.mask) for pair in pairs]
        elif folder is not None:
            items = [(path.stem, path, None) for path in list_images(folder)]
        if items is not None and limit is not None and limit < len(items):
            items = [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]
        self._items = items

    @property
    def synthetic(self) -> bool:
        """Whether they are drawn."""
        return self._items is None

    def __len__(self) -> int:
        return len(_STRIP) if self._items is None else len(self._items)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, (H, W, 3) uint8 BGR) of each."""
        return ((name, self.picture(i)) for i, name in enumerate(self.names))

    @property
    def names(self) -> list[str]:
        """What they are called, in their order."""
        return list(_STRIP) if self._items is None else [name for name, _, _ in self._items]

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR.

        Raises:
            InputError: it cannot be read.
        """
        return draw_strip(_STRIP[index], seed=1)[0] if self._items is None else read_image(self._items[index][1])

    def truth(self, index: int) -> np.ndarray | None:
        """(H, W) uint8, 0 or 255, of the picture's size; None where it is not known.

        Raises:
            InputError: it cannot be read, or has another size.
        """
        mask = None if self._items is None else self._items[index][2]
        return None if mask is None else read_truth(mask)
