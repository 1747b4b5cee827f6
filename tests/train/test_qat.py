"""Training for INT8: what is quantised, what is trained, and runs that do it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sdi.runtime.common.errors import InputError
from sdi.train.checkpoint import load_checkpoint, load_network, save_checkpoint
from sdi.train.cli import main
from sdi.train.models import SaliencyNetwork, model_spec
from sdi.train.models.deploy import absorb_batch_norm, deploy_form, fold_batch_norm
from sdi.train.paper_recipes import TSERNET_LITE
from sdi.train.qat import Int8Places, half_steps, measure_places, qat_recipe, train_for_int8
from sdi.train.qat.fake import fake_quantised, quantised_weight
from support import enliven, lively_checkpoint, narrow_network

Run = Callable[..., tuple[int, str, str]]
NAMES = [f"{defect}_{i}" for i in range(4) for defect in ("In", "Pa")]
TINY = ("--batch", 2, "--device", "cpu", "--threads", 1)


def prepared(model: str = "minet") -> tuple[SaliencyNetwork, Int8Places, torch.Tensor]:
    """A narrow network that computes as in INT8, its places, and a picture."""
    network = enliven(narrow_network(model)).eval()
    absorb_batch_norm(network)
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    places = measure_places(network, [picture])
    train_for_int8(network, places)
    return network, places, picture


def test_steps_are_the_least_halves_that_reach_the_limit() -> None:
    limits = torch.tensor([127.0, 1.0, 3e-6, 1e4, 0.0])
    steps = half_steps(limits)
    assert steps[0] == 1
    assert steps[4] == 1  # nothing to quantise
    assert torch.equal(steps, steps.half().float())
    assert (steps[:4].double() * 127 >= limits[:4].double()).all()
    below = (steps[:4].half().view(torch.int16) - 1).view(torch.float16)
    assert (below.double() * 127 < limits[:4].double()).all()


def test_fake_quantisation_is_pytorchs_and_passes_gradients_inside_the_range() -> None:
    x = (torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 6 - 3).requires_grad_()
    step = 1 / 64
    theirs = torch.fake_quantize_per_tensor_affine(x.detach(), step, 0, -128, 127)
    ours = fake_quantised(x, step)
    assert torch.equal(ours, theirs)
    ours.sum().backward()
    inside = (x.detach() / step >= -128) & (x.detach() / step <= 127)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, inside.float())
    assert 0 < inside.float().mean() < 1


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weights_have_a_step_for_each_channel_that_comes_out(axis: int | None) -> None:
    weight = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    weight *= torch.tensor([1.0, 10, 100, 1000]).reshape(-1, 1, 1, 1)
    others = [i for i in range(4) if i != axis]
    step = half_steps(weight.abs().amax(dim=others, keepdim=True))
    levels = quantised_weight(weight, axis) / step
    torch.testing.assert_close(levels, levels.round())
    assert levels.abs().max() == 127
    assert (quantised_weight(weight, axis) - weight).abs().max() <= step.max() / 2 * 1.001


@pytest.mark.parametrize("model", ["minet", "tsernet-xs", "csepnet", "tsernet-lite"])
def test_absorbed_batch_norm_changes_no_answer(model: str) -> None:
    network = enliven(narrow_network(model)).eval()
    picture = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = network(picture)[network.primary]
        names = set(network.state_dict())
        absorb_batch_norm(network)
        assert set(network.state_dict()) == names
        torch.testing.assert_close(network(picture)[network.primary], before, atol=1e-5, rtol=0)
    weights = copy.deepcopy(network.state_dict())
    absorb_batch_norm(network)  # nothing is left to absorb
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    folded = dict(deploy_form(network).named_parameters())
    own = dict(network.named_parameters())
    convolutions = [name for name in own if name.endswith(".weight") and own[name].ndim == 4]
    assert convolutions
    assert all(torch.equal(folded[name], own[name]) for name in convolutions if name in folded)


def test_transposed_convolutions_absorb_theirs_too() -> None:
    head = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.BatchNorm2d(4)).eval()
    nn.init.uniform_(head[1].running_var, 0.5, 2)
    nn.init.uniform_(head[1].weight, 0.5, 2)
    nn.init.normal_(head[1].bias)
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        before = head(x)
        absorb_batch_norm(head)
        torch.testing.assert_close(head(x), before)
    trained = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    assert trained == {"0.weight", "0.bias"}
    fold_batch_norm(head)
    with torch.no_grad():
        torch.testing.assert_close(head(x), before)


def test_training_moves_weights_and_no_statistics() -> None:
    network, _, picture = prepared()
    before = copy.deepcopy(network.state_dict())
    network.train()
    loss = model_spec("minet").loss
    mask = (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.7).float()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        torch.manual_seed(0)  # of dropout
        value = loss(network(picture), mask)
        losses.append(float(value.detach()))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    after = network.state_dict()
    norms = {name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, value in after.items():
        where, entry = name.rsplit(".", 1)
        absorbed = where in norms and not where.endswith(".bn")
        if entry in ("running_mean", "running_var", "num_batches_tracked") or (absorbed and entry == "weight"):
            assert torch.equal(value, before[name]), name
        elif entry == "weight":
            assert not torch.equal(value, before[name]), name
    assert not torch.equal(after["encoder.0.1.bias"], before["encoder.0.1.bias"])  # the folded bias


def test_copies_compute_with_their_own_weights() -> None:
    """As averaged networks are made."""
    network, _, picture = prepared()
    twin = copy.deepcopy(network)
    with torch.inference_mode():
        answer = network(picture)["s1"]
        assert torch.equal(twin.eval()(picture)["s1"], answer)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(network(picture)["s1"], answer)
        assert not torch.equal(twin(picture)["s1"], answer)


def test_a_layer_to_keep_must_be_there() -> None:
    network = enliven(narrow_network("minet")).eval()
    with pytest.raises(InputError, match=r"no convolution named encoder\.9 to keep; there are encoder\.0\.0, "):
        measure_places(network, [torch.rand(1, 3, 32, 32)], ["encoder.9"])


def test_places_are_plain_values_and_damage_is_told() -> None:
    places = Int8Places({"a": 1.0, "b": 2.5}, {"b": 0.5}, ("c",), 3)
    assert Int8Places.from_dict(places.to_dict()) == places
    with pytest.raises(InputError, match=r"cannot be read .*sdi-train --qat CHECKPOINT"):
        Int8Places.from_dict({"inputs": {"a": 1.0}})


def test_recipe_is_short_slow_and_whole_pictures_alone() -> None:
    recipe = qat_recipe(TSERNET_LITE)
    assert (recipe.epochs, recipe.steps, recipe.early_hw, recipe.early) == (5, None, None, 0)
    assert recipe.learning_rate == pytest.approx(TSERNET_LITE.learning_rate / 40)
    assert replace(recipe, schedule=TSERNET_LITE.schedule).augmentation == TSERNET_LITE.augmentation


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint that knows no recipe, as an imported one."""
    path = tmp_path / "trained.pt"
    save_checkpoint(path, lively_checkpoint("minet", 32))
    return path


