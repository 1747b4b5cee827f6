"""TSERNet: Two-Stage Edge Reuse Network for SOD of Strip Steel Surface Defects (IEEE TIM 2022).

Stage 1 is a ResNet-34 encoder with an edge head and a decoder of edge-foreground-background blocks (EFBI);
stage 2, `SubNet`, refines the initial map and reuses the edges (ERM). Where paper and published program
differ, this follows the program, since that is what users' checkpoints were made by: equation (4) reads as three
convolutions over a sum, the program (and `EFBI` here) convolves the parts before adding them.

The ablations of the paper's Tables II and III are arguments of `TSERNet`. The paper names what it leaves out and not
what takes its place; here nothing does: a branch without its convolutions hands on its bare input, and a fusion has
one input less.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from sdi.train.models.blocks import SaliencyNetwork, conv, conv_bn_relu, probability, scale_channels, upsample_to

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
    """Edge-foreground-background integration of encoder feature x, deeper feature y and edge logits e.

    Args:
        foreground: FIG, foreground information generation; without it y itself is the foreground.
        background: BIG, background information generation; without it x itself is the background. Without both,
            the sum of x and y is what is left: a plain skip connection.
    """

    def __init__(self, channels: int, *, foreground: bool = True, background: bool = True) -> None:
        super().__init__()
        self.has_foreground = foreground
        self.has_background = background
        if background:
            self.background_in = conv_bn_relu(channels, channels)
            self.background = _three_conv_bn_relu(channels)
        if foreground:
            self.foreground_in = conv_bn_relu(channels, channels)
            self.foreground = _three_conv_bn_relu(channels)
            self.integrate = _three_conv_bn_relu(channels)

    def forward(self, x: Tensor, y: Tensor, e: Tensor) -> Tensor:
        background = self.background(torch.sigmoid(-y) * self.background_in(x)) if self.has_background else x
        if not self.has_foreground:
            return background + y
        foreground = self.foreground(torch.sigmoid(-e) * self.foreground_in(y)) + e
        return background + self.integrate(foreground)


class ERM(nn.Module):
    """Edge reuse: deep feature, shallow feature and the edge at their scale, all `channels` wide.

    Args:
        self_edge: add what stands out of the shallow feature's own 3x3 neighbourhood.
        edge_map: add the edge of stage 1, S_edge. Without either, deep and shallow alone are fused.
    """

    def __init__(self, channels: int, *, self_edge: bool = True, edge_map: bool = True) -> None:
        super().__init__()
        self.has_self_edge = self_edge
        self.has_edge_map = edge_map
        edges = self_edge + edge_map
        if edge_map:
            self.adapt_edge = conv(1, channels)
        if edges:
            self.fuse_edge = conv_bn_relu(edges * channels, channels)
        self.fuse = conv_bn_relu((3 if edges else 2) * channels, channels)

    def forward(self, deep: Tensor, shallow: Tensor, e: Tensor) -> Tensor:
        edges = [self.adapt_edge(e)] if self.has_edge_map else []
        if self.has_self_edge:
            edges.append(torch.relu(shallow - F.avg_pool2d(shallow, 3, stride=1, padding=1)))
        fused = [self.fuse_edge(torch.cat(edges, dim=1))] if edges else []
        return self.fuse(torch.cat([deep, shallow, *fused], dim=1))


class SubNet(nn.Module):
    """Stage 2: a small U-shaped net over the initial map's logits; adds a correction to them. Edges as in `ERM`."""

    def __init__(self, channels: int, *, self_edge: bool = True, edge_map: bool = True) -> None:
        super().__init__()
        self.stem = conv(1, channels)
        self.encoder = nn.ModuleList(conv_bn_relu(channels, channels) for _ in range(5))
        self.decoder = nn.ModuleList(  # index 0 is decoder 1, the finest
            ERM(channels, self_edge=self_edge, edge_map=edge_map) for _ in range(4)
        )
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
        subnet: stage 2; without it the maps end with `sal1`, which is then the primary one.
        foreground: FIG in every EFBI.
        background: BIG in every EFBI; without both, no EFBI.
        self_edge: self-edge in every ERM of the sub-net.
        edge_map: S_edge in every ERM; without both, no ERM.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        subnet: bool = True,
        foreground: bool = True,
        background: bool = True,
        self_edge: bool = True,
        edge_map: bool = True,
    ) -> None:
        super().__init__()
        encoder = scale_channels(_ENCODER, width)
        decoder = scale_channels(_DECODER, width)
        slim = encoder[0]
        self.stem = conv_bn_relu(3, slim)
        self.encoder = nn.ModuleList()
        for i, (channels, blocks) in enumerate(zip(encoder, _BLOCKS, strict=True)):
            before = encoder[max(i - 1, 0)]
            self.encoder.append(_residual_level(before, channels, blocks, stride=2 if i in (1, 2, 3) else 1))
        self.rcu = nn.ModuleList(ResidualConvUnit(c) for c in encoder)
        self.edge = EdgeGeneration(encoder[5], encoder[1], slim)
        self.bridge = nn.Sequential(*(conv_bn_relu(encoder[5], encoder[5], dilation=2) for _ in range(3)))
        self.efbi = nn.ModuleList(EFBI(c, foreground=foreground, background=background) for c in encoder)
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
        self.subnet = SubNet(slim, self_edge=self_edge, edge_map=edge_map) if subnet else None
        self.primary = "final" if subnet else "sal1"

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
        logits = {"sal1": initial, "edge": edge, **sides}
        if self.subnet is not None:
            final, refined = self.subnet(initial, edge, every)
            logits = {"final": final, **logits, **refined}
        if not every:
            return {self.primary: probability(logits[self.primary])}
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
        if self.subnet is not None:
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
