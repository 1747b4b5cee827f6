"""The networks, by name.

`build_model(name)` answers a fresh network; `model_spec(name)` says what belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sdi.runtime.errors import InputError
from sdi.train.losses import MapsLoss, csepnet_loss, minet_loss, tsernet_loss
from sdi.train.models.blocks import SaliencyNetwork
from sdi.train.models.csepnet import CSEPNet
from sdi.train.models.minet import MINet
from sdi.train.models.tsernet import TSERNet
from sdi.train.preprocess import GRAY_STEEL, IMAGENET, Preprocessing

__all__ = ["ModelSpec", "SaliencyNetwork", "build_model", "model_names", "model_spec", "register_model"]


@dataclass(frozen=True)
class ModelSpec:
    """A named variant of a network and what training and export need to know of it."""

    name: str  # what `--model` takes
    family: str  # the network it is a variant of
    build: Callable[[], SaliencyNetwork]  # randomly initialised
    loss: MapsLoss
    preprocessing: Preprocessing
    input_hw: tuple[int, int]  # default height and width of the network's input
    learning_rate: float
    channels_last_on_cpu: bool = False  # found sound and faster there, see Trainer
    backbone: str = ""  # torchvision's name of the backbone with ImageNet weights; empty where there is none


_MODELS: dict[str, ModelSpec] = {}


def register_model(spec: ModelSpec) -> None:
    """Add a named network. Raises ValueError when the name is taken."""
    if spec.name in _MODELS:
        raise ValueError(f"model '{spec.name}' is already registered")
    _MODELS[spec.name] = spec


def model_names() -> list[str]:
    """All registered names, in alphabetical order."""
    return sorted(_MODELS)


def model_spec(name: str) -> ModelSpec:
    """What is registered under `name`.

    Raises:
        InputError: unknown name; the text lists the known ones.
    """
    if name not in _MODELS:
        raise InputError(f"unknown model '{name}'; known: {', '.join(model_names())}")
    return _MODELS[name]


def build_model(name: str) -> SaliencyNetwork:
    """A fresh, randomly initialised network in training mode.

    Raises:
        InputError: unknown name; the text lists the known ones.
    """
    return model_spec(name).build()


for _name, _width in (("tsernet", 1.0), ("tsernet-s", 1 / 4), ("tsernet-xs", 1 / 8)):
    register_model(
        ModelSpec(
            name=_name,
            family="tsernet",
            build=partial(TSERNet, width=_width),
            loss=tsernet_loss,
            preprocessing=IMAGENET,
            input_hw=(256, 256),
            learning_rate=1e-3,
            backbone="resnet34" if _width == 1 else "",
        )
    )
for _name, _backbone in (("csepnet", "vgg16_bn"), ("csepnet-resnet50", "resnet50")):
    register_model(
        ModelSpec(
            name=_name,
            family="csepnet",
            build=partial(CSEPNet, _backbone),
            loss=csepnet_loss,
            preprocessing=IMAGENET,
            input_hw=(256, 256),
            learning_rate=1e-3,
            backbone=_backbone,
        )
    )
register_model(
    ModelSpec(
        name="minet",
        family="minet",
        build=MINet,
        loss=minet_loss,
        preprocessing=GRAY_STEEL,
        input_hw=(256, 256),
        learning_rate=4e-3,
        channels_last_on_cpu=True,
    )
)
