"""What goes into a plan and comes out: shapes, and how pictures lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import check_frames

__all__ = ["PlanIO"]

Size = tuple[int, int, int]
"""(frames, height, width)"""


@dataclass(frozen=True)
class PlanIO:
    """A plan's one input, `frame`, and one output, `saliency`.

    Attributes:
        planar: float32 (N, 3, H, W) and (N, 1, H, W), for DeepStream and a DLA; else uint8 (N, H, W, 3) and (N, H, W).
        min_size, max_size: what the plan takes.
    """

    planar: bool
    min_size: Size
    max_size: Size

    @property
    def fixed(self) -> bool:
        return self.min_size == self.max_size

    @property
    def batch(self) -> int | None:
        return self.min_size[0] if self.min_size[0] == self.max_size[0] else None

    @property
    def frame_hw(self) -> tuple[int, int] | None:
        return self.min_size[1:] if self.min_size[1:] == self.max_size[1:] else None

    def fitted(self, frames: np.ndarray, name: str) -> Size:
        """The size at which frames are run: a batch is filled up to the smallest that the plan takes.

        Raises:
            InputError: the plan `name` does not take them.
        """
        check_frames(frames, name)
        size = (frames.shape[0], frames.shape[1], frames.shape[2])
        wide_enough = all(few <= n for few, n in zip(self.min_size[1:], size[1:], strict=True))
        if not wide_enough or any(n > most for n, most in zip(size, self.max_size, strict=True)):
            raise InputError(
                f"{name} takes {_words(self.min_size)} to {_words(self.max_size)}, got {_words(size)}; build it with "
                "--dynamic --frame and --batch that include this"
            )
        return (max(size[0], self.min_size[0]), *size[1:])

    def shape(self, size: Size) -> tuple[int, ...]:
        """Of `frame` at a size."""
        count, height, width = size
        return (count, 3, height, width) if self.planar else (count, height, width, 3)

    def input_bytes(self, size: Size) -> int:
        return 3 * self.output_bytes(size)

    def output_bytes(self, size: Size) -> int:
        return size[0] * size[1] * size[2] * (4 if self.planar else 1)

    def write(self, frames: np.ndarray, size: Size, memory: np.ndarray) -> None:
        """Lay frames out in `memory`, uint8, as the plan reads them; the last one again where some are missing."""
        target = memory[: self.input_bytes(size)]
        if not self.planar:
            rows = target.reshape(self.shape(size))
            rows[: len(frames)] = frames
            rows[len(frames) :] = frames[-1]
            return
        planes = target.view(np.float32).reshape(self.shape(size))
        for frame, rows in zip(frames, planes, strict=False):
            for plane, row in zip(cv2.split(frame), rows, strict=True):
                row[...] = plane
        planes[len(frames) :] = planes[len(frames) - 1]

    def read(self, memory: np.ndarray, size: Size, count: int) -> np.ndarray:
        """The first `count` maps in `memory` as (count, H, W) uint8, a copy."""
        maps = memory[: self.output_bytes(size)]
        if not self.planar:
            return maps.reshape(size)[:count].copy()
        answer = np.empty((count, *size[1:]), np.uint8)
        for probability, saliency in zip(maps.view(np.float32).reshape(size), answer, strict=False):
            positive = cv2.threshold(probability, 0, 0, cv2.THRESH_TOZERO)[1]  # what follows takes absolute values
            cv2.convertScaleAbs(positive, dst=saliency, alpha=255)
        return answer


def _words(size: Size) -> str:
    return f"{size[0]} x {size[1]}x{size[2]}"
