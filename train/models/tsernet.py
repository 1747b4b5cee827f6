"""TSERNet: Two-Stage Edge Reuse Network for SOD of Strip Steel Surface Defects (IEEE TIM 2022).

Stage 1 is a ResNet-34 encoder with an edge head and a decoder of edge-foreground-background blocks (EFBI);
stage 2, `SubNet`, refines the initial map and reuses the edges (ERM). Where paper and published program
differ, this follows the program, since that is what users' checkpoints were made by: equation (4) reads as three
convolutions over a sum, the program (and `EFBI` here) convolves the parts before adding them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from sdi.train.models.blocks import SaliencyNetwork, conv, conv_bn_relu, probability, upsample_to

__all__ = ["EFBI", "ERM", "EdgeGeneration", "ResidualConvUnit", "SubNet", "TSERNet"]

_ENCODER = (64, 128, 256, 512, 512, 512)  # channels of levels 1..6, at scale 1 .. 1/32
_DECODER = (64, 64, 128, 256, 512, 512)  # channels that levels 1..6 hand on upwards
_BLOCKS = (3, 4, 6, 3, 3, 3)  # basic blocks per level; the first four are ResNet-34's layers


def _three_conv_bn_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(*(conv_bn_relu(channels, channels) for _ in range(3)))


class ResidualConvUnit(nn.Module):
    """x + [BN, ReLU, conv 3, BN, ReLU, conv 3](x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            conv(channels, channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            conv(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class EdgeGeneration(nn.Module):
    """EGM: edge logits (N, 1, H, W) at full size from encoder levels 6 (1/32) and 2 (1/2)."""

    def __init__(self, deep: int, shallow: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            conv_bn_relu(deep, deep),
            conv_bn_relu(deep, deep),
            conv_bn_relu(deep, deep),
            conv(deep, shallow),
            nn.ReLU(),
        )
        self.merge = conv_bn_relu(shallow, width, 1)
        self.branches = nn.ModuleList(conv_bn_relu(width, width, dilation=d) for d in (1, 2, 4, 6))
        self.score = conv(4 * width, 1)
        self.adjust = conv(1, shallow)
        self.head = conv(shallow, 1)

    def forward(self, level6: Tensor, level2: Tensor, like: Tensor) -> Tensor:
        x = self.merge(upsample_to(self.reduce(level6), level2) + level2)
        x = self.score(torch.cat([branch(x) for branch in self.branches], dim=1))
        return upsample_to(self.head(self.adjust(x)), like)


class EFBI(nn.Module):
    """Edge-foreground-background integration of encoder feature x, deeper feature y and edge logits e."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.background_in = conv_bn_relu(channels, channels)
        self.background = _three_conv_bn_relu(channels)
        self.foreground_in = conv_bn_relu(channels, channels)
        self.foreground = _three_conv_bn_relu(channels)
        self.integrate = _three_conv_bn_relu(channels)

    def forward(self, x: Tensor, y: Tensor, e: Tensor) -> Tensor:
        background = self.background(torch.sigmoid(-y) * self.background_in(x))
        foreground = self.foreground(torch.sigmoid(-e) * self.foreground_in(y)) + e
        return background + self.integrate(foreground)


class ERM(nn.Module):
    """Edge reuse: deep feature, shallow feature and the edge at their scale, all `channels` wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.adapt_edge = conv(1, channels)
        self.fuse_edge = conv_bn_relu(2 * channels, channels)
        self.fuse = conv_bn_relu(3 * channels, channels)

    def forward(self, deep: Tensor, shallow: Tensor, e: Tensor) -> Tensor:
        self_edge = torch.relu(shallow - F.avg_pool2d(shallow, 3, stride=1, padding=1))
        fused = self.fuse_edge(torch.cat([self.adapt_edge(e), self_edge], dim=1))
        return self.fuse(torch.cat([deep, shallow, fused], dim=1))


class SubNet(nn.Module):
    """Stage 2: a small U-shaped net over the initial map's logits; adds a correction to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = conv(1, channels)
        self.encoder = nn.ModuleList(conv_bn_relu(channels, channels) for _ in range(5))
        self.decoder = nn.ModuleList(ERM(channels) for _ in range(4))  # index 0 is decoder 1, the finest
        self.heads = nn.ModuleList(conv(channels, 1) for _ in range(4))
        self.residual = conv(channels, 1)

    def forward(self, initial: Tensor, edge: Tensor, every: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Final logits, and when `every` the side logits ref1..ref4 at their own scales."""
        x = self.stem(initial)
        levels = []
        for i, encode in enumerate(self.encoder):
            x = encode(x if i == 0 else F.max_pool2d(x, 2, ceil_mode=True))
            levels.append(x)
        sides = {}
        for i in range(3, -1, -1):
            shallow = levels[i]
            x = self.decoder[i](upsample_to(x, shallow), shallow, upsample_to(edge, shallow))
            if every:
                sides[f"ref{i + 1}"] = self.heads[i](x)
        return initial + self.residual(x), sides


class TSERNet(SaliencyNetwork):
    """Maps `final` (primary), `sal1`..`sal6`, `bridge`, `edge`, `ref1`..`ref4`.

    Args:
        width: factor on all channel counts; 1 is the paper's network (189.64 M parameters). Height and width of
            the input should be multiples of 32, so that no level is padded.
    """

    primary = "final"

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        encoder = [max(1, round(c * width)) for c in _ENCODER]
        decoder = [max(1, round(c * width)) for c in _DECODER]
        slim = encoder[0]
        self.stem = conv_bn_relu(3, slim)
        self.encoder = nn.ModuleList()
        for i, (channels, blocks) in enumerate(zip(encoder, _BLOCKS, strict=True)):
            before = encoder[max(i - 1, 0)]
            self.encoder.append(_residual_level(before, channels, blocks, stride=2 if i in (1, 2, 3) else 1))
        self.rcu = nn.ModuleList(ResidualConvUnit(c) for c in encoder)
        self.edge = EdgeGeneration(encoder[5], encoder[1], slim)
        self.bridge = nn.Sequential(*(conv_bn_relu(encoder[5], encoder[5], dilation=2) for _ in range(3)))
        self.efbi = nn.ModuleList(EFBI(c) for c in encoder)
        self.decoder = nn.ModuleList()
        for i, (wide, narrow) in enumerate(zip(encoder, decoder, strict=True)):
            dilation = 2 if i == 5 else 1
            self.decoder.append(
                nn.Sequential(
                    conv_bn_relu(wide, wide),
                    conv_bn_relu(wide, wide, dilation=dilation),
                    conv_bn_relu(wide, narrow, dilation=dilation),
                )
            )
        self.bridge_head = conv(encoder[5], 1)
        self.heads = nn.ModuleList(conv(c, 1) for c in decoder)  # index i is level i + 1
        self.subnet = SubNet(slim)

    def maps(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        levels = []
        feature = self.stem(x)
        for i, (encode, rcu) in enumerate(zip(self.encoder, self.rcu, strict=True)):
            # The encoder goes on from before the RCU; all that follows uses what comes after it.
            feature = encode(feature if i < 4 else F.max_pool2d(feature, 2, ceil_mode=True))
            levels.append(rcu(feature))
        edge = self.edge(levels[5], levels[1], x)
        bridge = self.bridge(levels[5])
        sides = {"bridge": self.bridge_head(bridge)} if every else {}
        y = bridge
        initial = x
        for i in range(5, -1, -1):
            y = upsample_to(y, levels[i])
            y = self.decoder[i](self.efbi[i](levels[i], y, upsample_to(edge, levels[i])))
            if i == 0:
                initial = self.heads[0](y)
            elif every:
                sides[f"sal{i + 1}"] = self.heads[i](y)
        final, refined = self.subnet(initial, edge, every)
        if not every:
            return {"final": probability(final)}
        logits = {"final": final, "sal1": initial, "edge": edge, **sides, **refined}
        return {name: probability(upsample_to(value, x)) for name, value in logits.items()}

    def load_backbone(self, donor: nn.Module) -> None:
        """Levels 1..4 of the full-width network are layer1..layer4 of torchvision's ResNet-34.

        The stem and levels 5 and 6 have no counterpart and stay as they are.
        """
        for i in range(4):
            self.encoder[i].load_state_dict(donor.get_submodule(f"layer{i + 1}").state_dict())

    def drop_training_heads(self) -> None:
        self.bridge_head = nn.Identity()  # type: ignore[assignment]
        for i in range(1, 6):
            self.heads[i] = nn.Identity()
        for i in range(4):
            self.subnet.heads[i] = nn.Identity()


def _residual_level(before: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """One level of torchvision's basic blocks; the first one changes size and width where asked to."""
    downsample = None
    if stride != 1 or before != channels:
        downsample = nn.Sequential(nn.Conv2d(before, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels))
    level = [BasicBlock(before, channels, stride, downsample)]
    level += [BasicBlock(channels, channels) for _ in range(blocks - 1)]
    return nn.Sequential(*level)
