"""MINet: Multiscale Interactive Network for Real-Time SOD of Strip Steel Surface Defects (IEEE TII 2024).

An encoder of depthwise blocks with multiscale interactive (MI) modules and a slim additive decoder; 0.277 M
parameters. The published module holds one 4-to-1 convolution per channel, 1,312 in all. Here the same
arithmetic is one weighted sum (`InteractiveMix`), so training and export handle a few hundred operators.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdi.train.models.blocks import SaliencyNetwork, probability, scale_channels, upsample_to

__all__ = ["DepthwiseBlock", "InteractiveMix", "MINet", "MultiscaleInteractive"]

_SCALES = 4  # parallel depthwise convolutions in an MI module, dilated 1, 2, 4, 8


def _conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class DepthwiseBlock(nn.Sequential):
    """Depthwise 3x3 then pointwise 1x1, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            _conv_bn_relu(in_channels, in_channels, stride=stride, dilation=dilation, groups=in_channels),
            _conv_bn_relu(in_channels, out_channels, 1),
        )


class InteractiveMix(nn.Module):
    """z_c = ReLU(BN_c(sum_k w_ck * y_kc)): every channel mixes its own scales, by constants.

    Equals the paper's C separate 1x1 convolutions from `scales` channels to one.
    """

    def __init__(self, channels: int, scales: int = _SCALES) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, scales))
        self.bn = nn.BatchNorm2d(channels)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as each Conv2d(scales, 1, 1) would start

    def forward(self, scales: list[Tensor]) -> Tensor:
        return torch.relu(self.bn(_weighted_sum(self.weight, scales)))

    def deployed(self) -> _FoldedMix:
        """The same with the batch norm folded into the constants."""
        return _FoldedMix(self)


class _FoldedMix(nn.Module):
    def __init__(self, mix: InteractiveMix) -> None:
        super().__init__()
        bn = mix.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        self.weight = nn.Parameter((mix.weight * gain[:, None]).detach())
        self.bias = nn.Parameter((bn.bias - bn.running_mean * gain).detach())

    def forward(self, scales: list[Tensor]) -> Tensor:
        return torch.relu(_weighted_sum(self.weight, scales) + self.bias[:, None, None])


def _weighted_sum(weight: Tensor, scales: list[Tensor]) -> Tensor:
    """sum_k weight[:, k] * scales[k]; weight (C, K), each scale (N, C, H, W)."""
    total = scales[0] * weight[:, 0, None, None]
    for k, y in enumerate(scales[1:], start=1):
        total = total + y * weight[:, k, None, None]
    return total


class MultiscaleInteractive(nn.Module):
    """MI module: depthwise convolutions at four dilations, mixed per channel, then 1x1 and a residual sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            _conv_bn_relu(channels, channels, dilation=2**k, groups=channels) for k in range(_SCALES)
        )
        self.mix = InteractiveMix(channels)
        self.fuse = _conv_bn_relu(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Both terms come out of a ReLU, so the one that the paper puts after the sum would change nothing.
        return self.fuse(self.mix([scale(x) for scale in self.scales])) + x


class MINet(SaliencyNetwork):
    """Maps `s1` (primary, from 1/2 scale) to `s5` (from 1/32).

    Args:
        width: factor on all channel counts; 1 is the paper's network.
    """

    primary = "s1"

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = scale_channels((16, 32, 64, 96, 128), width)
        modules = [0, 3, 4, 6, 3]  # MI modules per level
        self.encoder = nn.ModuleList([_conv_bn_relu(3, channels[0], stride=2)])
        for level in range(1, 5):
            self.encoder.append(
                nn.Sequential(
                    DepthwiseBlock(channels[level - 1], channels[level], stride=2),
                    *(MultiscaleInteractive(channels[level]) for _ in range(modules[level])),
                )
            )
        # Index i of the decoder and the heads is level i + 1, as in the encoder.
        narrowed = [channels[0], *channels[:4]]
        self.decoder = nn.ModuleList(
            nn.Sequential(DepthwiseBlock(wide, wide, dilation=2), DepthwiseBlock(wide, narrow))
            for wide, narrow in zip(channels, narrowed, strict=True)
        )
        self.heads = nn.ModuleList(nn.Sequential(nn.Dropout(0.1), nn.Conv2d(c, 1, 1)) for c in narrowed)

    def maps(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        levels = []
        feature = x
        for encode in self.encoder:
            feature = encode(feature)
            levels.append(feature)
        result: dict[str, Tensor] = {}
        decoded = self.decoder[4](levels[4])
        for i in range(4, -1, -1):
            if i < 4:
                decoded = self.decoder[i](upsample_to(decoded, levels[i], align_corners=True) + levels[i])
            if every or i == 0:
                # The published program takes the sigmoid first and enlarges probabilities. At some sizes the
                # enlarged ones exceed 1 by a last digit, which binary cross entropy does not forgive.
                enlarged = upsample_to(probability(self.heads[i](decoded)), x, align_corners=True)
                result[f"s{i + 1}"] = enlarged.clamp(max=1)
        return dict(sorted(result.items()))

    def drop_training_heads(self) -> None:
        for i in range(1, 5):
            self.heads[i] = nn.Identity()
