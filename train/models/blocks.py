"""Building blocks that several networks share.

Rule for every block: children are registered in the order data flows through them, so that a convolution
directly followed by a batch norm is what `deploy.fold_batch_norm` may fold.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SaliencyNetwork", "conv", "conv_bn_relu", "probability", "scale_channels", "upsample_to"]


class SaliencyNetwork(nn.Module):
    """Base of every network here: normalised picture in, named probability maps out.

    `forward` takes (N, 3, H, W) float, RGB, normalised, and returns a dict of (N, 1, H, W) float32 probabilities
    in 0..1. In training mode it holds every supervised map, side maps perhaps at a size of their own; in eval mode
    `primary` alone, which is all that deployment needs.
    """

    primary: str

    def maps(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        """All supervised maps when `every`, else the primary one alone; the same in both modes."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.maps(x, every=self.training)

    def load_backbone(self, donor: nn.Module) -> None:
        """Take over the weights of the network that `ModelSpec.backbone` names."""
        raise NotImplementedError

    def drop_training_heads(self) -> None:
        """Delete the modules that only the supervised side maps need. Called on a copy, by `deploy`."""
        raise NotImplementedError


def conv(in_channels: int, out_channels: int, kernel: int = 3, *, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """Convolution with same padding."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=bias)


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int = 3, *, dilation: int = 1, bias: bool = True
) -> nn.Sequential:
    """Convolution with same padding, batch norm, ReLU."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel, dilation=dilation, bias=bias), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


def scale_channels(channels: Iterable[int], width: float) -> list[int]:
    """Channel counts times `width`, rounded, and 2 at the least."""
    return [max(2, round(c * width)) for c in channels]


def upsample_to(x: Tensor, like: Tensor, *, align_corners: bool = False) -> Tensor:
    """Bilinear resize of (N, C, h, w) to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)


def probability(logits: Tensor) -> Tensor:
    """Sigmoid in float32, whatever the precision around it: in half it saturates at 1 from a logit of 8.3 on."""
    return torch.sigmoid(logits.float())
