"""CSEPNet: Cross-Scale Edge Purification Network for SOD of steel defect images (Measurement 2022).

An ImageNet backbone, attention (CBAM) on its five levels, and a decoder that purifies each level at two scales
(CSFIM) before it joins the next finer one (CSCM). This follows the published program, since that is what users'
checkpoints were made by: both attentions look at maxima alone, and a CSCM weighs its two inputs alike. The program
runs the CSFIMs of levels 2..5 twice on the same input; here each runs once, a seventh less work than the paper's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.vgg import cfgs, make_layers

from sdi.train.models.blocks import SaliencyNetwork, conv, conv_bn_relu, probability, upsample_to

__all__ = ["CBAM", "CSCM", "CSFIM", "CSWM", "CSEPNet", "ChannelAttention", "Contrast", "SpatialAttention"]

_ADAPTED = (32, 64, 64, 64, 64)  # channels of levels 1..5 after attention
_DECODED = (32, 32, 64, 64, 64)  # channels that levels 1..5 hand on upwards


class ChannelAttention(nn.Module):
    """A weight in 0..1 for each channel, from the channel's greatest value: (N, C, H, W) -> (N, C, 1, 1)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.reduce = conv(channels, channels // reduction, 1, bias=False)
        self.expand = conv(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.expand(torch.relu(self.reduce(x.amax(dim=(2, 3), keepdim=True)))))


class SpatialAttention(nn.Module):
    """A weight in 0..1 for each place, from the greatest channel there: (N, C, H, W) -> (N, 1, H, W)."""

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
    """x + w * x, where w in 0..1 comes from how each place differs from its 3x3 neighbourhood."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(conv(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + x * torch.sigmoid(self.weigh(x - F.avg_pool2d(x, 3, stride=1, padding=1)))


class _CrossScale(nn.Module):
    """What CSWM and CSCM share: a deep feature is enlarged, and each side is attended to by the other."""

    def __init__(self, deep: int, channels: int) -> None:
        super().__init__()
        self.enlarge = conv_bn_relu(deep, channels, bias=False)
        self.attend_left = SpatialAttention()
        self.attend_right = SpatialAttention()
        self.merge = conv_bn_relu(2 * channels, channels, bias=False)
        self.weigh = conv(channels, channels)
        self.fuse = conv_bn_relu(channels, channels, bias=False)

    def weight(self, left: Tensor, right: Tensor) -> Tensor:
        """In 0..1, for every channel and place."""
        a = left + left * self.attend_right(right)
        b = right + right * self.attend_left(left)
        return torch.sigmoid(self.weigh(self.merge(torch.cat([a, b], dim=1))))


class CSWM(_CrossScale):
    """Cross-scale weighting inside a CSFIM: w chooses between the deep feature on the left and the right one."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left = self.enlarge(upsample_to(left, right))
        w = self.weight(left, right)
        return self.fuse(w * left + (1 - w) * right)


class CSCM(_CrossScale):
    """Cross-scale combination of a level on the left with the deeper one on the right; w weighs both alike."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        right = self.enlarge(upsample_to(right, left))
        return self.fuse(self.weight(left, right) * (left + right))


class CSFIM(nn.Module):
    """Cross-scale feature interaction: x at its own scale and at half of it, purified, exchanged, purified again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        low = channels // 2
        self.high_in = _purify(channels, channels)
        self.low_in = _purify(channels, low)
        self.low_to_high = conv(low, channels)
        self.high_to_low = conv(channels, low)
        self.high_out = _purify(channels, channels)
        self.low_out = _purify(low, low)
        self.choose = CSWM(low, channels)
        self.out = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        high = self.high_in(x)
        low = self.low_in(_halve(x))
        high_out = self.high_out(high + self.low_to_high(upsample_to(low, high)))
        low_out = self.low_out(low + self.high_to_low(_halve(high)))
        return self.out(self.choose(low_out, high_out) + x)


class CSEPNet(SaliencyNetwork):
    """Maps `s1` (primary) to `s5`, from the finest level to the deepest.

    Args:
        backbone: torchvision's name; `vgg16_bn` (levels at 1 .. 1/16) or `resnet50` (1/2 .. 1/32). Its layers are
            torchvision's, its weights random until `load_backbone`.
    """

    primary = "s1"

    def __init__(self, backbone: str = "vgg16_bn") -> None:
        super().__init__()
        levels, channels = _BACKBONES[backbone]
        self.backbone = backbone
        # Index i is level i + 1 in all these lists.
        self.encoder = nn.ModuleList(levels(None))
        self.attention = nn.ModuleList(CBAM(c) for c in channels)
        self.adapt = nn.ModuleList(conv(c, adapted) for c, adapted in zip(channels, _ADAPTED, strict=True))
        self.combine = nn.ModuleList(CSCM(c, c) for c in _ADAPTED[:4])
        self.purify = nn.ModuleList(CSFIM(c) for c in _ADAPTED)
        self.narrow = nn.ModuleList(
            conv_bn_relu(wide, slim, bias=False) for wide, slim in zip(_ADAPTED, _DECODED, strict=True)
        )
        self.head = nn.Sequential(conv(_DECODED[0], 1, 1), conv(1, 1))
        self.side_heads = nn.ModuleList(_side_head(c) for c in _ADAPTED[1:])  # index 0 is level 2

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
        """Take over the weights of torchvision's network that the encoder is cut from."""
        levels, _ = _BACKBONES[self.backbone]
        for own, theirs in zip(self.encoder, levels(donor), strict=True):
            own.load_state_dict(theirs.state_dict())

    def drop_training_heads(self) -> None:
        self.side_heads = nn.ModuleList()


def _purify(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn_relu(in_channels, channels), Contrast(channels), conv(channels, channels))


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


def _vgg16_levels(donor: nn.Module | None) -> list[nn.Module]:
    """VGG-16 with batch norm in five parts, each but the first begun by a pooling; of `donor`, or new."""
    features = make_layers(cfgs["D"], batch_norm=True) if donor is None else donor.get_submodule("features")
    layers = list(features.children())
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    return [nn.Sequential(*layers[start:end]) for start, end in zip([0, *pools[:-1]], pools, strict=True)]


def _resnet50_levels(donor: nn.Module | None) -> list[nn.Module]:
    """ResNet-50 in five parts; the stem's pooling opens the second one. Of `donor`, or new."""
    part = (resnet50() if donor is None else donor).get_submodule
    return [
        nn.Sequential(part("conv1"), part("bn1"), part("relu")),
        nn.Sequential(part("maxpool"), part("layer1")),
        part("layer2"),
        part("layer3"),
        part("layer4"),
    ]


_BACKBONES = {  # by torchvision's name: the levels and their channels
    "vgg16_bn": (_vgg16_levels, (64, 128, 256, 512, 512)),
    "resnet50": (_resnet50_levels, (64, 256, 512, 1024, 2048)),
}
