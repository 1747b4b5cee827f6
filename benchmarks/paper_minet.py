"""MINet as its paper writes it, built from ours: the same weights and the same map by many more operators.

An MI module of C channels holds C convolutions 1x1 from four channels to one, each with a batch norm and a
ReLU of its own. Nothing is folded.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sdi.train.models.minet import InteractiveMix, MINet, MultiscaleInteractive

__all__ = ["PaperMix", "PaperMultiscaleInteractive", "paper_form"]


class PaperMix(nn.Module):
    """The mixing of scales by one small convolution a channel, in eval mode."""

    def __init__(self, mix: InteractiveMix) -> None:
        super().__init__()
        channels, scales = mix.weight.shape
        self.branches = nn.ModuleList(_branch(mix, c, scales) for c in range(channels))
        self.eval()

    def forward(self, scales: list[Tensor]) -> Tensor:
        # As the published program does it: split each scale into its channels, gather by channel, join again.
        split = [y.chunk(len(self.branches), dim=1) for y in scales]
        gathered = [torch.cat(of_channel, dim=1) for of_channel in zip(*split, strict=True)]
        mixed = [branch(y).squeeze(1) for branch, y in zip(self.branches, gathered, strict=True)]
        return torch.stack(mixed, dim=1)


class PaperMultiscaleInteractive(nn.Module):
    """The MI module around `PaperMix`, with the ReLU after the sum that ours can leave out."""

    def __init__(self, module: MultiscaleInteractive) -> None:
        super().__init__()
        self.scales = module.scales
        self.mix = PaperMix(module.mix)
        self.fuse = module.fuse
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.fuse(self.mix([scale(x) for scale in self.scales])) + x)


def paper_form(network: MINet) -> MINet:
    """A copy of `network` in eval mode with the paper's MI modules. The original is left as it was."""
    paper = copy.deepcopy(network).eval()
    for level in paper.encoder:
        for name, module in list(level.named_children()):
            if isinstance(module, MultiscaleInteractive):
                setattr(level, name, PaperMultiscaleInteractive(module))
    return paper.requires_grad_(False)


def _branch(mix: InteractiveMix, channel: int, scales: int) -> nn.Sequential:
    conv, bn = nn.Conv2d(scales, 1, 1, bias=False), nn.BatchNorm2d(1, eps=mix.bn.eps)
    conv.weight.data = mix.weight.data[channel].view(1, scales, 1, 1).clone()
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(bn, name).data.copy_(getattr(mix.bn, name).data[channel : channel + 1])
    return nn.Sequential(conv, bn, nn.ReLU(inplace=True))
