"""Every network and ablation learns: its loss on two tiny pictures falls to a fifth, and every weight takes part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdi.train.models import model_names, model_spec
from support import narrow_network

# As narrow as the rest, these are tsernet over again.
NAMES = [name for name in model_names() if name not in ("tsernet-s", "tsernet-xs")]


@pytest.fixture(autouse=True)
def plain_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own kernels: for a few channels oneDNN takes longer to set up than to compute."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def two_pictures(name: str) -> tuple[Tensor, Tensor]:
    """Noise that is brighter where the defect is, and the truth: all of one picture, the right half of the other."""
    # The deepest level is 1/32 of the picture, VGG-16's alone 1/16: 2x2 are left of either.
    side = 32 if model_spec(name).backbone == "vgg16_bn" else 64
    truth = torch.ones(2, 1, side, side)
    truth[1, :, :, : side // 2] = 0
    noise = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return 0.3 * noise + 2 * truth - 1, truth


@pytest.mark.parametrize("name", NAMES)
def test_overfits_two_pictures(name: str) -> None:
    network, loss_of = narrow_network(name), model_spec(name).loss
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # it hinders learning by heart
    x, truth = two_pictures(name)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05, betas=(0.7, 0.99), fused=True)
    losses: list[float] = []
    while len(losses) < 200 and (not losses or losses[-1] > losses[0] / 5):
        loss = loss_of(network(x), truth)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] <= losses[0] / 5


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_serves(name: str) -> None:
    """No dead weights: each one gets a gradient from the model's own loss."""
    network = narrow_network(name)
    x, truth = two_pictures(name)
    model_spec(name).loss(network(x), truth).backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []
    # A bias right before a batch norm cancels out; what is left is rounding, which may well be nought.
    dead = [key for key, p in network.named_parameters() if not p.grad.any() and not key.endswith("bias")]
    assert dead == []
