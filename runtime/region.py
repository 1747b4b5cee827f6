"""A defect in one frame: a region of the saliency map, measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Region"]


@dataclass(frozen=True)
class Region:
    """One connected region, in pixels of the frame; probabilities 0..1."""

    x: int  # left edge of the box
    y: int  # top edge
    width: int
    height: int
    area: int  # pixels over the threshold
    peak: float  # maximum probability inside
    mean: float  # mean probability inside
    cx: float  # centroid; the middle of the picture's first pixel is 0, 0
    cy: float
    elongation: float  # length over breadth: 1 is a disc or a square, a scratch has 5 and more
    id: int | None = None  # the same over frames for one defect, where regions are linked
    mm_per_pixel: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As records hold it: `id` only where linked; `mm`, with the area in square millimetres, only with a scale."""
        record = asdict(self)
        scale = record.pop("mm_per_pixel")
        if self.id is None:
            del record["id"]
        if scale is not None:
            lengths = {name: round(record[name] * scale, 3) for name in ("x", "y", "width", "height", "cx", "cy")}
            record["mm"] = {**lengths, "area": round(self.area * scale**2, 4)}
        return record
