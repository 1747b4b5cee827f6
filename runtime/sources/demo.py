"""Synthetic strip, to try everything without a camera or a data set."""

from __future__ import annotations

from collections.abc import Iterator

from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources.base import Source

__all__ = ["DemoSource"]


class DemoSource(Source):
    """Three pictures of each kind of defect and three of clean strip, always the same."""

    name = "demo"
    live = False

    def __init__(self) -> None:
        self._kinds = [(kind, number) for number in range(1, 4) for kind in (*DEFECTS, "clean")]
        self.length = len(self._kinds)

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        for index, (kind, number) in enumerate(self._kinds):
            image, _ = draw_strip(kind, seed=number)
            yield self.frame(index, f"{kind}_{number}", image)
