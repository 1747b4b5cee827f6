from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdi.runtime.errors import GateError, InputError
from sdi.train.augment import Augmentation
from sdi.train.checkpoint import load_checkpoint, load_network, save_checkpoint
from sdi.train.data import Sample
from sdi.train.models import build_model
from sdi.train.recipe import Recipe
from sdi.train.trainer import Progress, Trainer

# 4 steps an epoch of 8 pictures
RECIPE = Recipe(learning_rate=4e-3, input_hw=(32, 32), epochs=2, batch_size=2, evaluate_every=1)


def trainer_in(
    run: Path,
    samples: list[Sample],
    validation: list[Sample] | None = None,
    recipe: Recipe = RECIPE,
) -> Trainer:
    run.mkdir(exist_ok=True)
    torch.manual_seed(recipe.seed)
    return Trainer("minet", build_model("minet"), recipe, samples, validation or [], run, accelerator="cpu")


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


@pytest.mark.parametrize("cut", [2, 3])
def test_resuming_gives_the_very_same_weights(tmp_path: Path, samples: list[Sample], cut: int) -> None:
    """Within an epoch and between two: dropout, batch statistics and Adam's moments all go on."""
    whole = trainer_in(tmp_path / "whole", samples[:6], samples[6:])
    assert whole.steps == 6
    assert whole.fit()
    part = trainer_in(tmp_path / "part", samples[:6], samples[6:])
    assert not part.fit(limit_steps=cut)
    torch.manual_seed(99)  # another process has drawn other numbers before
    torch.rand(7)
    rest = trainer_in(tmp_path / "part", samples[:6], samples[6:])
    rest.resume(load_checkpoint(tmp_path / "part" / "last.pt"))
    assert rest.step == cut
    assert rest.fit()
    one, other = (load_checkpoint(tmp_path / run / "last.pt") for run in ("whole", "part"))
    assert_same(one.weights, other.weights)
    assert_same(one.training["state"]["optimiser"], other.training["state"]["optimiser"])
    assert_same(one.training["state"]["rng"], other.training["state"]["rng"])
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
    reports: list[Progress] = []
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
    reports: list[Progress] = []
    trainer_in(tmp_path / "run", samples).fit(report=reports.append)
    assert [(p.step, p.steps, p.epoch) for p in reports] == [(s, 8, 1 if s <= 4 else 2) for s in range(1, 9)]
    assert all(math.isfinite(p.loss) and p.images_per_second > 0 for p in reports)


def test_stops_when_asked_and_saves(tmp_path: Path, samples: list[Sample]) -> None:
    reports: list[Progress] = []
    trainer = trainer_in(tmp_path / "run", samples)
    assert not trainer.fit(report=reports.append, stop=lambda: len(reports) == 2)
    assert trainer.step == 2
    assert load_checkpoint(tmp_path / "run" / "last.pt").training["state"]["step"] == 2
    assert (tmp_path / "run" / "best.pt").is_file()


def test_learns_what_is_easy(tmp_path: Path, samples: list[Sample]) -> None:
    still = Augmentation(flips=False, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.0)
    recipe = replace(RECIPE, learning_rate=0.02, epochs=2, batch_size=4, augmentation=still)
    reports: list[Progress] = []
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
