"""TSERNet-lite: its encoder against an independent one's shapes, its maps' sizes, its loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import mobilenet_v2

from sdi.train.losses import bce_loss, edge_truth, iou_loss, ssim_loss, tsernet_lite_loss
from sdi.train.models.efficientnet_lite import EfficientNetLite0, InvertedResidual
from sdi.train.models.tsernet_lite import TSERNetLite


def test_the_encoder_answers_five_levels() -> None:
    encoder = EfficientNetLite0().eval()
    with torch.inference_mode():
        levels = encoder(torch.zeros(1, 3, 64, 96))
    assert encoder.channels == [16, 24, 40, 112, 192]
    for level, (feature, channels) in enumerate(zip(levels, encoder.channels, strict=True), start=1):
        assert feature.shape == (1, channels, 64 >> level, 96 >> level)
    assert sum(p.numel() for p in encoder.parameters()) == 1_401_088


def test_an_inverted_residual_is_mobilenet_v2s() -> None:
    """The same weights in torchvision's block, which has ReLU6 too and batch norm's usual epsilon."""
    torch.manual_seed(0)
    theirs = mobilenet_v2().features[3].eval()  # 24 -> 24, expansion 6, kernel 3, residual
    ours = InvertedResidual(24, 24, expansion=6, kernel=3, stride=1).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5
    x = torch.randn(1, 24, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("size_hw", [(64, 64), (32, 96)])
def test_the_graded_maps_and_their_sizes(size_hw: tuple[int, int]) -> None:
    h, w = size_hw
    network = TSERNetLite(width=0.25).train()
    maps = network(torch.randn(2, 3, h, w))
    sizes = {"final": 1, "sal1": 1, "sal2": 4, "sal3": 8, "sal4": 16, "sal5": 32, "edge": 4, "ref2": 4}
    assert {name: tuple(p.shape) for name, p in maps.items()} == {
        name: (2, 1, h // part, w // part) for name, part in sizes.items()
    }
    assert set(network.eval()(torch.randn(1, 3, h, w))) == {"final"}


def test_the_loss_is_the_sum_that_its_docstring_names() -> None:
    torch.manual_seed(0)
    truth = (torch.rand(2, 1, 32, 32) > 0.8).float()
    maps = {name: torch.rand(2, 1, side, side) for name, side in (("final", 32), ("sal1", 32), ("sal4", 2))}
    wanted = torch.tensor(0.0)
    for name in ("final", "sal1"):
        wanted = wanted + bce_loss(maps[name], truth) + ssim_loss(maps[name], truth) + iou_loss(maps[name], truth)
    small = truth.unflatten(2, (2, 16)).unflatten(4, (2, 16)).mean(dim=(3, 5))
    wanted = wanted + (bce_loss(maps["sal4"], small) + iou_loss(maps["sal4"], small)) / 2
    torch.testing.assert_close(tsernet_lite_loss(maps, truth), wanted)


def test_an_edge_costs_least_where_the_truths_boundary_is() -> None:
    truth = torch.zeros(1, 1, 64, 64)
    truth[..., 20:40, 24:44] = 1
    flat = {"final": truth, "sal1": truth}
    edge = F.max_pool2d(edge_truth(truth), 4).clamp(0.01, 0.99)
    right = tsernet_lite_loss({**flat, "edge": edge}, truth)
    wrong = tsernet_lite_loss({**flat, "edge": edge.flip(3).roll(5, dims=2)}, truth)
    assert right < 0.1 * wrong
