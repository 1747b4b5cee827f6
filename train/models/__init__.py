"""The networks, by name.

`build_model(name)` answers a fresh network; `model_spec(name)` says what belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from sdi.runtime.common.errors import InputError
from sdi.train.losses import MapsLoss, csepnet_loss, minet_loss, tsernet_lite_loss, tsernet_loss
from sdi.train.models.ablations import CSEPNET_ABLATIONS, TSERNET_ABLATIONS
from sdi.train.models.blocks import SaliencyNetwork
from sdi.train.models.csepnet import CSEPNet
from sdi.train.models.minet import MINet
from sdi.train.models.tsernet import TSERNet
from sdi.train.models.tsernet_lite import TSERNetLite
from sdi.train.paper_recipes import CSEPNET_PAPER, MINET_PAPER, TSERNET_LITE, TSERNET_PAPER
from sdi.train.preprocess import GRAY_STEEL, HALF, IMAGENET, Preprocessing
from sdi.train.recipe import Recipe

__all__ = [
    "ModelSpec",
    "SaliencyNetwork",
    "build_model",
    "known_models",
    "model_names",
    "model_spec",
    "register_model",
    "registered",
]


@dataclass(frozen=True)
class ModelSpec:
    """A named variant of a network and what training and export need to know of it."""

    name: str  # what `--model` takes
    family: str  # the network it is a variant of
    build: Callable[..., SaliencyNetwork]  # randomly initialised; takes `width`, a factor on its channel counts
    loss: MapsLoss
    preprocessing: Preprocessing
    input_hw: tuple[int, int]  # default height and width of the network's input
    learning_rate: float  # peak of the quick recipe
    paper: Recipe  # how the network's authors train it
    trains_on_cpu: bool = False  # that recipe is meant for one
    channels_last_on_cpu: bool = False  # found sound and faster there, see Trainer
    backbone: str = ""  # with ImageNet weights, as `load_pretrained` names it; empty where there is none
    ablation: str = ""  # what this variant leaves out of its paper's network; empty where it is none


_MODELS: dict[str, ModelSpec] = {}


def register_model(spec: ModelSpec) -> None:
    """Add a named network. Raises ValueError when the name is taken."""
    if spec.name in _MODELS:
        raise ValueError(f"model '{spec.name}' is already registered")
    _MODELS[spec.name] = spec


@contextmanager
def registered(spec: ModelSpec) -> Iterator[None]:
    """Register a network for a while; the one that is registered under its name, if any, steps aside."""
    before = _MODELS.get(spec.name)
    _MODELS[spec.name] = spec
    try:
        yield
    finally:
        del _MODELS[spec.name]
        if before is not None:
            _MODELS[spec.name] = before


def model_names() -> list[str]:
    """All registered names, in alphabetical order."""
    return sorted(_MODELS)


def known_models() -> str:
    """All registered names for an error or a help text: networks first, then ablations grouped by network.

    `a, b; ablations: a-(x|y), b-(z)`
    """
    networks = [name for name in model_names() if not _MODELS[name].ablation]
    groups: dict[str, list[str]] = {}
    for name in model_names():
        spec = _MODELS[name]
        if spec.ablation:
            groups.setdefault(spec.family, []).append(name.removeprefix(f"{spec.family}-"))
    ablations = (f"{family}-({'|'.join(names)})" for family, names in groups.items())
    return f"{', '.join(networks)}; ablations: {', '.join(ablations)}"


def model_spec(name: str) -> ModelSpec:
    """What is registered under `name`.

    Raises:
        InputError: unknown name; the text lists the known ones.
    """
    if name not in _MODELS:
        raise InputError(f"unknown model '{name}'; known: {known_models()}")
    return _MODELS[name]


def build_model(name: str) -> SaliencyNetwork:
    """A fresh, randomly initialised network in training mode.

    Raises:
        InputError: unknown name; the text lists the known ones.
    """
    return model_spec(name).build()


_TSERNET = ModelSpec(
    name="tsernet",
    family="tsernet",
    build=TSERNet,
    loss=tsernet_loss,
    preprocessing=IMAGENET,
    input_hw=(256, 256),
    learning_rate=1e-3,
    paper=TSERNET_PAPER,
    backbone="resnet34",
)
_CSEPNET = ModelSpec(
    name="csepnet",
    family="csepnet",
    build=CSEPNet,
    loss=csepnet_loss,
    preprocessing=IMAGENET,
    input_hw=(256, 256),
    learning_rate=1e-3,
    paper=CSEPNET_PAPER,
    backbone="vgg16_bn",
)
_MINET = ModelSpec(
    name="minet",
    family="minet",
    build=MINet,
    loss=minet_loss,
    preprocessing=GRAY_STEEL,
    input_hw=(256, 256),
    learning_rate=4e-3,
    paper=MINET_PAPER,
    channels_last_on_cpu=True,
)
_TSERNET_LITE = ModelSpec(
    name="tsernet-lite",
    family="tsernet-lite",
    build=TSERNetLite,
    loss=tsernet_lite_loss,
    preprocessing=HALF,
    input_hw=(256, 256),
    learning_rate=3e-3,
    paper=TSERNET_LITE,
    trains_on_cpu=True,
    channels_last_on_cpu=True,
    backbone="efficientnet_lite0",
)
for _spec in (
    _TSERNET_LITE,
    _TSERNET,
    replace(_TSERNET, name="tsernet-s", build=partial(TSERNet, width=1 / 4), backbone=""),
    replace(_TSERNET, name="tsernet-xs", build=partial(TSERNet, width=1 / 8), backbone=""),
    _CSEPNET,
    replace(_CSEPNET, name="csepnet-resnet50", build=partial(CSEPNet, "resnet50"), backbone="resnet50"),
    _MINET,
):
    register_model(_spec)
for _spec, _ablations in ((_TSERNET, TSERNET_ABLATIONS), (_CSEPNET, CSEPNET_ABLATIONS)):
    for _end, (_left_out, _arguments) in _ablations.items():
        _build = partial(_spec.build, **_arguments)
        register_model(replace(_spec, name=f"{_spec.name}-{_end}", build=_build, ablation=_left_out))
