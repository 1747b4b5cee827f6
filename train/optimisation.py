"""What a recipe says about optimiser and schedule, as PyTorch has it."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from sdi.runtime.common.errors import InputError
from sdi.train.models import SaliencyNetwork
from sdi.train.recipe import Recipe

__all__ = ["averaged_network", "build_optimiser", "learning_rate"]


def build_optimiser(network: SaliencyNetwork, recipe: Recipe) -> tuple[Optimizer, list[float]]:
    """The recipe's optimiser, and for each of its parameter groups the factor on the learning rate.

    Parameters fall into groups by whether they belong to `network.encoder` and whether they decay: with
    `decay_all=False` biases and batch norm's scales, which have one axis, do not.

    Raises:
        InputError: `backbone_lr` for a network without an encoder.
    """
    encoder = getattr(network, "encoder", None)
    if recipe.backbone_lr != 1 and not isinstance(encoder, nn.Module):
        raise InputError(f"backbone_lr needs a network with an encoder; {type(network).__name__} has none")
    inside = {id(parameter) for parameter in encoder.parameters()} if isinstance(encoder, nn.Module) else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        factor = recipe.backbone_lr if id(parameter) in inside else 1.0
        decay = recipe.weight_decay if recipe.decay_all or parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    parameters = [{"params": members, "weight_decay": decay} for (_, decay), members in groups.items()]
    optimiser: Optimizer
    if recipe.optimiser == "sgd":
        optimiser = SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum)
    else:
        kind = AdamW if recipe.optimiser == "adamw" else Adam
        optimiser = kind(parameters, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps)
    return optimiser, [factor for factor, _ in groups]


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Of one step out of `steps`: a pure function, so resuming cannot shift it.

    Linear warm-up, then half a cosine to the floor, (1 - t) ** power, or nothing more.
    """
    warmup = max(1, round(recipe.warmup * steps)) if recipe.warmup else 0
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "cosine":
        falling = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1)))
        return recipe.learning_rate * (recipe.floor + (1 - recipe.floor) * falling)
    if recipe.schedule == "poly":
        return recipe.learning_rate * (1 - (step - warmup) / max(1, steps - warmup)) ** recipe.power
    return recipe.learning_rate


def averaged_network(network: SaliencyNetwork, decay: float) -> AveragedModel:
    """An exponential moving average of the network's weights and statistics, in eval mode; `module` is the network.

    The decay grows from update to update, min(decay, (1 + t) / (10 + t)), so that random weights are soon forgotten.
    """

    def average(mean: nn.Parameter, present: nn.Parameter, updates: object) -> nn.Parameter:
        if not present.is_floating_point():
            return present
        t = int(updates)  # type: ignore[call-overload]
        return mean.lerp(present, 1 - min(decay, (1 + t) / (10 + t)))  # type: ignore[return-value]

    averaged = AveragedModel(network, avg_fn=average, use_buffers=True)  # type: ignore[arg-type]
    averaged.requires_grad_(False)
    return averaged.eval()
