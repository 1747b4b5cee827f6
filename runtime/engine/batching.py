"""Frames of several sources, or several of one, in one call of the engine; calls overlap where the engine can do so."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.common.images import check_frame, resize_image
from sdi.runtime.engine.base import Engine, Token

__all__ = ["Batch", "Batcher"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that `Batcher.submit` was given, and the maps that are there so far."""

    sizes: list[tuple[int, int]]
    maps: list[np.ndarray]

    @property
    def done(self) -> bool:
        return all(each.size for each in self.maps)


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of the engine that is under way."""

    token: Token
    shape: tuple[int, ...]
    batch: Batch
    positions: list[int]  # in the batch


class Batcher:
    """Runs as many frames at once as `largest` says; frames may have different sizes.

    Args:
        sources: how many there are. Where the engine takes any number of frames, a call has one of each at most: more
            would make results older and nothing faster.
    """

    def __init__(self, engine: Engine, sources: int) -> None:
        self._engine = engine
        profile = engine.manifest.profile if engine.manifest is not None else None
        self.largest = engine.batch or (profile[2][0] if profile else sources)
        self._inputs: dict[tuple[int, ...], np.ndarray] = {}  # kept between calls, one for each shape of a batch
        self._under_way: deque[_Call] = deque()

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Saliency of each image, (H, W) uint8, at its own size; new arrays. At most `largest` images.

        Raises:
            InputError: an image has another type or shape.
            DeviceError: the execution failed, or gave maps of another size.
        """
        return self.collect(self.submit(images))

    def submit(self, images: Sequence[np.ndarray]) -> Batch:
        """Begin: the images are read before this returns. Errors as of a call."""
        batch = Batch([(image.shape[0], image.shape[1]) for image in images], [np.empty(0, np.uint8)] * len(images))
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, (image, size_hw) in enumerate(zip(images, batch.sizes, strict=True)):
            check_frame(image)
            if self._engine.grid(size_hw) is not None:
                while self._under_way:
                    self._collect_oldest()
                batch.maps[position] = self._engine(image)  # its windows make batches of their own
                continue
            groups[self._engine.frame_hw or size_hw].append(position)
        for size_hw, positions in groups.items():
            frames = self._frames([images[position] for position in positions], size_hw)
            while len(self._under_way) >= self._engine.slots:
                self._collect_oldest()
            self._under_way.append(_Call(self._engine.submit(frames), frames.shape[:3], batch, positions))
        return batch

    def collect(self, batch: Batch) -> list[np.ndarray]:
        """Wait for the maps of a batch, and so for those that were begun before it. Errors as of a call."""
        while not batch.done:
            self._collect_oldest()
        return batch.maps

    def _collect_oldest(self) -> None:
        call = self._under_way.popleft()
        saliency = self._engine.collect(call.token)
        if saliency.shape != call.shape:
            raise DeviceError(
                f"{self._engine.path.name} answered {saliency.shape} to frames {(*call.shape, 3)}; export it again"
            )
        for row, position in enumerate(call.positions):
            fitted = resize_image(saliency[row], call.batch.sizes[position])
            shared = fitted.base is not None and len(saliency) > 1
            call.batch.maps[position] = fitted.copy() if shared else fitted  # frees the batch

    def _frames(self, images: Sequence[np.ndarray], size_hw: tuple[int, int]) -> np.ndarray:
        """(N, H, W, 3) uint8. Rows of a fixed batch that no image fills keep what they held: their maps go nowhere."""
        if len(images) == 1 and self._engine.batch in (None, 1):
            return np.ascontiguousarray(resize_image(images[0], size_hw))[None]
        shape = (self._engine.batch or len(images), *size_hw, 3)
        if shape not in self._inputs:
            self._inputs[shape] = np.zeros(shape, np.uint8)
        frames = self._inputs[shape]
        for row, image in enumerate(images):
            frames[row] = resize_image(image, size_hw)
        return frames