def test_run_for_int8_goes_on_where_it_stopped(
    trained: Path, steel_tree: Callable[..., Path], tmp_path: Path, run_command: Run
) -> None:
    """Unbroken or stopped, it ends in the very same weights, and in checkpoints of the ordinary kind."""
    steel = steel_tree(NAMES, ["Sc_1"])
    start = ("--qat", trained, "--data", steel, "--recipe", "quick", "--val", "0.25", "--epochs", 2, "--set", "ema=0.9")
    start = (*start, "--qat-keep", "encoder.0.0", *TINY)
    code, _, err = run_command(main, *start, "-o", tmp_path / "whole")
    assert code == 0, err
    assert "training for INT8: 109 convolutions and 16 skip inputs are quantised, with ranges of 6 training" in err
    assert "in float32: S 0." in err
    assert "in INT8 before training: S 0." in err
    code, _, err = run_command(main, *start, "-o", tmp_path / "part", "--limit-steps", 2)
    assert code == 0, err
    code, _, err = run_command(main, "--resume", tmp_path / "part", "--device", "cpu", "--threads", 1)
    assert code == 0, err
    whole, part = (load_checkpoint(tmp_path / run / "last.pt") for run in ("whole", "part"))
    assert all(torch.equal(value, part.weights[name]) for name, value in whole.weights.items())
    assert whole.training["qat"] == part.training["qat"]
    places = Int8Places.from_dict(whole.training["qat"])
    assert places.kept == ("encoder.0.0",)
    assert load_checkpoint(tmp_path / "whole" / "best.pt").training["qat"] == places.to_dict()
    before = load_network(load_checkpoint(trained))
    absorb_batch_norm(before)
    network = load_network(whole)  # an ordinary network
    assert not torch.equal(network.state_dict()["encoder.0.0.weight"], before.state_dict()["encoder.0.0.weight"])


def test_wrong_uses_are_told(trained: Path, steel_tree: Callable[..., Path], run_command: Run) -> None:
    data = ("--data", steel_tree(NAMES))
    for arguments, told in (
        (("--qat", trained, "--init", trained), "--init and --qat both say what to start from"),
        (("--qat", trained, "--compile"), "--compile cannot be had in training for INT8"),
        (("--model", "minet", "--qat-keep", "x"), "--qat-keep needs --qat CHECKPOINT"),
        (("--resume", trained.parent, "--qat", trained), "--resume takes recipe and folder from the run"),
        (("--qat", "default"), "choose a network with --model"),
        (("--qat", trained.with_name("none.pt")), "does not exist"),
        (("--qat", trained, "--model", "tsernet-xs"), "holds minet, not tsernet-xs"),
    ):
        code, _, err = run_command(main, *arguments, *data)
        assert (code, told in err) == (2, True), (arguments, err)
