"""TSERNet-lite: the two-stage edge reuse of TSERNet on EfficientNet-Lite0, small enough for a CPU beside the line.

What it keeps of TSERNet (IEEE TIM 2022): an edge map from a deep and a shallow level, edge-foreground-background
integration (EFBI) in the decoder, and a sub-net that refines the initial map's logits and reuses the edges (ERM).
What is slim: one convolution where the paper has three, 24 to 64 channels, no map finer than half the input's size.
The encoder is EfficientNet-Lite0 up to its second block at 1/32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdi.train.models.blocks import SaliencyNetwork, conv, conv_bn_relu, probability, scale_channels, upsample_to
from sdi.train.models.efficientnet_lite import EfficientNetLite0
from sdi.train.models.tsernet import ERM

__all__ = ["EdgeHead", "SlimEFBI", "TSERNetLite"]

_WIDTHS = (24, 32, 48, 64, 64)  # decoder channels of levels 1..5
_SUBNET_WIDTH = 16


class EdgeHead(nn.Module):
    """Edge logits (N, 1, h, w) at the size of level 2 (1/4), from levels 5 and 2."""

    def __init__(self, deep: int, shallow: int, width: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(deep, width, 1)
        self.adapt = conv_bn_relu(shallow, width, 1)
        self.merge = nn.Sequential(conv_bn_relu(width, width), conv_bn_relu(width, width, dilation=2), conv(width, 1))

    def forward(self, level5: Tensor, level2: Tensor) -> Tensor:
        shallow = self.adapt(level2)
        return self.merge(shallow + upsample_to(self.reduce(level5), shallow))


class SlimEFBI(nn.Module):
    """TSERNet's EFBI with one convolution a part; the deeper feature y comes at its own size and width."""

    def __init__(self, encoder: int, deeper: int, channels: int) -> None:
        super().__init__()
        self.background_in = conv_bn_relu(encoder, channels, 1)
        self.foreground_in = conv_bn_relu(deeper, channels, 1)
        self.background = conv_bn_relu(channels, channels)
        self.foreground = conv_bn_relu(channels, channels)
        self.integrate = conv_bn_relu(channels, channels)

    def forward(self, x: Tensor, y: Tensor, e: Tensor) -> Tensor:
        x = self.background_in(x)
        y = upsample_to(self.foreground_in(y), x)
        e = upsample_to(e, x)
        background = self.background(torch.sigmoid(-y) * x)
        foreground = self.foreground(torch.sigmoid(-e) * y) + e
        return background + self.integrate(foreground)


class _SlimSubNet(nn.Module):
    """Stage 2 at the initial map's own size: three levels, ERMs, a correction to the logits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = conv_bn_relu(1, channels)
        self.encoder = nn.ModuleList(conv_bn_relu(channels, channels) for _ in range(2))
        self.decoder = nn.ModuleList(ERM(channels) for _ in range(2))  # index 0 is the finest
        self.head = conv(channels, 1)
        self.residual = conv(channels, 1)

    def forward(self, initial: Tensor, edge: Tensor, every: bool) -> tuple[Tensor, dict[str, Tensor]]:
        levels = [self.stem(initial)]
        for encode in self.encoder:
            levels.append(encode(F.max_pool2d(levels[-1], 2, ceil_mode=True)))
        x, sides = levels[2], {}
        for i in (1, 0):
            shallow = levels[i]
            x = self.decoder[i](upsample_to(x, shallow), shallow, upsample_to(edge, shallow))
            if every and i == 1:
                sides["ref2"] = self.head(x)
        return initial + self.residual(x), sides


class TSERNetLite(SaliencyNetwork):
    """Maps `final` (primary) and `sal1` at the input's size; `sal2`..`sal5`, `edge` and `ref2` at their own.

    Args:
        width: factor on all channel counts; 1 is the network that comes with sdi.
    """

    primary = "final"

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.encoder = EfficientNetLite0(width)
        channels = self.encoder.channels
        *widths, slim = scale_channels((*_WIDTHS, _SUBNET_WIDTH), width)
        self.edge = EdgeHead(channels[4], channels[1], widths[0])
        self.bridge = nn.Sequential(
            conv_bn_relu(channels[4], widths[4], 1), conv_bn_relu(widths[4], widths[4], dilation=2)
        )
        deeper = [*widths[1:], widths[4]]
        self.efbi = nn.ModuleList(SlimEFBI(c, d, w) for c, d, w in zip(channels, deeper, widths, strict=True))
        self.heads = nn.ModuleList(conv(w, 1) for w in widths)  # index i is level i + 1
        self.subnet = _SlimSubNet(slim)

    def maps(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        levels = self.encoder(x)
        edge = self.edge(levels[4], levels[1])
        y = self.bridge(levels[4])
        sides = {}
        initial = x
        for i in range(4, -1, -1):
            y = self.efbi[i](levels[i], y, edge)
            if i == 0:
                initial = self.heads[0](y)
            elif every:
                sides[f"sal{i + 1}"] = self.heads[i](y)
        final, refined = self.subnet(initial, edge, every)
        final = probability(upsample_to(final, x))
        if not every:
            return {"final": final}
        sides |= {"edge": edge, **refined}
        return {
            "final": final,
            "sal1": probability(upsample_to(initial, x)),
            **{name: probability(logits) for name, logits in sides.items()},
        }

    def load_backbone(self, donor: nn.Module) -> None:
        """Take over an `EfficientNetLite0`'s weights."""
        self.encoder.load_state_dict(donor.state_dict())

    def drop_training_heads(self) -> None:
        for i in range(1, 5):
            self.heads[i] = nn.Identity()
        self.subnet.head = nn.Identity()  # type: ignore[assignment]
