"""Parts of a frame that people look at: what a reader of the page zooms to, and the surroundings of a defect."""

from __future__ import annotations

from dataclasses import dataclass

from sdi.runtime.frame import Result

__all__ = ["WHOLE", "Part", "View", "closeup"]

Part = tuple[slice, slice]
"""Rows and columns of a frame, pixels."""

_CLOSEUP = 320  # pixels of the frame, at least
_MARGIN = 1.5  # sides of a close-up, in sides of the defect


@dataclass(frozen=True)
class View:
    """Which part of a frame is shown, in shares of its width and height.

    Raises:
        ValueError: it is empty, or not within the frame.
    """

    left: float
    top: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not (0 <= self.left < 1 and 0 <= self.top < 1 and 0 < self.width <= 1 and 0 < self.height <= 1):
            raise ValueError("a view is left,top,width,height, each from 0 to 1")

    @staticmethod
    def parse(text: str) -> View:
        """`left,top,width,height`, as the page asks for it.

        Raises:
            ValueError: anything else.
        """
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) != 4:
            raise ValueError("a view is left,top,width,height")
        return View(*numbers)

    def part(self, frame_hw: tuple[int, int]) -> Part:
        """At least one pixel."""
        height, width = frame_hw
        return _span(self.top, self.height, height), _span(self.left, self.width, width)


WHOLE = View(0.0, 0.0, 1.0, 1.0)


def closeup(result: Result) -> Part | None:
    """The surroundings of the largest defect; None where the frame is hardly larger, or has no defect."""
    height, width = result.saliency.shape
    if not result.regions or max(height, width) <= 2 * _CLOSEUP:
        return None
    region = result.regions[0]
    side = max(_CLOSEUP, round(_MARGIN * max(region.width, region.height)))
    return (
        _around(region.y + region.height // 2, side, height),
        _around(region.x + region.width // 2, side, width),
    )


def _span(start: float, share: float, length: int) -> slice:
    first = min(int(start * length), length - 1)
    return slice(first, max(first + 1, min(length, round((start + share) * length))))


def _around(middle: int, side: int, length: int) -> slice:
    first = max(0, min(middle - side // 2, length - side))
    return slice(first, min(length, first + side))
