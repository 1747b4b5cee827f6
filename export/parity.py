"""Parity: how far an engine's answers are from PyTorch's, on raw probabilities before rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from sdi.runtime.errors import InputError
from sdi.runtime.images import list_images, read_image, resize_image
from sdi.runtime.strip import DEFECTS, draw_strip
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.face import Face

__all__ = [
    "FIGURES",
    "TOLERANCES",
    "Parity",
    "Pictures",
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

    def rows(self, measured: Parity) -> list[tuple[str, float, float, bool]]:
        """(figure, measured, bound, within it) for each figure."""
        figures = measured.to_dict()
        bounds = {"max": self.max, "p999": self.p999, "mean": self.mean}
        found = [(name, figures[name], bound, figures[name] <= bound) for name, bound in bounds.items()]
        return [*found, ("iou", figures["iou"], self.iou, figures["iou"] >= self.iou)]

    def failures(self, measured: Parity) -> list[str]:
        """What is out of bounds, in words; empty when the gate passes."""
        side = {True: "under", False: "over"}
        return [
            f"{FIGURES[name]} {value:.3g} is {side[name == 'iou']} {bound:g}"
            for name, value, bound, good in self.rows(measured)
            if not good
        ]


FIGURES = {
    "max": "max difference",
    "p999": "p99.9 difference",
    "mean": "mean difference",
    "iou": "mask IoU",
}

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
    "int8": Tolerance(
        1.0,
        8e-1,
        2e-2,
        0.9,
        "eight bits move edges by pixels, so single ones prove nothing; --max-drop is what accuracy is held by",
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
        difference[~np.isfinite(difference)] = 1.0  # what is no number is as wrong as a probability can be
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
        InputError: no frame, maps of different shapes, or a reference that is no number. What is no number in the
            engine's map counts as a difference of 1.
    """
    parity = Parity(threshold)
    for name, frame in frames:
        answers = [runner(frame[None])[0] for runner in (reference, engine)]
        if answers[0].shape != answers[1].shape:
            raise InputError(f"{name}: the reference answers {answers[0].shape}, the engine {answers[1].shape}")
        if not np.isfinite(answers[0]).all():
            raise InputError(f"{name}: the reference's own map holds values that are no numbers; train it again")
        parity.update(name, *answers)
    if not parity.pictures:
        raise InputError("parity needs at least one picture")
    return parity


def runner_from_checkpoint(checkpoint: Checkpoint, network_hw: tuple[int, int]) -> Runner:
    """The reference: the checkpoint in PyTorch, float32, in its training form."""
    return runner_from_face(Face(load_network(checkpoint), checkpoint.preprocessing, network_hw, raw=True))


def runner_from_face(face: Face) -> Runner:
    """A face with raw output, on the CPU."""

    @torch.inference_mode()
    def run(frames: np.ndarray) -> np.ndarray:
        return face(torch.from_numpy(frames)).float().numpy()

    return run


def runner_from_onnx(model: onnx.ModelProto | Path, batch: int | None) -> Runner:
    """A raw ONNX model in ONNX Runtime on the CPU; a fixed batch is filled by repeating the frame."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # the arena would keep gigabytes of what a wide network needs once
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(frames: np.ndarray) -> np.ndarray:
        fitted = np.repeat(frames, batch, axis=0) if batch else frames
        return session.run(None, {"frame": fitted})[0][: len(frames)]

    return run


def frames_of(
    images: Iterable[tuple[str, np.ndarray]], frame_hw: tuple[int, int] | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Fit named pictures to an engine as the runtime does."""
    for name, image in images:
        yield name, np.ascontiguousarray(resize_image(image, frame_hw or image.shape[:2]))


class Pictures:
    """Named pictures of a folder, or synthetic strip, read one by one as they are asked for.

    Args:
        folder: None draws strip of every kind.
        limit: take this many, spread evenly over the folder.
    Raises:
        InputError: no folder, no picture in it, or, while reading, one that cannot be read.
    """

    def __init__(self, folder: Path | None, limit: int | None = None) -> None:
        self._paths = list_images(folder) if folder is not None else None
        if self._paths is not None and limit is not None and limit < len(self._paths):
            chosen = np.linspace(0, len(self._paths) - 1, limit).round().astype(int)
            self._paths = [self._paths[i] for i in chosen]

    def __len__(self) -> int:
        return len(DEFECTS) if self._paths is None else len(self._paths)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        if self._paths is None:
            yield from ((kind, draw_strip(kind, seed=1)[0]) for kind in DEFECTS)
        else:
            yield from ((path.stem, read_image(path)) for path in self._paths)
