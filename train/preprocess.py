"""Preprocessing: what happens to a picture before the network, as numbers and as a module.

The module is used in training, in evaluation and inside every exported graph, so there is one implementation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdi.runtime.common.errors import InputError

__all__ = ["GRAY_STEEL", "HALF", "IMAGENET", "Normalise", "Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """x = (rgb / divisor - mean) / std, with divisor 255, or the picture's own maximum.

    `divide_by_max` belongs to the published TSERNet and MINet programs and is for their checkpoints: the answer
    for one part of a picture then depends on the brightest pixel elsewhere.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    divide_by_max: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint or a manifest."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`.

        Raises:
            InputError: a field is missing, unknown or misshapen.
        """
        try:
            mean, std = (tuple(float(v) for v in value[name]) for name in ("mean", "std"))
            known = {"mean", "std", "divide_by_max"}
            if set(value) - known or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
                raise ValueError
            return Preprocessing(mean, std, bool(value.get("divide_by_max", False)))
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"preprocessing needs mean and std (three numbers each, std > 0) and divide_by_max; got {value}"
            ) from None


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What EfficientNet-Lite's ImageNet weights were trained with: (x - 127) / 128.
HALF = Preprocessing((127 / 255,) * 3, (128 / 255,) * 3)
# The gray statistics of SD-saliency-900 that MINet's paper uses, for each of the three equal channels.
GRAY_STEEL = Preprocessing((0.4669,) * 3, (0.2437,) * 3)


class Normalise(nn.Module):
    """(N, H, W, 3) uint8 BGR, or (N, 3, H, W) float32 BGR of 0..255 -> (N, 3, H, W) float32 RGB, normalised.

    Cast first, then transpose: TensorRT takes uint8 only into a Cast.

    Raises:
        InputError: frames of another type or number of channels; none is cast or cut in silence, as no engine does.
    """

    scale: Tensor
    shift: Tensor
    bgr_to_rgb: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.divide_by_max = preprocessing.divide_by_max
        mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
        std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (std if self.divide_by_max else std * 255), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.register_buffer("bgr_to_rgb", torch.tensor([2, 1, 0]), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        planar = frames.is_floating_point()
        if frames.ndim != 4 or frames.shape[1 if planar else 3] != 3 or not (planar or frames.dtype == torch.uint8):
            raise InputError(
                "frames must be (N, H, W, 3) uint8 BGR or (N, 3, H, W) float32 BGR, "
                f"got {tuple(frames.shape)} {frames.dtype}"
            )
        x = frames if planar else frames.float().permute(0, 3, 1, 2)
        x = x.index_select(1, self.bgr_to_rgb)
        if self.divide_by_max:
            # A black picture stays black instead of becoming 0 / 0.
            x = x / x.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
        return x * self.scale + self.shift
