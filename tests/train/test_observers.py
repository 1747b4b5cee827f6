"""What observers write of a training that really runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sdi.train.data import Sample
from sdi.train.devices import open_fabric
from sdi.train.models import build_model
from sdi.train.observers import Board, FirstBatches, Observer, Plot, first_batches
from sdi.train.outlines import TRUTH_BGR
from sdi.train.recipe import Recipe
from sdi.train.trainer import Setup, StepReport, Trainer
from sdi.train.watch import watch

RECIPE = Recipe(learning_rate=4e-3, input_hw=(32, 32), epochs=2, batch_size=2, evaluate_every=1)  # 3 steps an epoch


def trainer_in(run: Path, samples: list[Sample], recipe: Recipe = RECIPE) -> Trainer:
    run.mkdir(exist_ok=True)
    torch.manual_seed(0)
    return Trainer("minet", build_model("minet"), recipe, samples[:6], samples[6:], run, Setup(open_fabric("cpu")))


def test_the_plot_is_drawn_anew_every_half_a_minute_and_at_the_end(tmp_path: Path, samples: list[Sample]) -> None:
    times = iter([0.0, 10.0, 29.0, *[31.0] * 2, *[40.0] * 20])
    sizes: list[int | None] = []

    class Looking(Observer):
        def reported(self, report: StepReport) -> None:
            path = tmp_path / "curves.png"
            sizes.append(path.stat().st_mtime_ns if path.is_file() else None)

    assert watch(trainer_in(tmp_path, samples), None, [Plot(lambda: next(times)), Looking()]) == (True, False)
    assert sizes[:2] == [None, None]
    assert sizes[2] is not None
    assert len(set(sizes[2:])) == 1
    assert (tmp_path / "curves.png").stat().st_mtime_ns > sizes[2]
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 5


def test_first_batches_are_what_the_network_is_shown(tmp_path: Path, samples: list[Sample]) -> None:
    trainer = trainer_in(tmp_path, samples, replace(RECIPE, batch_size=3))
    (shares,) = list(trainer.batches.epoch(0, 0))[:1]
    before = torch.random.get_rng_state()
    picture = first_batches(trainer)
    assert torch.equal(before, torch.random.get_rng_state())
    assert picture.shape == (2 * 64, 4 * 64, 3)  # two batches of three, and two empty places
    assert not picture[64:, 128:].any()
    for i in range(3):
        tile = picture[:64, 64 * i : 64 * i + 64]
        mask = shares[0].masks[i, 0].numpy() > 0.5
        shown = cv2.resize(shares[0].frames[i].numpy(), (64, 64), interpolation=cv2.INTER_LINEAR)
        outline = (tile == TRUTH_BGR).all(axis=2)
        np.testing.assert_array_equal(tile[~outline], shown[~outline])
        large = mask.repeat(2, 0).repeat(2, 1)
        assert outline.any() == mask.any()
        assert not (outline & ~large).any()


def test_watching_changes_no_weight(tmp_path: Path, samples: list[Sample]) -> None:
    weights = []
    for name, observers in (("alone", []), ("watched", [Plot(), FirstBatches()])):
        trainer = trainer_in(tmp_path / name, samples)
        watch(trainer, None, observers)
        weights.append(trainer.network.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert (tmp_path / "watched" / "first-batches.png").is_file()


def test_a_picture_that_cannot_be_written_ends_no_training(tmp_path: Path, samples: list[Sample]) -> None:
    for name in ("curves.png", "first-batches.png"):
        (tmp_path / name).mkdir()
    assert watch(trainer_in(tmp_path, samples), 2, [Plot(lambda: 0.0), FirstBatches()]) == (False, False)


def test_observers_are_closed_when_training_fails(tmp_path: Path, samples: list[Sample]) -> None:
    closed = []

    class Failing(Observer):
        def reported(self, report: StepReport) -> None:
            raise RuntimeError("enough")

        def closed(self) -> None:
            closed.append(True)

    with pytest.raises(RuntimeError, match="enough"):
        watch(trainer_in(tmp_path, samples), None, [Plot(), Failing()])
    assert closed == [True]
    # An error is told at once: in a training of several processes Fabric soon kills the first one.
    assert not (tmp_path / "curves.png").exists()


def test_tensorboard_gets_each_step_and_each_score(tmp_path: Path, samples: list[Sample]) -> None:
    """Read back with TensorBoard's own reader; a run that goes on adds to what is there."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = trainer_in(tmp_path, samples)
    losses: list[float] = []

    class Noting(Observer):
        def reported(self, report: StepReport) -> None:
            if not report.metrics:
                losses.append(report.step_loss)

    watch(trainer, 4, [Board(), Noting()])
    watch(trainer, None, [Board(), Noting()])
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in board.Scalars("train/loss")] == pytest.approx(losses)
    scores = [row["S"] for row in trainer.history]
    assert [event.value for event in board.Scalars("validation/S")] == pytest.approx(scores)
    assert [event.step for event in board.Scalars("validation/S")] == [3, 6]
    assert len(board.Images("first batches")) == 2
