"""How a network is trained: every number that decides the result, in one frozen value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sdi.runtime.common.errors import InputError
from sdi.train.augment import Augmentation

__all__ = ["Recipe", "View", "parse_settings", "recipe_fields"]

_POSITIVE = ("learning_rate", "batch_size", "accumulate", "evaluate_every", "epochs", "steps", "eps", "power")
_SHARES = ("warmup", "ema", "momentum", "early", "floor", "paste", "clean", "wide")  # 0 included, 1 not


@dataclass(frozen=True)
class View:
    """How a network sees its pictures at some step."""

    size_hw: tuple[int, int]  # what they are resized to
    crop_hw: tuple[int, int] | None  # the window taken from that
    augmentation: Augmentation
    paste: float  # share that gets a window of another one


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule, length, sizes and augmentation.

    The length is given in epochs or in steps, one of them. All sizes are (height, width).
    """

    learning_rate: float  # peak value, reached after the warm-up
    input_hw: tuple[int, int]  # pictures are resized to it; the network validates and is exported at it
    crop_hw: tuple[int, int] | None = None  # trained on random windows of this size in the resized picture
    early_hw: tuple[int, int] | None = None  # trained on pictures of this size first, which costs less
    early: float = 0.0  # share of the steps that is
    whole: float = 0.0  # share of the steps, the last, on whole pictures as they lie: no crop, no rotation, no paste
    epochs: int | None = 60  # passes over the training pictures
    steps: int | None = None  # of the optimiser
    batch_size: int = 8  # pictures a step, over all devices
    accumulate: int = 1  # parts that a device computes its share of a batch in, to save memory
    precision: Literal["32", "16-mixed", "bf16-mixed"] = "32"

    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    decay_all: bool = True  # False spares biases and batch norm
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's
    eps: float = 1e-8  # Adam's
    momentum: float = 0.9  # SGD's
    backbone_lr: float = 1.0  # factor on the learning rate of the network's encoder
    ema: float = 0.0  # decay of the averaged weights, which are then validated and kept; 0 is off

    schedule: Literal["cosine", "poly", "constant"] = "cosine"  # after the warm-up
    warmup: float = 0.05  # share of all steps, linear
    power: float = 0.9  # poly's
    floor: float = 0.0  # share of the learning rate that the cosine ends at; some, for averaged weights to differ

    seed: int = 0
    validation: str = "0.1"  # what chooses best.pt: a share of the training pictures, "test" or "none"
    evaluate_every: int = 5  # epochs
    augmentation: Augmentation = field(default_factory=Augmentation)
    paste: float = 0.0  # share of the pictures that get a window of another one, with its mask (CutMix)
    clean: float = 0.0  # share of the pictures that are defect-free: background of the others, and synthetic strip
    wide: float = 0.0  # share of the pictures that are windows of wide strip, made of the training pictures
    distil: float = 0.5  # weight of the teachers' mean map in the truth, where there are teachers
    iou: float = 0.0  # weight of each saliency map's soft IoU, added to the network's own loss

    def __post_init__(self) -> None:
        _check_choices(self)
        wrong = [name for name in _POSITIVE if (value := getattr(self, name)) is not None and not value > 0]
        if wrong:
            raise InputError(f"{', '.join(wrong)} must be greater than 0")
        if (self.epochs is None) == (self.steps is None):
            raise InputError(f"give the length in epochs or in steps, one of them; got {self.epochs} and {self.steps}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        if not 0 < self.distil <= 1:
            raise InputError(f"distil must be greater than 0 and at most 1, got {self.distil}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas must be at least 0 and less than 1, got {self.betas[0]}, {self.betas[1]}")
        for name in ("weight_decay", "backbone_lr", "seed", "iou"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        if (self.early_hw is None) != (self.early == 0):
            raise InputError("early_hw and early, the share of the steps at that size, go together; give both")
        if not 0 <= self.whole <= 1 - self.early:
            raise InputError(f"whole must be between 0 and 1, or what early leaves of it; got {self.whole}")
        for name, size in (("input", self.input_hw), ("crop", self.train_hw), ("early", self.early_hw or (32, 32))):
            if min(size) < 32 or any(side % 16 for side in size):
                raise InputError(
                    f"the {name} size must be a multiple of 16, and 32 at the least; got {size[0]}x{size[1]}"
                )
        if any(crop > side for crop, side in zip(self.train_hw, self.input_hw, strict=True)):
            raise InputError(
                f"the crop {self.train_hw[0]}x{self.train_hw[1]} does not fit into the input "
                f"{self.input_hw[0]}x{self.input_hw[1]}"
            )
        if self.validation not in ("test", "none"):
            try:
                share = float(self.validation)
            except ValueError:
                share = 0.0
            if not 0 < share < 1:
                raise InputError(f"--val takes a share between 0 and 1, 'test' or 'none'; got '{self.validation}'")

    @property
    def train_hw(self) -> tuple[int, int]:
        """Size of what the network sees in training, after the early steps."""
        return self.crop_hw or self.input_hw

    def view_at(self, progress: float) -> View:
        """How pictures are shown when this share of the steps is done."""
        if self.whole and progress >= 1 - self.whole:
            return View(self.input_hw, None, replace(self.augmentation, min_crop=1.0, rotation=0.0), 0.0)
        early = self.early_hw is not None and progress < self.early
        size_hw, crop_hw = (self.early_hw or self.input_hw, None) if early else (self.input_hw, self.crop_hw)
        return View(size_hw, crop_hw, self.augmentation, self.paste)

    def changed(self, settings: Mapping[str, Any]) -> Recipe:
        """This recipe with other values, each named as `recipe_fields` names it.

        Steps replace epochs and the other way round; a new input size scales the crop and the early
        size with it.

        Raises:
            InputError: an unknown name, or a value out of its range.
        """
        _refuse_unknown(settings, recipe_fields(), "recipe field")
        own = {name: value for name, value in settings.items() if "." not in name}
        inner = {name.partition(".")[2]: value for name, value in settings.items() if "." in name}
        if "steps" in own or "epochs" in own:
            own = {"steps": None, "epochs": None, **own}
        for name, size in (("crop_hw", self.crop_hw), ("early_hw", self.early_hw)):
            if "input_hw" in own and size is not None and name not in own:
                own[name] = tuple(
                    max(32, round(side * new / old / 16) * 16)
                    for side, old, new in zip(size, self.input_hw, own["input_hw"], strict=True)
                )
        return replace(self, **own, augmentation=replace(self.augmentation, **inner))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`; fields that an older sdi did not have get the defaults, which do what it did.

        Raises:
            InputError: a field that does not exist, a missing or a wrong value.
        """
        augmentation = value.get("augmentation", {})
        _refuse_unknown(value, [f.name for f in fields(Recipe)], "recipe field")
        _refuse_unknown(augmentation, [f.name for f in fields(Augmentation)], "augmentation field")
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        try:
            return Recipe(**{**plain, "augmentation": Augmentation(**augmentation)})
        except TypeError as error:
            raise InputError(f"the checkpoint's recipe cannot be read: {error}") from error


def recipe_fields() -> list[str]:
    """Names of all settings: the recipe's fields in their order, those of the augmentation as `augmentation.NAME`."""
    return list(_field_types())


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Typed values from texts such as `momentum=0.95`, `crop_hw=224x224`, `betas=0.9,0.99`, `steps=none`.

    Raises:
        InputError: no `NAME=VALUE`, an unknown or repeated name, or a value of the wrong type; the text says which.
    """
    types = _field_types()
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise InputError(f"--set takes FIELD=VALUE, e.g. weight_decay=0.0005; got '{setting}'")
        _refuse_unknown([name], list(types), "recipe field")
        if name in values:
            raise InputError(f"--set gives {name} twice")
        values[name] = _parsed(name, text, types[name])
    return values


def _field_types() -> dict[str, Any]:
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(Recipe).items():
        if is_dataclass(kind):
            types |= {f"{name}.{inner}": k for inner, k in get_type_hints(kind).items()}
        else:
            types[name] = kind
    return types


def _parsed(name: str, text: str, kind: Any) -> Any:
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in options and text.lower() == "none":
        return None
    kind = next(option for option in options if option is not NoneType)
    if get_origin(kind) is Literal:
        return text  # the recipe itself checks it
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if get_origin(kind) is tuple:
            kinds = get_args(kind)
            parts = text.replace("x", ",").split(",")
            return tuple(one(part) for one, part in zip(kinds, parts, strict=True))
        return kind(text)
    except (KeyError, ValueError):
        raise InputError(f"{name} takes {_described(kind)}; got '{text}'") from None


def _described(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "HEIGHTxWIDTH" if get_args(kind)[0] is int else "two numbers, e.g. 0.9,0.999"
    return {bool: "true or false", int: "a whole number", float: "a number"}[kind]


def _check_choices(recipe: Recipe) -> None:
    for name, kind in get_type_hints(Recipe).items():
        if get_origin(kind) is Literal and getattr(recipe, name) not in get_args(kind):
            raise InputError(f"{name} is one of {', '.join(get_args(kind))}; got '{getattr(recipe, name)}'")


def _refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise InputError(f"unknown {what} {', '.join(unknown)}; known: {', '.join(known)}")
