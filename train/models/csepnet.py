"""CSEPNet: Cross-Scale Edge Purification Network for SOD of steel defect images (Measurement 2022).

An ImageNet backbone, attention (CBAM) on its five levels, and a decoder that purifies each level at two scales
(CSFIM) before it joins the next finer one (CSCM). This follows the published program, since that is what users'
checkpoints were made by: both attentions look at maxima alone, and a CSCM weighs its two inputs alike. The program
runs the CSFIMs of levels 2..5 twice on the same input; here each runs once, a seventh less work than the paper's.

The ablations of the paper's Tables 2 and 4 are other blocks given to `CSEPNet`. The paper names what it leaves out
and not what takes its place; here it is the minimum that keeps the network whole: `nn.Identity` for CBAM and CSFIM,
`ScaleSum` for CSCM and for CSWM.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.vgg import cfgs, make_layers

from sdi.train.models.blocks import SaliencyNetwork, conv, conv_bn_relu, probability, scale_channels, upsample_to

__all__ = [
    "CBAM",
    "CSCM",
    "CSFIM",
    "CSWM",
    "CSEPNet",
    "ChannelAttention",
    "Contrast",
    "ScaleSum",
    "SpatialAttention",
]

_ADAPTED = (32, 64, 64, 64, 64)  # channels of levels 1..5 after attention
_DECODED = (32, 32, 64, 64, 64)  # channels that levels 1..5 hand on upwards


class ChannelAttention(nn.Module):
    """A weight in 0..1 for each channel, from the channel's maximum: (N, C, H, W) -> (N, C, 1, 1)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)  # 4 and more at full width
        self.reduce = conv(channels, hidden, 1, bias=False)
        self.expand = conv(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.expand(torch.relu(self.reduce(x.amax(dim=(2, 3), keepdim=True)))))


class SpatialAttention(nn.Module):
    """A weight in 0..1 for each position, from the maximum over channels there: (N, C, H, W) -> (N, 1, H, W)."""

    def __init__(self, kernel: int = 7) -> None:
        super().__init__()
        self.conv = conv(1, 1, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x.amax(dim=1, keepdim=True)))


class CBAM(nn.Module):
    """Channel attention, then spatial attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = ChannelAttention(channels)
        self.places = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.channels(x)
        return x * self.places(x)


class Contrast(nn.Module):
    """x + w * x, where w in 0..1 comes from how each position differs from its 3x3 neighbourhood."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(conv(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + x * torch.sigmoid(self.weigh(x - F.avg_pool2d(x, 3, stride=1, padding=1)))


class ScaleSum(nn.Module):
    """A shallow feature plus the deep one enlarged to its size and width: CSWM and CSCM without their weights."""

    def __init__(self, deep: int, channels: int) -> None:
        super().__init__()
        self.enlarge = conv_bn_relu(deep, channels, bias=False)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return shallow + self.enlarge(upsample_to(deep, shallow))


class _CrossScale(ScaleSum):
    """What CSWM and CSCM share: each of two sides is attended to by the other, and both together give a weight."""

    def __init__(self, deep: int, channels: int) -> None:
        super().__init__(deep, channels)
        self.attend_left = SpatialAttention()
        self.attend_right = SpatialAttention()
        self.merge = conv_bn_relu(2 * channels, channels, bias=False)
        self.weigh = conv(channels, channels)
        self.fuse = conv_bn_relu(channels, channels, bias=False)

    def weight(self, left: Tensor, right: Tensor) -> Tensor:
        """In 0..1, for every channel and position."""
        a = left + left * self.attend_right(right)
        b = right + right * self.attend_left(left)
        return torch.sigmoid(self.weigh(self.merge(torch.cat([a, b], dim=1))))


class CSWM(_CrossScale):
    """Cross-scale weighting inside a CSFIM: w chooses between the deep feature, on the left, and the shallow one."""

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        deep = self.enlarge(upsample_to(deep, shallow))
        w = self.weight(deep, shallow)
        return self.fuse(w * deep + (1 - w) * shallow)


class CSCM(_CrossScale):
    """Cross-scale combination of a level, on the left, with the deeper one; w weighs both alike."""

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        deep = self.enlarge(upsample_to(deep, shallow))
        return self.fuse(self.weight(shallow, deep) * (shallow + deep))


class CSFIM(nn.Module):
    """Cross-scale feature interaction: x at its own scale and at half of it, purified, exchanged, purified again.

    Args:
        cross_scale: exchange what has been purified between the two scales.
        top_contrast: top CE, the `Contrast` blocks of the path at x's own scale.
        bottom_contrast: bottom CE, those of the path at half of it; without both, no re-calibration.
        merge: joins the two paths at the end; CSCM and ScaleSum fit too.
    """

    def __init__(
        self,
        channels: int,
        *,
        cross_scale: bool = True,
        top_contrast: bool = True,
        bottom_contrast: bool = True,
        merge: Callable[[int, int], nn.Module] = CSWM,
    ) -> None:
        super().__init__()
        low = channels // 2
        self.cross_scale = cross_scale
        self.high_in = _purify(channels, channels, top_contrast)
        self.low_in = _purify(channels, low, bottom_contrast)
        if cross_scale:
            self.low_to_high = conv(low, channels)
            self.high_to_low = conv(channels, low)
        self.high_out = _purify(channels, channels, top_contrast)
        self.low_out = _purify(low, low, bottom_contrast)
        self.choose = merge(low, channels)
        self.out = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.high_in(x), self.low_in(_halve(x))
        if self.cross_scale:
            from_low, from_high = self.low_to_high(upsample_to(low, high)), self.high_to_low(_halve(high))
            high, low = high + from_low, low + from_high
        return self.out(self.choose(self.high_out(high), self.low_out(low)) + x)


