from __future__ import annotations

import copy
import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdi.runtime.common.errors import GateError, InputError
from sdi.train.augment import Augmentation
from sdi.train.checkpoint import load_checkpoint, load_network, save_checkpoint
from sdi.train.data import Sample
from sdi.train.devices import open_fabric
from sdi.train.models import build_model
from sdi.train.models.blocks import SaliencyNetwork, conv, conv_bn_relu, probability
from sdi.train.recipe import Recipe
from sdi.train.trainer import Setup, StepReport, Trainer

# 4 steps an epoch of 8 pictures
RECIPE = Recipe(learning_rate=4e-3, input_hw=(32, 32), epochs=2, batch_size=2, evaluate_every=1)


def trainer_in(
    run: Path,
    samples: list[Sample],
    validation: list[Sample] | None = None,
    recipe: Recipe = RECIPE,
    compiled: bool = False,
) -> Trainer:
    run.mkdir(exist_ok=True)
    torch.manual_seed(recipe.seed)
    fabric = open_fabric("cpu", precision=recipe.precision)
    network = build_model("minet")
    return Trainer("minet", network, recipe, samples, validation or [], run, Setup(fabric, compiled))


def assert_same(one: object, other: object, where: str = "") -> None:
    """Equal to the last bit, through dicts and lists."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor), where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert isinstance(other, dict), where
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("cut", "change"),
    [
        (2, {}),
        (3, {}),
        (2, {"optimiser": "sgd", "ema": 0.9, "accumulate": 2, "input_hw": (32, 64)}),
        (3, {"epochs": None, "steps": 5, "schedule": "poly", "precision": "bf16-mixed"}),
    ],
)
def test_resuming_gives_the_very_same_weights(
    tmp_path: Path, samples: list[Sample], cut: int, change: dict[str, Any]
) -> None:
    """Within an epoch and between two: dropout, batch statistics, moments and averages all go on."""
    recipe = replace(RECIPE, **change)
    whole = trainer_in(tmp_path / "whole", samples[:6], samples[6:], recipe)
    assert whole.steps == (recipe.steps or 6)
    assert whole.fit()
    part = trainer_in(tmp_path / "part", samples[:6], samples[6:], recipe)
    assert not part.fit(limit_steps=cut)
    torch.manual_seed(99)  # another process has drawn other numbers before
    torch.rand(7)
    rest = trainer_in(tmp_path / "part", samples[:6], samples[6:], recipe)
    rest.resume(load_checkpoint(tmp_path / "part" / "last.pt"))
    assert rest.step == cut
    assert rest.fit()
    one, other = (load_checkpoint(tmp_path / run / "last.pt") for run in ("whole", "part"))
    assert_same(one.weights, other.weights)
    for part_of in ("optimiser", "network", "precision"):
        assert_same(one.training["state"].get(part_of), other.training["state"].get(part_of))
    best, other_best = (load_checkpoint(tmp_path / run / "best.pt") for run in ("whole", "part"))
    assert_same(best.weights, other_best.weights)
    assert best.metrics == other_best.metrics


def test_the_seed_decides_and_another_seed_decides_otherwise(tmp_path: Path, samples: list[Sample]) -> None:
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer = trainer_in(tmp_path / name, samples, recipe=replace(RECIPE, epochs=1, seed=seed))
        trainer.fit()
        runs[name] = trainer.network.state_dict()
    assert_same(runs["a"], runs["b"])
    assert not torch.equal(runs["a"]["heads.0.1.weight"], runs["c"]["heads.0.1.weight"])


def test_best_holds_the_epoch_that_scored_best_and_the_log_all(tmp_path: Path, samples: list[Sample]) -> None:
    run = tmp_path / "run"
    trainer = trainer_in(run, samples[:4], samples[4:], replace(RECIPE, epochs=4))
    assert trainer.fit()
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]
    assert list(rows[0])[:5] == ["epoch", "step", "loss", "images_per_second", "learning_rate"]
    scores = [float(row["S"]) for row in rows]
    best = load_checkpoint(run / "best.pt")
    assert best.metrics["S"] == max(scores) == trainer.best
    assert best.training["epoch"] == scores.index(max(scores)) + 1
    assert "state" not in best.training
    # What was scored is what the file holds.
    judge = trainer_in(tmp_path / "judge", samples[:4])
    judge.network.load_state_dict(load_network(best).state_dict())
    assert judge.evaluate(samples[4:])["S"] == pytest.approx(best.metrics["S"], abs=1e-4)
    assert load_checkpoint(run / "last.pt").training["epoch"] == 4


@pytest.mark.parametrize(("epochs", "every", "wanted"), [(5, 3, [3, 5]), (2, 5, [2]), (2, 1, [1, 2])])
def test_evaluates_each_n_epochs_and_after_the_last(
    tmp_path: Path, samples: list[Sample], epochs: int, every: int, wanted: list[int]
) -> None:
    recipe = replace(RECIPE, epochs=epochs, evaluate_every=every)
    trainer = trainer_in(tmp_path / "run", samples[:2], samples[2:4], recipe)
    reports: list[StepReport] = []
    trainer.fit(report=reports.append)
    assert [int(row["epoch"]) for row in trainer.history if "S" in row] == wanted
    assert [p.epoch for p in reports if p.metrics] == wanted


def test_without_validation_best_is_the_latest_epoch(tmp_path: Path, samples: list[Sample]) -> None:
    trainer_in(tmp_path / "run", samples).fit()
    best, last = (load_checkpoint(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert_same(best.weights, last.weights)
    assert best.training["epoch"] == 2
    assert best.metrics == {}


def test_reports_every_step(tmp_path: Path, samples: list[Sample]) -> None:
    reports: list[StepReport] = []
    trainer_in(tmp_path / "run", samples).fit(report=reports.append)
    assert [(p.step, p.steps, p.epoch) for p in reports] == [(s, 8, 1 if s <= 4 else 2) for s in range(1, 9)]
    assert all(math.isfinite(p.loss) and p.images_per_second > 0 for p in reports)


def test_stops_when_asked_and_saves(tmp_path: Path, samples: list[Sample]) -> None:
    reports: list[StepReport] = []
    trainer = trainer_in(tmp_path / "run", samples)
    assert not trainer.fit(report=reports.append, stop=lambda: len(reports) == 2)
    assert trainer.step == 2
    assert load_checkpoint(tmp_path / "run" / "last.pt").training["state"]["step"] == 2
    assert (tmp_path / "run" / "best.pt").is_file()


def test_learns_what_is_easy(tmp_path: Path, samples: list[Sample]) -> None:
    still = Augmentation(flips=False, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.0)
    recipe = replace(RECIPE, learning_rate=0.02, epochs=2, batch_size=4, augmentation=still)
    reports: list[StepReport] = []
    trainer = trainer_in(tmp_path / "run", samples[:4] * 12, recipe=recipe)  # 12 steps an epoch
    before = trainer.evaluate(samples[:4])
    trainer.fit(report=reports.append)
    after = trainer.evaluate(samples[:4])
    assert reports[-1].loss < 0.8 * reports[0].loss
    assert after["S"] > before["S"] + 0.1


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(
    tmp_path: Path, samples: list[Sample], poison: float
) -> None:
    run = tmp_path / "run"
    trainer = trainer_in(run, samples)
    trainer.fit(limit_steps=2)
    before = (run / "last.pt").read_bytes()
    with torch.no_grad():
        trainer.network.heads[0][1].bias.fill_(poison)  # type: ignore[index,union-attr]
        trainer.network.heads[0][1].weight.fill_(poison)  # type: ignore[index,union-attr]
    with pytest.raises(GateError) as error:
        trainer.fit()
    assert error.value.exit_code == 1
    assert f"the loss is nan at step 2: training stopped; the batch is in {run / 'bad-batch.npz'}" in str(error.value)
    with np.load(run / "bad-batch.npz") as batch:
        assert batch["frames"].shape == (2, 32, 32, 3)
        assert batch["frames"].dtype == np.uint8
        assert batch["masks"].shape == (2, 1, 32, 32)
    assert (run / "last.pt").read_bytes() == before


def test_refuses_to_resume_on_other_pictures(tmp_path: Path, samples: list[Sample]) -> None:
    trainer_in(tmp_path / "run", samples).fit(limit_steps=1)
    other = [replace(samples[0], mask=255 - samples[0].mask), *samples[1:]]
    for pictures in (samples[:-1], other):
        with pytest.raises(
            InputError, match="the pictures are not those that the checkpoint was trained and chosen on"
        ):
            trainer_in(tmp_path / "b", pictures).resume(load_checkpoint(tmp_path / "run" / "last.pt"))


def test_refuses_to_resume_from_best(tmp_path: Path, samples: list[Sample]) -> None:
    trainer = trainer_in(tmp_path / "run", samples)
    trainer.fit(limit_steps=1)
    with pytest.raises(InputError, match=r"holds no training state \(best.pt does not\); resume from last.pt"):
        trainer.resume(load_checkpoint(tmp_path / "run" / "best.pt"))


def test_refuses_weights_of_another_network(tmp_path: Path, samples: list[Sample]) -> None:
    trainer = trainer_in(tmp_path / "run", samples)
    trainer.fit(limit_steps=1)
    path = tmp_path / "run" / "last.pt"
    checkpoint = load_checkpoint(path)
    save_checkpoint(path, replace(checkpoint, weights={**checkpoint.weights, "stray": torch.zeros(1)}))
    with pytest.raises(InputError, match="the weights do not fit minet: extra stray"):
        trainer.resume(load_checkpoint(path))


def test_refuses_to_train_on_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture to train on"):
        trainer_in(tmp_path / "run", [])


def test_evaluation_leaves_training_as_it_was(tmp_path: Path, samples: list[Sample]) -> None:
    trainer = trainer_in(tmp_path / "run", samples)
    before = {key: tensor.clone() for key, tensor in trainer.network.state_dict().items()}
    assert trainer.network.training
    first, second = trainer.evaluate(samples[:2]), trainer.evaluate(samples[:2])
    assert first == second
    assert trainer.network.training
    assert_same(before, trainer.network.state_dict())


def test_a_length_in_steps_ends_where_it_says_evaluated_and_saved(tmp_path: Path, samples: list[Sample]) -> None:
    recipe = replace(RECIPE, epochs=None, steps=5, evaluate_every=9)  # 2 steps an epoch of 4 pictures
    trainer = trainer_in(tmp_path / "run", samples[:4], samples[4:6], recipe)
    assert trainer.fit()
    assert [row["step"] for row in trainer.history] == [2, 4, 5]
    assert ["S" in row for row in trainer.history] == [False, False, True]
    for name in ("best.pt", "last.pt"):
        checkpoint = load_checkpoint(tmp_path / "run" / name)
        assert checkpoint.training["epoch"] == 2.5
        assert checkpoint.metrics["S"] == trainer.best


def test_a_step_in_parts_takes_the_mean_of_their_gradients_and_statistics(
    tmp_path: Path, samples: list[Sample]
) -> None:
    """Against plain PyTorch: two halves, each by itself from the same weights."""
    recipe = replace(RECIPE, batch_size=8, accumulate=2, epochs=None, steps=1)
    trainer = trainer_in(tmp_path / "run", samples, recipe=recipe)
    (shares,) = trainer.batches.epoch(0, 0)
    halves = []
    for share in shares:
        network = copy.deepcopy(trainer.network)
        torch.manual_seed(share.seed)
        loss = trainer.spec.loss(network(trainer.engine_module.normalise(share.frames)), share.masks)
        loss.backward()
        halves.append((network, loss.item()))
    wanted = copy.deepcopy(trainer.network)
    for parameter, one, other in zip(wanted.parameters(), *(n.parameters() for n, _ in halves), strict=True):
        parameter.grad = (one.grad + other.grad) / 2
    torch.optim.AdamW(wanted.parameters(), lr=4e-3, weight_decay=1e-4).step()
    reports: list[StepReport] = []
    trainer.fit(report=reports.append)
    assert reports[0].loss == pytest.approx((halves[0][1] + halves[1][1]) / 2, rel=1e-5)
    for parameter, own in zip(wanted.parameters(), trainer.network.parameters(), strict=True):
        torch.testing.assert_close(own, parameter, rtol=1e-3, atol=1e-4)  # Adam enlarges what rounding leaves
    for name, buffer in trainer.network.named_buffers():
        if buffer.is_floating_point():
            mean = (halves[0][0].get_buffer(name) + halves[1][0].get_buffer(name)) / 2
            torch.testing.assert_close(buffer, mean, rtol=1e-4, atol=1e-5)


def test_averaged_weights_are_what_is_validated_and_kept(tmp_path: Path, samples: list[Sample]) -> None:
    recipe = replace(RECIPE, ema=0.5, epochs=None, steps=4)
    trainer = trainer_in(tmp_path / "run", samples[:4], samples[4:], recipe)
    name = "heads.0.1.weight"
    seen: list[torch.Tensor] = []
    trainer.fit(report=lambda p: None if p.metrics else seen.append(trainer.network.state_dict()[name].clone()))
    wanted = seen[0]
    for t, present in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + t) / (10 + t))
        wanted = decay * wanted + (1 - decay) * present
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    torch.testing.assert_close(last.weights[name], wanted, rtol=1e-5, atol=1e-7)
    assert torch.equal(last.training["state"]["network"][name], seen[-1])
    assert not torch.equal(wanted, seen[-1])
    judge = trainer_in(tmp_path / "judge", samples[:4])
    judge.network.load_state_dict(load_network(last).state_dict())
    assert judge.evaluate(samples[4:])["S"] == pytest.approx(trainer.history[-1]["S"], abs=1e-6)


def test_bfloat16_keeps_weights_and_losses_in_float32(tmp_path: Path, samples: list[Sample]) -> None:
    recipe = replace(RECIPE, precision="bf16-mixed", epochs=None, steps=1)
    trainer = trainer_in(tmp_path / "run", samples, recipe=recipe)
    graded: list[torch.dtype] = []
    convolved: list[torch.dtype] = []
    loss = trainer.spec.loss

    def noting(maps: dict[str, torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
        graded.extend(p.dtype for p in maps.values())
        assert not torch.is_autocast_enabled("cpu")
        return loss(maps, truth)

    trainer.spec = replace(trainer.spec, loss=noting)
    first = next(m for m in trainer.network.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: convolved.append(output.dtype))
    assert trainer.fit()
    assert set(graded) == {torch.float32}
    assert set(convolved) == {torch.bfloat16}
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}


def test_the_network_is_trained_at_the_crops_size_and_kept_at_the_inputs(tmp_path: Path, samples: list[Sample]) -> None:
    recipe = replace(RECIPE, input_hw=(64, 96), crop_hw=(32, 48), epochs=None, steps=1)
    trainer = trainer_in(tmp_path / "run", samples[:4], samples[4:], recipe)
    sizes: list[torch.Size] = []
    trainer.network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-2:]))
    trainer.fit()
    assert sizes[:1] == [(32, 48)]
    assert set(sizes[1:]) == {(64, 96)}
    assert load_checkpoint(tmp_path / "run" / "best.pt").input_hw == (64, 96)


class Small(SaliencyNetwork):
    """Two convolutions: quick to compile."""

    primary = "s1"

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn_relu(3, 4, bias=False)  # batch norm takes a bias away: its gradient is rounding alone
        self.head = conv(4, 1)

    def maps(self, x: torch.Tensor, every: bool) -> dict[str, torch.Tensor]:
        return {"s1": probability(self.head(self.body(x)))}


def test_a_compiled_step_learns_the_same_and_keeps_plain_names(tmp_path: Path, samples: list[Sample]) -> None:
    recipe = replace(RECIPE, epochs=None, steps=3, ema=0.5)
    torch.manual_seed(0)
    start = Small()
    weights = {}
    for name, compiled in (("plain", False), ("compiled", True)):
        (tmp_path / name).mkdir()
        network, fabric = copy.deepcopy(start), open_fabric("cpu")
        setup = Setup(fabric, compiled)
        trainer = Trainer("minet", network, recipe, samples[:4], samples[4:], tmp_path / name, setup)
        assert trainer.fit()
        weights[name] = load_checkpoint(tmp_path / name / "best.pt").weights
    assert weights["plain"].keys() == weights["compiled"].keys() == start.state_dict().keys()
    for key, tensor in weights["plain"].items():
        torch.testing.assert_close(weights["compiled"][key], tensor, rtol=1e-3, atol=1e-4, msg=key)
    assert not torch.equal(weights["plain"]["head.weight"], start.state_dict()["head.weight"])


@pytest.mark.parametrize("model", ["minet", "tsernet-lite"])
def test_bfloat16_gives_finite_gradients_with_one_thread(tmp_path: Path, model: str) -> None:
    """In channels-last PyTorch's are not: of minet at 64x64, of tsernet-lite at 128x128."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    masks = np.where(rng.random((4, 128, 128)) > 0.9, np.uint8(255), np.uint8(0))
    samples = [Sample(f"p_{n}", image, mask) for n, (image, mask) in enumerate(zip(pictures, masks, strict=True))]
    side = 64 if model == "minet" else 128
    recipe = replace(RECIPE, input_hw=(side, side), precision="bf16-mixed", epochs=None, steps=2)
    tmp_path.joinpath("run").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        fabric = open_fabric("cpu", precision="bf16-mixed")
        trainer = Trainer(model, build_model(model), recipe, samples, [], tmp_path / "run", Setup(fabric, False))
        assert trainer.layout == torch.contiguous_format
        assert trainer.fit()  # it refuses a loss and weights that are no numbers
    finally:
        torch.set_num_threads(threads)
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_float32_keeps_the_faster_layout(tmp_path: Path, samples: list[Sample]) -> None:
    assert trainer_in(tmp_path / "run", samples).layout == torch.channels_last
