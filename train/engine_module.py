"""The module behind every engine: the I/O contract in PyTorch. docs/contract.md describes it.

Uint8 BGR frames go in, uint8 saliency comes out, and all arithmetic is inside. Evaluation during training runs the same
module, so what is scored is what will be exported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdi.train.models.blocks import SaliencyNetwork
from sdi.train.preprocess import Normalise, Preprocessing

__all__ = ["EngineModule"]


class EngineModule(nn.Module):
    """`frame` (N, H, W, 3) uint8 BGR -> `saliency` (N, H, W) uint8, probability x 255, rounded, never stretched.

    Args:
        network: in eval mode, or its deploy form.
        network_hw: size the network runs at. Frames of another size are resized inside, and the map back.
        raw: answer (N, H, W) float32 probabilities instead, for parity.
        resizes: whether frames are resized inside; None looks at each frame's size, which a graph with free
            height and width cannot do.
        planar: take (N, 3, H, W) float32 BGR, 0..255, and answer (N, 1, H, W) float32 probabilities, for DeepStream's
            nvinfer and for a DLA, which take nothing else.
    """

    def __init__(
        self,
        network: SaliencyNetwork,
        preprocessing: Preprocessing,
        network_hw: tuple[int, int],
        *,
        raw: bool = False,
        resizes: bool | None = None,
        planar: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(preprocessing)
        self.network = network
        self.network_hw = network_hw
        self.raw = raw
        self.resizes = resizes
        self.planar = planar

    def forward(self, frame: Tensor) -> Tensor:
        x = self.normalise(frame)
        frame_hw = x.shape[-2:]
        resizes = frame_hw != self.network_hw if self.resizes is None else self.resizes
        if resizes:
            x = F.interpolate(x, size=self.network_hw, mode="bilinear", align_corners=False)
        dtype = next(self.network.parameters()).dtype
        p = self.network(x.to(dtype))[self.network.primary].float()
        if resizes:
            p = F.interpolate(p, size=frame_hw, mode="bilinear", align_corners=False)
        if self.planar:
            return p
        p = p.squeeze(1)
        if self.raw:
            return p
        # Clip, Round, Cast in float32: a bare cast truncates in TensorRT and wraps in ONNX Runtime.
        return (p * 255).clamp(0, 255).round().to(torch.uint8)
