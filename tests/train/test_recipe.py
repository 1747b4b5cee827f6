from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdi.runtime.common.errors import InputError
from sdi.train.augment import Augmentation
from sdi.train.models import model_names, model_spec
from sdi.train.paper_recipes import CSEPNET_PAPER, MINET_PAPER, TSERNET_PAPER, choose_recipe
from sdi.train.recipe import Recipe, View, parse_settings, recipe_fields

QUICK = Recipe(0.01, (64, 96))


@pytest.mark.parametrize(
    "recipe",
    [
        replace(QUICK, epochs=7, seed=3, augmentation=Augmentation(flips=False, gain=0.5)),
        TSERNET_PAPER,
        CSEPNET_PAPER,
        MINET_PAPER,
    ],
)
def test_survives_a_checkpoint(recipe: Recipe) -> None:
    value = recipe.to_dict()
    assert not any(isinstance(v, tuple) for v in value.values())  # as plain as JSON
    assert Recipe.from_dict(value) == recipe


def test_reads_what_an_older_sdi_wrote() -> None:
    """The recipe in the shipped checkpoint, from before there were any other."""
    old = {
        "learning_rate": 0.004,
        "input_hw": [256, 256],
        "epochs": 50,
        "batch_size": 8,
        "weight_decay": 0.0001,
        "warmup": 0.05,
        "seed": 0,
        "validation": "none",
        "evaluate_every": 5,
        "augmentation": {"flips": True, "min_crop": 0.7, "gain": 0.2, "offset": 20.0, "salt_pepper": 0.01},
    }
    recipe = Recipe.from_dict(old)
    assert recipe == replace(QUICK, learning_rate=0.004, input_hw=(256, 256), epochs=50, validation="none")
    assert (recipe.optimiser, recipe.schedule, recipe.ema, recipe.precision) == ("adamw", "cosine", 0.0, "32")


def test_refuses_an_unknown_field() -> None:
    with pytest.raises(InputError, match=r"unknown recipe field nesterov; known: .*learning_rate, .*momentum"):
        Recipe.from_dict({**QUICK.to_dict(), "nesterov": True})
    augmentation = {**QUICK.to_dict()["augmentation"], "blur": 1.0}
    with pytest.raises(InputError, match=r"unknown augmentation field blur; known: .*salt_pepper"):
        Recipe.from_dict({**QUICK.to_dict(), "augmentation": augmentation})
    with pytest.raises(InputError, match=r"recipe cannot be read: .*input_hw"):
        Recipe.from_dict({"learning_rate": 0.1})


@pytest.mark.parametrize("size_hw", [(0, 32), (33, 64), (64, 40), (16, 16)])
@pytest.mark.parametrize("which", ["input", "crop"])
def test_refuses_a_size_that_the_networks_cannot_halve(size_hw: tuple[int, int], which: str) -> None:
    wanted = f"the {which} size must be a multiple of 16, and 32 at the least; got {size_hw[0]}x{size_hw[1]}"
    with pytest.raises(InputError, match=wanted):
        replace(QUICK, **{"input_hw": (64, 64), f"{which}_hw": size_hw})


