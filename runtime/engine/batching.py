"""Frames of several sources in one call of the engine, where the engine takes more than one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.common.images import check_frame, resize_image
from sdi.runtime.engine.base import Engine

__all__ = ["Batcher"]


class Batcher:
    """Runs as many frames at once as `largest` says; frames may have different sizes.

    Args:
        wanted: frames that may wait at the same time, one a source.
    """

    def __init__(self, engine: Engine, wanted: int) -> None:
        self._engine = engine
        profile = engine.manifest.profile if engine.manifest is not None else None
        self.largest = min(wanted, engine.batch or (profile[2][0] if profile else wanted))
        self._inputs: dict[tuple[int, ...], np.ndarray] = {}  # kept between calls, one for each shape of a batch

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Saliency of each image, (H, W) uint8, at its own size; new arrays. At most `largest` images.

        Raises:
            InputError: an image has another type or shape.
            DeviceError: the execution failed, or gave maps of another size.
        """
        if len(images) == 1:
            return [self._engine(images[0])]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        answers: list[np.ndarray] = [np.empty(0)] * len(images)
        for position, image in enumerate(images):
            check_frame(image)
            if self._engine.grid((image.shape[0], image.shape[1])) is not None:
                answers[position] = self._engine(image)  # its windows make batches of their own
                continue
            groups[self._engine.frame_hw or (image.shape[0], image.shape[1])].append(position)
        for (height, width), positions in groups.items():
            frames = self._input(self._engine.batch or len(positions), height, width)
            for row, position in enumerate(positions):
                frames[row] = resize_image(images[position], (height, width))
            saliency = self._engine.execute(frames)
            if saliency.shape != frames.shape[:3]:
                raise DeviceError(
                    f"{self._engine.path.name} answered {saliency.shape} to frames {frames.shape}; export it again"
                )
            for row, position in enumerate(positions):
                size_hw = images[position].shape[:2]
                fitted = resize_image(saliency[row], size_hw)
                answers[position] = fitted.copy() if fitted.base is not None else fitted  # frees the batch
        return answers

    def _input(self, *shape: int) -> np.ndarray:
        """(N, H, W, 3) uint8. Rows of a fixed batch that no frame fills keep what they held: their maps go nowhere."""
        if shape not in self._inputs:
            self._inputs[shape] = np.zeros((*shape, 3), np.uint8)
        return self._inputs[shape]
