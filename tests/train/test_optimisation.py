from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sdi.runtime.common.errors import InputError
from sdi.train.models import build_model
from sdi.train.models.blocks import SaliencyNetwork
from sdi.train.optimisation import averaged_network, build_optimiser, learning_rate
from sdi.train.paper_recipes import CSEPNET_PAPER, MINET_PAPER
from sdi.train.recipe import Recipe

QUICK = Recipe(learning_rate=0.1, input_hw=(32, 32))


class Tiny(SaliencyNetwork):
    """An encoder and a head, each a convolution with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        self.head = nn.Sequential(nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1))


def test_cosine_rises_over_the_warm_up_and_falls_to_nearly_zero() -> None:
    rates = [learning_rate(replace(QUICK, warmup=0.1), step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05 * (1 + math.cos(math.pi * 45 / 91)))
    assert 0 < rates[-1] < 2e-4
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_cosine_may_end_above_zero() -> None:
    rates = [learning_rate(replace(QUICK, warmup=0.1, floor=0.2), step, 100) for step in range(100)]
    assert rates[10] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.02, abs=1e-4)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_poly_and_constant() -> None:
    """Values of 1e-3 (1 - t / 100) ** 0.9, worked by hand."""
    poly = [learning_rate(CSEPNET_PAPER, step, 100) for step in (0, 50, 75, 99)]
    assert poly == pytest.approx([1e-3, 5.3589e-4, 2.8717e-4, 1.5849e-5], rel=1e-4)
    assert {learning_rate(MINET_PAPER, step, 100) for step in range(100)} == {4e-3}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant"])
def test_very_short_runs_have_a_rate_too(schedule: str, steps: int) -> None:
    recipe = replace(QUICK, schedule=schedule)
    assert all(0 < learning_rate(recipe, step, steps) <= 0.1 for step in range(steps))


def test_biases_and_norms_are_spared_where_the_recipe_says_so() -> None:
    network = Tiny()
    optimiser, _ = build_optimiser(network, CSEPNET_PAPER)
    assert isinstance(optimiser, torch.optim.SGD)
    assert {group["momentum"] for group in optimiser.param_groups} == {0.9}
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert len(decays) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        assert decays[id(parameter)] == (5e-4 if name in ("encoder.0.weight", "head.0.weight") else 0.0)
    whole, factors = build_optimiser(network, QUICK)
    assert isinstance(whole, torch.optim.AdamW)
    assert len(whole.param_groups) == len(factors) == 1


def test_the_encoder_can_learn_more_slowly() -> None:
    network = Tiny()
    optimiser, factors = build_optimiser(network, replace(CSEPNET_PAPER, backbone_lr=0.1))
    inside = {id(parameter) for parameter in network.encoder.parameters()}
    assert sorted(factors) == [0.1, 0.1, 1.0, 1.0]
    for group, factor in zip(optimiser.param_groups, factors, strict=True):
        assert {id(parameter) in inside for parameter in group["params"]} == {factor == 0.1}
    with pytest.raises(InputError, match="backbone_lr needs a network with an encoder; SaliencyNetwork has none"):
        build_optimiser(SaliencyNetwork(), replace(QUICK, backbone_lr=0.1))


@pytest.mark.parametrize("model", ["minet", "tsernet-xs"])
def test_every_parameter_is_trained_once(model: str) -> None:
    network = build_model(model)
    optimiser, _ = build_optimiser(network, replace(CSEPNET_PAPER, backbone_lr=0.5))
    trained = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in network.parameters())


def test_adams_numbers_arrive() -> None:
    optimiser, _ = build_optimiser(Tiny(), replace(MINET_PAPER, betas=(0.8, 0.95), eps=1e-6))
    assert type(optimiser) is torch.optim.Adam
    assert (optimiser.defaults["betas"], optimiser.defaults["eps"]) == ((0.8, 0.95), 1e-6)
    assert optimiser.param_groups[0]["weight_decay"] == 0


def test_the_average_forgets_slowly_and_the_first_weights_at_once() -> None:
    """Weights 1, 2, 3, ... against the recursion by hand; counters are copied."""
    network = Tiny()
    averaged = averaged_network(network, 0.25)
    wanted = math.nan
    for t in range(6):
        for tensor in network.state_dict().values():
            tensor.fill_(t + 1)
        averaged.update_parameters(network)
        decay = min(0.25, (1 + t) / (10 + t))
        wanted = t + 1 if t == 0 else decay * wanted + (1 - decay) * (t + 1)
        for name, tensor in averaged.module.state_dict().items():
            counts = name.endswith("num_batches_tracked")
            assert tensor.flatten()[0].item() == pytest.approx(t + 1 if counts else wanted, rel=1e-6), name
    assert not averaged.module.training
    assert not any(parameter.requires_grad for parameter in averaged.module.parameters())
