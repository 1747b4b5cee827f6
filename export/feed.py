"""How a model takes pictures and answers probabilities, whatever its face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from sdi.export.onnx_model import with_probability_output
from sdi.export.parity.runners import Runner, runner_from_onnx
from sdi.runtime.common.images import resize_image

__all__ = ["Feed"]


@dataclass(frozen=True)
class Feed:
    """The shape and form of a model's `frame`."""

    frame_hw: tuple[int, int] | None  # None: any
    batch: int | None = 1  # None: any
    planar: bool = False  # float32 [N, 3, H, W] instead of uint8 [N, H, W, 3]

    def frame(self, image: np.ndarray) -> np.ndarray:
        """A picture, (H, W, 3) uint8 BGR, fitted as the runtime does: (H', W', 3) uint8."""
        return np.ascontiguousarray(resize_image(image, self.frame_hw or image.shape[:2]))

    def frames(self, images: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        """Named pictures, each fitted."""
        return ((name, self.frame(image)) for name, image in images)

    def fed(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 as the model takes them; a fixed batch is filled by repeating."""
        filled = np.repeat(frames, self.batch or 1, axis=0)
        return np.ascontiguousarray(filled.transpose(0, 3, 1, 2), np.float32) if self.planar else filled

    def runner(self, model: onnx.ModelProto, device: str = "cpu") -> Runner:
        """A model in ONNX Runtime, on "cpu" or "cuda"; `model` is left as it was."""
        if self.planar:
            run = runner_from_onnx(model, None, device)
            return lambda frames: run(self.fed(frames))[: len(frames), 0]
        probing = onnx.ModelProto()
        probing.CopyFrom(model)
        return runner_from_onnx(with_probability_output(probing), self.batch, device)
