"""Parity: how far an engine's answers are from PyTorch's, on raw probabilities before rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from sdi.runtime.errors import InputError
from sdi.runtime.images import resize_image
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.face import Face

__all__ = [
    "TOLERANCES",
    "Parity",
    "Runner",
    "Tolerance",
    "compare",
    "frames_of",
    "runner_from_checkpoint",
    "runner_from_face",
    "runner_from_onnx",
]

Runner = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, 3) uint8 BGR at the engine's frame size -> (N, H, W) float32 probabilities."""


@dataclass(frozen=True)
class Tolerance:
    """Greatest differences of a probability, and least mask IoU, that a gate lets pass."""

    max: float
    p999: float
    mean: float
    iou: float
    reason: str

    def failures(self, measured: Parity) -> list[str]:
        """What is out of bounds, in words; empty when the gate passes."""
        bounds = {"max": self.max, "p999": self.p999, "mean": self.mean}
        found = [
            f"{name} difference {getattr(measured, name):.2e} is over {bound:.0e}"
            for name, bound in bounds.items()
            if getattr(measured, name) > bound
        ]
        if measured.iou < self.iou:
            found.append(f"mask IoU {measured.iou:.5f} is under {self.iou}")
        return found


# Differences are counted in bins, so that memory does not grow with the pictures.
_EDGES = np.concatenate([[0.0], np.geomspace(1e-9, 1.0, 3_500)])

TOLERANCES = {
    "fp32": Tolerance(
        1e-3, 1e-4, 1e-5, 0.999, "same arithmetic in another order: rounding of float32, layer after layer"
    ),
    "fp16": Tolerance(
        1e-1,
        2e-2,
        1e-3,
        0.99,
        "half has 11 bits: about 1e-3 a layer, and steep edges move by a fraction of a pixel",
    ),
}


@dataclass
class Parity:
    """Differences |engine - reference| over all pixels of all pictures, and IoU of the masks at `threshold`."""

    threshold: float = 0.5
    pictures: list[dict[str, Any]] = field(default_factory=list)  # name, pixels, max, mean, iou of each
    _counts: np.ndarray = field(default_factory=lambda: np.zeros(len(_EDGES) - 1, np.int64))
    _both: int = 0
    _either: int = 0

    def update(self, name: str, reference: np.ndarray, engine: np.ndarray) -> None:
        """Add one picture: (H, W) float32 probabilities of both."""
        difference = np.abs(engine.astype(np.float64) - reference.astype(np.float64))
        difference[np.isnan(difference)] = np.inf  # no number is as wrong as can be
        masks = reference >= self.threshold, engine >= self.threshold
        both, either = int((masks[0] & masks[1]).sum()), int((masks[0] | masks[1]).sum())
        self._both, self._either = self._both + both, self._either + either
        self._counts += np.histogram(difference.clip(_EDGES[0], _EDGES[-1]), _EDGES)[0]
        iou = both / either if either else 1.0
        self.pictures.append(
            {
                "name": name,
                "pixels": difference.size,
                "max": float(difference.max()),
                "mean": float(difference.mean()),
                "iou": iou,
            }
        )

    @property
    def max(self) -> float:
        return max(picture["max"] for picture in self.pictures)

    @property
    def mean(self) -> float:
        pixels = sum(picture["pixels"] for picture in self.pictures)
        return sum(picture["mean"] * picture["pixels"] for picture in self.pictures) / pixels

    @property
    def p999(self) -> float:
        """99.9 % of all pixels differ by no more; to 0.6 %, the width of the histogram's bins."""
        share = self._counts.cumsum() / self._counts.sum()
        return min(float(_EDGES[np.searchsorted(share, 0.999) + 1]), self.max)

    @property
    def iou(self) -> float:
        """Over all pictures at once, so that a tiny defect does not weigh as much as a large one."""
        return self._both / self._either if self._either else 1.0

    def to_dict(self) -> dict[str, float]:
        """The figures that a gate looks at."""
        return {"max": self.max, "p999": self.p999, "mean": self.mean, "iou": self.iou}


def compare(
    reference: Runner, engine: Runner, frames: Iterable[tuple[str, np.ndarray]], threshold: float = 0.5
) -> Parity:
    """Run both over named frames, (H, W, 3) uint8 BGR at the engine's size.

    Raises:
        InputError: no frame, or a runner answers another shape or something that is no number.
    """
    parity = Parity(threshold)
    for name, frame in frames:
        answers = [runner(frame[None])[0] for runner in (reference, engine)]
        if answers[0].shape != answers[1].shape:
            raise InputError(f"{name}: the reference answers {answers[0].shape}, the engine {answers[1].shape}")
        if not all(np.isfinite(answer).all() for answer in answers):
            raise InputError(f"{name}: a map holds values that are no numbers (overflow in half precision?)")
        parity.update(name, *answers)
    if not parity.pictures:
        raise InputError("parity needs at least one picture")
    return parity


def runner_from_checkpoint(checkpoint: Checkpoint, network_hw: tuple[int, int]) -> Runner:
    """The reference: the checkpoint in PyTorch, float32, in its training form."""
    return runner_from_face(Face(load_network(checkpoint), checkpoint.preprocessing, network_hw, raw=True))


def runner_from_face(face: Face) -> Runner:
    """A face with raw output, on the device that its network is on."""

    @torch.inference_mode()
    def run(frames: np.ndarray) -> np.ndarray:
        return face(torch.from_numpy(frames)).float().numpy()

    return run


def runner_from_onnx(model: onnx.ModelProto | Path, batch: int | None) -> Runner:
    """A raw ONNX model in ONNX Runtime on the CPU; a fixed batch is filled by repeating the frame."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(frames: np.ndarray) -> np.ndarray:
        fitted = np.repeat(frames, batch, axis=0) if batch else frames
        return session.run(None, {"frame": fitted})[0][: len(frames)]

    return run


def frames_of(
    images: Iterable[tuple[str, np.ndarray]], frame_hw: tuple[int, int] | None
) -> Iterable[tuple[str, np.ndarray]]:
    """Fit named pictures to an engine as the runtime does."""
    for name, image in images:
        yield name, np.ascontiguousarray(resize_image(image, frame_hw or image.shape[:2]))
