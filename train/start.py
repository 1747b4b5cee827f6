"""What a training starts from: recipe, network, weights, and where the network is made to compute as in INT8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from sdi.runtime.common.console import warn
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import resize_image
from sdi.runtime.common.progress import SILENT, Progress
from sdi.train.backbone import load_pretrained
from sdi.train.checkpoint import Checkpoint, load_checkpoint, load_network, shipped_checkpoint
from sdi.train.data import Sample
from sdi.train.engine_module import EngineModule
from sdi.train.models import SaliencyNetwork, build_model, model_spec
from sdi.train.models.deploy import absorb_batch_norm
from sdi.train.paper_recipes import choose_recipe
from sdi.train.qat import Int8Places, measure_places, qat_recipe, train_for_int8
from sdi.train.recipe import Recipe
from sdi.train.scores import score_module
from sdi.train.teacher import Teachers

if TYPE_CHECKING:
    from sdi.train.plan import TrainingPlan

__all__ = ["make_int8", "network_to_train", "recipe_for_int8", "recipe_of_model", "starting_point", "teachers_of"]

_RANGED_ON = 64  # pictures at the most


def recipe_of_model(model: str, name: str | None, changes: dict[str, Any]) -> Recipe:
    """The model's recipe of that name with what the command line changes.

    Raises:
        InputError: no such recipe, or a value out of its range.
    """
    spec = model_spec(model)
    return choose_recipe(name, spec.paper, spec.learning_rate, spec.input_hw).changed(changes)


def recipe_for_int8(start: Checkpoint, name: str | None, changes: dict[str, Any]) -> Recipe:
    """What the checkpoint was trained with, or the recipe of that name, made for a short training for INT8.

    Raises:
        InputError: no such recipe, or a value out of its range.
    """
    known = start.training.get("recipe") if name is None else None
    base = Recipe.from_dict(known) if known else recipe_of_model(start.model, name, {"input_hw": start.input_hw})
    return qat_recipe(base).changed(changes)


def starting_point(model: str | None, named: str, flag: str) -> Checkpoint:
    """The checkpoint that a flag, `--init` or `--qat`, names: a path, or "default" for the one that comes with sdi.

    Raises:
        InputError: there is none, it is of another network, or of no use to that flag.
    """
    path = shipped_checkpoint(model or "") if named == "default" else Path(named)
    if path is None:
        raise InputError(f"{flag} default: no checkpoint of {model} comes with sdi; name one, or leave {flag} out")
    start = load_checkpoint(path, model)
    if flag == "--init" and start.preprocessing != model_spec(start.model).preprocessing:
        raise InputError(
            f"{path} preprocesses otherwise than {start.model} is trained with (an author's checkpoint?): its weights "
            "are of no use to --init"
        )
    return start


def _fresh_network(model: str, seed: int, pretrained: bool) -> SaliencyNetwork:
    torch.manual_seed(seed)
    network = build_model(model)
    backbone = model_spec(model).backbone
    if backbone and pretrained:
        load_pretrained(network, backbone)
    elif backbone:
        warn(f"{model} starts from random weights (--no-pretrained)")
    return network


def network_to_train(
    model: str, given: Checkpoint | None, seed: int, fabric: Fabric, pretrained: bool
) -> SaliencyNetwork:
    """That of the checkpoint given, or a fresh one."""
    if given is not None:
        return load_network(given).train()
    with fabric.rank_zero_first(local=True):  # one download serves all
        return _fresh_network(model, seed, pretrained)


def teachers_of(named: Sequence[str], before: Checkpoint | None) -> Teachers | None:
    """Those that are named or, where a run is resumed, those that it began with; None where there are none.

    Raises:
        InputError: one is no checkpoint, is gone, or is another one by now.
    """
    if before is None:
        return Teachers(named) if named else None
    files = before.training.get("state", {}).get("teachers")
    return Teachers.again(files) if files else None


def make_int8(
    network: SaliencyNetwork,
    plan: TrainingPlan,
    samples: list[Sample],
    validation: list[Sample],
    device: torch.device,
    progress: Progress = SILENT,
) -> Int8Places:
    """Let the network compute as in INT8, with the ranges of the resumed run, or with those of training pictures."""
    assert plan.start is not None
    module = EngineModule(network, plan.start.preprocessing, plan.recipe.input_hw).to(device)
    network.eval()
    absorb_batch_norm(network)
    if plan.resumed:
        places = Int8Places.from_dict(plan.start.training["qat"])
    else:
        chosen = samples[:: -(-len(samples) // _RANGED_ON)]
        ranged = progress.track(chosen, "measuring ranges on training pictures")
        places = measure_places(network, _normalised(ranged, module), plan.keep)
        if validation:
            progress.log(f"in float32: S {score_module(module, validation)['S']:.4f}")
    train_for_int8(network, places)
    count = f"{len(places.inputs)} convolutions and {len(places.skips)} skip inputs"
    kept = f", {len(places.kept)} convolutions stay in high precision" if places.kept else ""
    progress.log(f"training for INT8: {count} are quantised, with ranges of {places.pictures} training pictures{kept}")
    return places


def _normalised(samples: Iterable[Sample], module: EngineModule) -> Iterator[Tensor]:
    """Pictures as the network takes them, one by one."""
    device = next(module.network.parameters()).device
    for sample in samples:
        frame = torch.from_numpy(resize_image(sample.image, module.network_hw)[None])
        yield module.normalise(frame.to(device))