def test_refuses_a_crop_that_is_larger_than_the_picture() -> None:
    with pytest.raises(InputError, match="the crop 64x112 does not fit into the input 64x96"):
        replace(QUICK, crop_hw=(64, 112))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        *(({name: 0}, f"{name} must be greater than 0") for name in ("epochs", "learning_rate", "accumulate", "power")),
        ({"batch_size": -1}, "batch_size must be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be greater than 0"),
        ({"steps": 10}, "in epochs or in steps, one of them; got 60 and 10"),
        ({"epochs": None}, "in epochs or in steps, one of them; got None and None"),
        ({"ema": 1.0}, "ema must be at least 0 and less than 1, got 1.0"),
        ({"warmup": -0.1}, "warmup must be at least 0"),
        ({"betas": (0.9, 1.0)}, "betas must be at least 0 and less than 1, got 0.9, 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay must not be negative"),
        ({"seed": -1}, "seed must not be negative"),
        ({"optimiser": "lamb"}, "optimiser is one of adamw, adam, sgd; got 'lamb'"),
        ({"schedule": "step"}, "schedule is one of cosine, poly, constant; got 'step'"),
        ({"precision": "16"}, "precision is one of 32, 16-mixed, bf16-mixed; got '16'"),
        ({"validation": "all"}, "--val takes a share between 0 and 1, 'test' or 'none'; got 'all'"),
    ],
)
def test_refuses_values_out_of_range(change: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        replace(QUICK, **change)


def test_a_change_names_a_field_also_of_the_augmentation() -> None:
    changed = CSEPNET_PAPER.changed({"momentum": 0.5, "augmentation.rotation": 5.0})
    assert changed == replace(
        CSEPNET_PAPER, momentum=0.5, augmentation=replace(CSEPNET_PAPER.augmentation, rotation=5.0)
    )
    for name in ("nesterov", "augmentation.blur", "augmentation"):
        with pytest.raises(InputError, match=f"unknown recipe field {name}; known: learning_rate, input_hw"):
            CSEPNET_PAPER.changed({name: 1})


def test_steps_replace_epochs_and_the_other_way_round() -> None:
    assert (QUICK.changed({"steps": 10}).epochs, QUICK.changed({"steps": 10}).steps) == (None, 10)
    changed = TSERNET_PAPER.changed({"epochs": 3})
    assert (changed.epochs, changed.steps) == (3, None)
    with pytest.raises(InputError, match="one of them; got 3 and 10"):
        QUICK.changed({"epochs": 3, "steps": 10})


def test_a_crop_is_scaled_with_the_input_unless_given() -> None:
    assert TSERNET_PAPER.changed({"input_hw": (128, 128)}).crop_hw == (112, 112)
    assert MINET_PAPER.changed({"input_hw": (32, 64)}).crop_hw == (32, 64)
    assert TSERNET_PAPER.changed({"input_hw": (128, 128), "crop_hw": (64, 64)}).crop_hw == (64, 64)
    assert CSEPNET_PAPER.changed({"input_hw": (128, 128)}).crop_hw is None


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("momentum=0.95", {"momentum": 0.95}),
        ("weight_decay = 5e-4", {"weight_decay": 5e-4}),
        ("epochs=3", {"epochs": 3}),
        ("steps=none", {"steps": None}),
        ("crop_hw=224x192", {"crop_hw": (224, 192)}),
        ("crop_hw=none", {"crop_hw": None}),
        ("input_hw=64,96", {"input_hw": (64, 96)}),
        ("betas=0.5,0.99", {"betas": (0.5, 0.99)}),
        ("decay_all=false", {"decay_all": False}),
        ("optimiser=sgd", {"optimiser": "sgd"}),
        ("augmentation.flips=True", {"augmentation.flips": True}),
        ("augmentation.rotation=10", {"augmentation.rotation": 10.0}),
    ],
)
def test_settings_are_typed(setting: str, wanted: dict[str, Any]) -> None:
    parsed = parse_settings([setting])
    assert parsed == wanted
    for name, value in parsed.items():
        assert type(value) is type(wanted[name])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (["momentum"], "--set takes FIELD=VALUE, e.g. weight_decay=0.0005; got 'momentum'"),
        (["nesterov=true"], "unknown recipe field nesterov; known: learning_rate, .*augmentation.salt_pepper"),
        (["augmentation=none"], "unknown recipe field augmentation;"),
        (["ema=0.9", "ema=0.99"], "--set gives ema twice"),
        (["ema=high"], "ema takes a number; got 'high'"),
        (["epochs=1.5"], "epochs takes a whole number; got '1.5'"),
        (["decay_all=1"], "decay_all takes true or false; got '1'"),
        (["crop_hw=224"], "crop_hw takes HEIGHTxWIDTH; got '224'"),
        (["betas=0.9"], "betas takes two numbers, e.g. 0.9,0.999; got '0.9'"),
        (["learning_rate=none"], "learning_rate takes a number; got 'none'"),
    ],
)
def test_wrong_settings_are_explained(settings: list[str], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        parse_settings(settings)


def test_every_field_can_be_set() -> None:
    value = QUICK.to_dict()
    inner = value.pop("augmentation")
    assert set(recipe_fields()) == set(value) | {f"augmentation.{name}" for name in inner}


def test_the_papers_are_followed() -> None:
    """What the three papers print, beside what is registered."""
    tsernet, csepnet, minet = (model_spec(name).paper for name in ("tsernet", "csepnet", "minet"))
    assert tsernet is not None
    assert (tsernet.optimiser, tsernet.learning_rate, tsernet.betas, tsernet.eps) == ("adam", 1e-3, (0.9, 0.999), 1e-8)
    assert (tsernet.weight_decay, tsernet.batch_size, tsernet.steps, tsernet.epochs) == (0, 4, 26000, None)
    assert (tsernet.input_hw, tsernet.train_hw) == ((256, 256), (224, 224))
    assert tsernet.augmentation.salt_pepper > 0
    assert csepnet is not None
    assert (csepnet.optimiser, csepnet.learning_rate, csepnet.momentum) == ("sgd", 1e-3, 0.9)
    assert (csepnet.weight_decay, csepnet.decay_all) == (5e-4, False)
    assert (csepnet.schedule, csepnet.power, csepnet.epochs, csepnet.batch_size) == ("poly", 0.9, 100, 4)
    assert csepnet.input_hw == csepnet.train_hw == (256, 256)
    light = csepnet.augmentation
    assert (light.mirror, light.flips, light.rotation) == (True, False, 10)
    assert (light.gain, light.contrast, light.saturation) == (0.1, 0.1, 0.1)
    assert light.salt_pepper > 0
    assert minet is not None
    assert (minet.optimiser, minet.learning_rate, minet.batch_size, minet.epochs) == ("adam", 4e-3, 32, 1803)
    assert (minet.input_hw, minet.train_hw) == ((368, 368), (336, 336))


@pytest.mark.parametrize("model", model_names())
def test_the_papers_recipe_is_the_default_of_every_model(model: str) -> None:
    spec = model_spec(model)
    assert choose_recipe(None, spec.paper, spec.learning_rate, spec.input_hw) == spec.paper
    quick = choose_recipe("quick", spec.paper, spec.learning_rate, spec.input_hw)
    assert (quick.learning_rate, quick.input_hw) == (spec.learning_rate, spec.input_hw)
    assert quick.early_hw == tuple(side * 5 // 8 for side in spec.input_hw)  # 160 of 256


def test_a_recipe_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="unknown recipe 'fast'; known: paper, quick"):
        choose_recipe("fast", MINET_PAPER, 0.1, (64, 64))


def test_a_recipe_may_begin_at_a_smaller_size() -> None:
    recipe = Recipe(learning_rate=0.1, input_hw=(256, 256), crop_hw=(224, 224), early_hw=(192, 192), early=0.5)
    assert recipe.view_at(0.0) == recipe.view_at(0.499) == View((192, 192), None, recipe.augmentation, 0.0)
    assert recipe.view_at(0.5) == recipe.view_at(1.0) == View((256, 256), (224, 224), recipe.augmentation, 0.0)
    assert recipe.changed({"input_hw": (128, 128)}).early_hw == (96, 96)
    for alone in ({"early": 0.5}, {"early_hw": (64, 64)}):
        with pytest.raises(InputError, match="go together"):
            Recipe(learning_rate=0.1, input_hw=(256, 256), **alone)
    with pytest.raises(InputError, match="early size must be a multiple of 16"):
        Recipe(learning_rate=0.1, input_hw=(256, 256), early_hw=(50, 50), early=0.5)


def test_a_recipe_may_end_on_whole_pictures() -> None:
    recipe = Recipe(
        learning_rate=0.1,
        input_hw=(64, 64),
        crop_hw=(48, 48),
        early_hw=(32, 32),
        early=0.5,
        whole=0.25,
        paste=0.3,
        augmentation=Augmentation(min_crop=0.6, rotation=10.0, gain=0.3),
    )
    still = replace(recipe.augmentation, min_crop=1.0, rotation=0.0)
    assert recipe.view_at(0.749) == View((64, 64), (48, 48), recipe.augmentation, 0.3)
    assert recipe.view_at(0.75) == recipe.view_at(1.0) == View((64, 64), None, still, 0.0)
    assert replace(recipe, early=0.0, early_hw=None, whole=1.0).view_at(0.0).augmentation == still
    with pytest.raises(InputError, match=r"what early leaves of it; got 0\.6"):
        replace(recipe, whole=0.6)


@pytest.mark.parametrize("side", [32, 48, 64, 368])
def test_the_quick_recipe_fits_every_size(side: int) -> None:
    quick = choose_recipe("quick", MINET_PAPER, 0.1, (side, side))
    assert quick.view_at(0.0).size_hw[0] <= side
    assert quick.view_at(0.8).size_hw == quick.view_at(1.0).size_hw == (side, side)
    assert quick.changed({"input_hw": (32, 32)}).view_at(0.0).size_hw == (32, 32)