class CSEPNet(SaliencyNetwork):
    """Maps `s1` (primary) to `s5`, from the finest level to the deepest.

    Args:
        backbone: torchvision's name; `vgg16_bn` (levels at 1 .. 1/16) or `resnet50` (1/2 .. 1/32). Its layers are
            torchvision's, its weights random until `load_backbone`.
        width: factor on all channel counts; 1 is the paper's network. ResNet-50 narrows inside its blocks alone,
            as torchvision's wide variants widen there.
        attend: each level's attention, from its channels; `nn.Identity` for none.
        combine: joins a level with the deeper one, from the channels of both; `ScaleSum` for the sum alone.
        purify: what each decoder level passes through, from its channels; `nn.Identity` for nothing.
    """

    primary = "s1"

    def __init__(
        self,
        backbone: str = "vgg16_bn",
        width: float = 1.0,
        *,
        attend: Callable[[int], nn.Module] = CBAM,
        combine: Callable[[int, int], nn.Module] = CSCM,
        purify: Callable[[int], nn.Module] = CSFIM,
    ) -> None:
        super().__init__()
        adapted, decoded = scale_channels(_ADAPTED, width), scale_channels(_DECODED, width)
        self.backbone = backbone
        # Index i is level i + 1 in all these lists.
        levels, channels = _BACKBONES[backbone](width)
        self.encoder = nn.ModuleList(levels)
        self.attention = nn.ModuleList(attend(c) for c in channels)
        self.adapt = nn.ModuleList(conv(wide, slim) for wide, slim in zip(channels, adapted, strict=True))
        self.combine = nn.ModuleList(combine(c, c) for c in adapted[:4])
        self.purify = nn.ModuleList(purify(c) for c in adapted)
        self.narrow = nn.ModuleList(
            conv_bn_relu(wide, slim, bias=False) for wide, slim in zip(adapted, decoded, strict=True)
        )
        self.head = nn.Sequential(conv(decoded[0], 1, 1), conv(1, 1))
        self.side_heads = nn.ModuleList(_side_head(c) for c in adapted[1:])  # index 0 is level 2

    def maps(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        return {name: probability(value) for name, value in self.logits(x, every).items()}

    def logits(self, x: Tensor, every: bool) -> dict[str, Tensor]:
        """What the published program answers: the maps before the sigmoid, at full size."""
        levels = []
        feature = x
        for encode, attend, adapt in zip(self.encoder, self.attention, self.adapt, strict=True):
            feature = encode(feature)
            levels.append(adapt(attend(feature)))
        result: dict[str, Tensor] = {}
        decoded = levels[4]
        for i in range(4, -1, -1):
            purified = self.purify[i](decoded if i == 4 else self.combine[i](levels[i], decoded))
            decoded = self.narrow[i](purified)
            if i > 0 and every:
                result[f"s{i + 1}"] = upsample_to(self.side_heads[i - 1](purified), x, align_corners=True)
        result["s1"] = upsample_to(self.head(decoded), x, align_corners=True)
        return dict(sorted(result.items()))

    def load_backbone(self, donor: nn.Module) -> None:
        """Take over the weights of torchvision's network that the full-width encoder is cut from."""
        levels, _ = _BACKBONES[self.backbone](1.0, donor)
        for own, theirs in zip(self.encoder, levels, strict=True):
            own.load_state_dict(theirs.state_dict())

    def drop_training_heads(self) -> None:
        self.side_heads = nn.ModuleList()


def _purify(in_channels: int, channels: int, contrast: bool) -> nn.Sequential:
    between = Contrast(channels) if contrast else nn.Identity()
    return nn.Sequential(*conv_bn_relu(in_channels, channels), between, conv(channels, channels))


def _halve(x: Tensor) -> Tensor:
    """2x2 average pooling; a last odd row or column is kept, so that a single pixel can be halved too."""
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _side_head(channels: int) -> nn.Sequential:
    """Logits at twice the feature's size."""
    return nn.Sequential(
        *(conv_bn_relu(channels, channels, bias=False) for _ in range(3)),
        nn.Dropout(0.5),
        nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        conv(channels, 1),
    )


def _vgg16_levels(width: float, donor: nn.Module | None = None) -> tuple[list[nn.Module], list[int]]:
    """VGG-16 with batch norm in five parts, each but the first begun by a pooling, and their channels.

    The layers are `donor`'s, else new ones.
    """
    if donor is None:
        plan = [c if c == "M" else scale_channels([c], width)[0] for c in cfgs["D"]]
        donor = nn.ModuleDict({"features": make_layers(plan, batch_norm=True)})
    layers = list(donor.get_submodule("features").children())
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    levels: list[nn.Module] = [
        nn.Sequential(*layers[start:end]) for start, end in zip([0, *pools[:-1]], pools, strict=True)
    ]
    return levels, scale_channels((64, 128, 256, 512, 512), width)


def _resnet50_levels(width: float, donor: nn.Module | None = None) -> tuple[list[nn.Module], list[int]]:
    """ResNet-50 in five parts, the stem's pooling at the head of the second one, and their channels.

    The layers are `donor`'s, else new ones.
    """
    part = (resnet50(width_per_group=round(64 * width)) if donor is None else donor).get_submodule
    levels = [
        nn.Sequential(part("conv1"), part("bn1"), part("relu")),
        nn.Sequential(part("maxpool"), part("layer1")),
        part("layer2"),
        part("layer3"),
        part("layer4"),
    ]
    return levels, [64, 256, 512, 1024, 2048]


_BACKBONES = {"vgg16_bn": _vgg16_levels, "resnet50": _resnet50_levels}  # by torchvision's name
