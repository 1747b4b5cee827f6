"""What follows from options alone: no picture is read and no network is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdi.runtime.common.errors import InputError
from sdi.train.checkpoint import save_checkpoint
from sdi.train.plan import RECIPE_FLAGS, TrainOptions, plan_training
from sdi.train.recipe import recipe_fields
from sdi.train.splits import DataLocation
from support import lively_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "minet.pt"
    save_checkpoint(path, lively_checkpoint("minet", 32))
    return path


def test_flags_and_settings_make_one_recipe(tmp_path: Path) -> None:
    plan = plan_training(
        TrainOptions(
            model="minet",
            recipe="quick",
            fields={"epochs": 3, "input_hw": (64, 64)},
            settings=("ema=0.5", "augmentation.rotation=10"),
            output=tmp_path / "run",
        )
    )
    assert (plan.recipe.epochs, plan.recipe.input_hw, plan.recipe.ema) == (3, (64, 64), 0.5)
    assert plan.recipe.augmentation.rotation == 10
    assert (plan.run, plan.start, plan.before, plan.for_int8) == (tmp_path / "run", None, None, False)
    assert not plan.default_recipe
    assert not plan.run.exists()


def test_each_flag_of_the_recipe_is_one_of_its_fields() -> None:
    assert set(RECIPE_FLAGS) <= set(recipe_fields())


def test_a_run_is_named_after_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_training(TrainOptions(model="minet"))
    assert plan.run.parent == Path("runs/minet")
    assert plan.default_recipe


def test_training_for_int8_starts_from_a_checkpoint_that_names_the_network(checkpoint: Path, tmp_path: Path) -> None:
    plan = plan_training(TrainOptions(qat=str(checkpoint), qat_keep=("a",), output=tmp_path / "run"))
    assert (plan.model, plan.for_int8, plan.keep, plan.resumed) == ("minet", True, ("a",), False)
    assert plan.start is not None
    assert plan.recipe.input_hw == (32, 32)
    with pytest.raises(InputError, match="--compile cannot be had in training for INT8"):
        plan_training(TrainOptions(qat=str(checkpoint), output=tmp_path / "run", compiled=True))


def test_init_starts_from_weights_with_the_recipe_of_the_network(checkpoint: Path, tmp_path: Path) -> None:
    plan = plan_training(TrainOptions(model="minet", recipe="quick", init=str(checkpoint), output=tmp_path / "run"))
    assert plan.start is not None
    assert plan.before is None
    assert plan.recipe.input_hw != (32, 32)


def test_what_contradicts_itself_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for options, told in (
        (TrainOptions(), "choose a network with --model"),
        (TrainOptions(model="minet", qat_keep=("a",)), "--qat-keep needs --qat CHECKPOINT"),
        (TrainOptions(model="minet", fields={"seed": 1}, settings=("seed=2",)), "--set seed and --seed say the same"),
        (TrainOptions(resume=checkpoint, fields={"seed": 1}, teachers=("x",)), "leave out --seed, --teacher"),
        (TrainOptions(resume=checkpoint, data=DataLocation(tmp_path)), "was not trained by sdi-train"),
    ):
        with pytest.raises(InputError, match=told):
            plan_training(options)
