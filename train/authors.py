"""The authors' published checkpoints, by our names.

Each network has a table from our module names to those in the published program's state dict; what follows a
module's name is equal on both sides. `*` stands for one published module a channel, where ours is one in all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.files import sha256_of
from sdi.train.checkpoint import Checkpoint, read_torch_file
from sdi.train.models import build_model, model_spec
from sdi.train.preprocess import GRAY_STEEL, IMAGENET, Preprocessing

__all__ = ["checkpoint_from_authors", "published_models", "read_state_dict", "weights_from_authors"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys that training programs put a state dict under


@dataclass(frozen=True)
class _Published:
    """What the authors of one network published."""

    modules: dict[str, str]  # our module (or weight) -> theirs
    dead: str  # regular expression of keys that no computation uses
    preprocessing: Preprocessing
    input_hw: tuple[int, int]  # size that their test programs resize to


def _tsernet_modules() -> dict[str, str]:
    table = {
        "stem.0": "inconv",
        "stem.1": "inbn",
        "edge.reduce.3": "getHigherSideInfo.0",
        "edge.merge.0": "MSF.convert",
        "edge.merge.1": "MSF.bn",
        "edge.score": "MSF.score",
        "edge.adjust": "adjust",
        "edge.head": "Enout_edge",
        "bridge_head": "outconvb",
        "subnet.stem": "subnet.conv0",
        "subnet.residual": "subnet.conv_d0",
    }
    for j, which in enumerate("1m2"):  # theirs for the first, middle and last of three convolutions
        table |= {f"bridge.{j}.0": f"convbg_{which}", f"bridge.{j}.1": f"bnbg_{which}"}
        table[f"edge.reduce.{j}"] = f"Resume6_{j + 1}"
    for j in range(4):
        table[f"edge.branches.{j}"] = f"MSF.branch{j + 1}"
        ours, theirs = f"subnet.decoder.{j}", f"subnet.Decoder{j + 1}"
        table |= {
            f"{ours}.adapt_edge": f"{theirs}.adaptEdge",
            f"{ours}.fuse_edge": f"{theirs}.getFinalEdge",
            f"{ours}.fuse": f"{theirs}.getFinalInfo",
            f"subnet.heads.{j}": f"subnet.d{j + 1}conv",
        }
    for j in range(5):
        table |= {
            f"subnet.encoder.{j}.0": f"subnet.conv{j + 1}",
            f"subnet.encoder.{j}.1": f"subnet.bn{j + 1}",
        }
    for i in range(6):
        level = i + 1
        if level <= 4:
            table[f"encoder.{i}"] = f"encoder{level}"
        else:
            table |= {f"encoder.{i}.{block}": f"resb{level}_{block + 1}" for block in range(3)}
        for half in range(2):
            for k in (0, 2):
                table[f"rcu.{i}.body.{3 * half + k}"] = f"RCU{level}.Conv{half + 1}.{k}"
        ours, theirs = f"efbi.{i}", f"EFBI{level}"
        table |= {
            f"{ours}.background_in.0": f"{theirs}.convert",
            f"{ours}.background_in.1": f"{theirs}.bn",
            f"{ours}.foreground_in": f"{theirs}.convs3",
        }
        for part, chain in (("background", "convs"), ("foreground", "convs4"), ("integrate", "convs5")):
            for j in range(3):  # they hold conv, BN, ReLU three times in one flat sequence
                table |= {f"{ours}.{part}.{j}.{k}": f"{theirs}.{chain}.{3 * j + k}" for k in range(2)}
        for j, which in enumerate("1m2"):
            table |= {
                f"decoder.{i}.{j}.0": f"conv{level}d_{which}",
                f"decoder.{i}.{j}.1": f"bn{level}d_{which}",
            }
        table[f"heads.{i}"] = f"outconv{level}"
    return table


def _minet_modules() -> dict[str, str]:
    table = {"encoder.0": "encoder1.conv"}
    for i, interactive in enumerate((0, 3, 4, 6, 3)):
        level = i + 1
        table |= {f"encoder.{i}.0.{j}": f"encoder{level}.0.conv.{j}.conv" for j in range(2) if i > 0}
        for n in range(1, interactive + 1):
            ours, theirs = f"encoder.{i}.{n}", f"encoder{level}.{n}"
            table |= {f"{ours}.scales.{k}": f"{theirs}.Dconv.{k}.conv" for k in range(4)}
            table |= {
                f"{ours}.mix.weight": f"{theirs}.Pconv.*.conv.0.weight",
                f"{ours}.mix.bn": f"{theirs}.Pconv.*.conv.1",
                f"{ours}.fuse": f"{theirs}.Pfusion.conv",
            }
        for block in range(2):
            table |= {f"decoder.{i}.{block}.{j}": f"decoder{level}.{block}.conv.{j}.conv" for j in range(2)}
        table[f"heads.{i}.1"] = f"conv_out{level}.conv.1"
    return table


def _csepnet_modules(encoder: list[str]) -> dict[str, str]:
    """The names of the five levels differ with the backbone, all others do not."""
    table = {f"encoder.{i}": theirs for i, theirs in enumerate(encoder)}
    table |= {"head.0": "classifier", "head.1": "decoder.S1"}
    for i in range(5):
        level, scale = i + 1, 2**i
        table |= {
            f"attention.{i}.channels.reduce": f"Gate{level}.ca.fc1",
            f"attention.{i}.channels.expand": f"Gate{level}.ca.fc2",
            f"attention.{i}.places.conv": f"Gate{level}.sa.conv1",
            f"adapt.{i}": f"con_AIM{level}",
        }
        table |= _conv_and_norm(f"narrow.{i}", f"upconv{scale}")
        ours, theirs = f"purify.{i}", f"sim{scale}"
        parts = (
            ("high_in", "h2h_0", "bnh_0", "contrast3", "h2h_1"),
            ("low_in", "h2l_0", "bnl_0", "contrast1", "l2l_1"),
            ("high_out", "h1h_1", "bnh_1", "contrast4", "h2h_2"),
            ("low_out", "l2l_0", "bnl_1", "contrast2", "l2l_2"),
        )
        for part, before, norm, contrast, after in parts:
            table |= {
                f"{ours}.{part}.0": f"{theirs}.{before}",
                f"{ours}.{part}.1": f"{theirs}.{norm}",
                f"{ours}.{part}.3.weigh.0": f"{theirs}.{contrast}.conv_1",
                f"{ours}.{part}.3.weigh.1": f"{theirs}.{contrast}.bn1",
                f"{ours}.{part}.4": f"{theirs}.{after}",
            }
        table |= {
            f"{ours}.low_to_high": f"{theirs}.l2h_1",
            f"{ours}.high_to_low": f"{theirs}.h2l_1",
            f"{ours}.out": f"{theirs}.conv_out",
        }
        table |= _cross_scale_modules(f"{ours}.choose", f"{theirs}.csweight")
        if level < 5:
            table |= _cross_scale_modules(f"combine.{i}", f"CSC{2 * scale}")
        if level > 1:
            ours, theirs = f"side_heads.{i - 1}", f"decoder.decoder{level}"
            for j in range(3):
                table |= _conv_and_norm(f"{ours}.{j}", f"{theirs}.{j}")
            table |= {
                f"{ours}.4": f"{theirs}.4.Deconv",
                f"{ours}.5": f"{theirs}.4.bn",
                f"{ours}.7": f"decoder.S{level}",
            }
    return table


def _cross_scale_modules(ours: str, theirs: str) -> dict[str, str]:
    return {
        **_conv_and_norm(f"{ours}.enlarge", f"{theirs}.conv1"),
        f"{ours}.attend_left.conv": f"{theirs}.sa1.conv1",
        f"{ours}.attend_right.conv": f"{theirs}.sa2.conv1",
        **_conv_and_norm(f"{ours}.merge", f"{theirs}.conv_cat"),
        f"{ours}.weigh": f"{theirs}.conv2",
        **_conv_and_norm(f"{ours}.fuse", f"{theirs}.fusion"),
    }


def _conv_and_norm(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.0": f"{theirs}.conv", f"{ours}.1": f"{theirs}.bn"}


_PUBLISHED = {
    "csepnet": _Published(
        modules=_csepnet_modules(["encoder1", "encoder2", "encoder4", "encoder8", "encoder16"]),
        dead=r"(?!)",  # none
        preprocessing=IMAGENET,
        input_hw=(256, 256),
    ),
    "csepnet-resnet50": _Published(
        modules=_csepnet_modules(["div_2", "div_4", "div_8", "div_16", "div_32"]),
        dead=r"(?!)",  # none
        preprocessing=IMAGENET,
        input_hw=(256, 256),
    ),
    "tsernet": _Published(
        modules=_tsernet_modules(),
        dead=r"EFBI[1-6]\.convs[12]\..*",
        preprocessing=replace(IMAGENET, divide_by_max=True),
        input_hw=(256, 256),
    ),
    "minet": _Published(
        modules=_minet_modules(),
        dead=r"(?!)",  # none
        preprocessing=replace(GRAY_STEEL, divide_by_max=True),
        input_hw=(368, 368),
    ),
}


def published_models() -> list[str]:
    """Registered models whose authors' checkpoints can be read."""
    return sorted(_PUBLISHED)


def checkpoint_from_authors(path: Path, model: str) -> Checkpoint:
    """Read a file that the authors of `model` published.

    Preprocessing and input size are those of their test program; TSERNet's and MINet's divide each picture by
    its own maximum.

    Raises:
        InputError: the file cannot be read safely, or is no checkpoint of this network.
    """
    published = _published(model)
    path = Path(path)
    return Checkpoint(
        model=model,
        input_hw=published.input_hw,
        preprocessing=published.preprocessing,
        weights=weights_from_authors(read_state_dict(path), model, path.name),
        native_hw=(200, 200),  # all were trained on SD-saliency-900
        training={"imported_from": path.name, "sha256": sha256_of(path)},
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a published file by name, without the `module.` that DataParallel puts before each.

    Raises:
        InputError: missing, not readable without running code, a checkpoint of ours, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist")
    value = read_torch_file(path)
    if isinstance(value, Mapping) and "format" in value:
        raise InputError(f"{path} is no published file but already a checkpoint of sdi; use it as it is")
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping) or not value or not all(isinstance(t, Tensor) for t in value.values()):
        raise InputError(f"{path} holds no state dict; expected names with tensors, as torch.save(net.state_dict())")
    prefix = "module." if all(str(key).startswith("module.") for key in value) else ""
    return {str(key).removeprefix(prefix): tensor for key, tensor in value.items()}


def weights_from_authors(published: Mapping[str, Tensor], model: str, source: str = "the file") -> dict[str, Tensor]:
    """Our state dict of `model` from the authors' one; new tensors where several theirs become one of ours.

    Args:
        source: what to call the file in an error.
    Raises:
        InputError: a key is missing, extra or misshapen; the text names it as the authors do.
    """
    spec = _published(model)
    weights: dict[str, Tensor] = {}
    used: set[str] = set()
    problems: list[str] = []
    with torch.device("meta"):  # names and shapes alone
        own = build_model(model).state_dict()
    for name in own:
        parts = []
        keys, shape = _published_keys(name, own, spec.modules)
        for key in keys:
            used.add(key)
            if key not in published:
                problems.append(f"missing {key}")
            elif published[key].shape != shape:
                problems.append(f"{key} is {_shape_text(published[key].shape)}, expected {_shape_text(shape)}")
            else:
                parts.append(published[key].to(own[name].dtype))
        if len(parts) == len(keys):
            weights[name] = (torch.cat(parts) if shape else parts[0]).reshape(own[name].shape)
    problems += [f"extra {key}" for key in published if key not in used and not re.fullmatch(spec.dead, key)]
    if problems:
        raise InputError(f"{source} is not the published checkpoint of {model}: {some_of(problems, '; ')}")
    return weights


def _published_keys(
    name: str, own: Mapping[str, Tensor], modules: Mapping[str, str]
) -> tuple[list[str], tuple[int, ...]]:
    """The authors' keys that make up our weight `name`, in order, and the shape that each of them has."""
    ours = name
    while ours not in modules:
        ours = ours.rpartition(".")[0]
    theirs = modules[ours] + name[len(ours) :]
    shape = tuple(own[name].shape)
    if "*" not in theirs:
        return [theirs], shape
    channels = len(own[ours if ours in own else f"{ours}.weight"])
    part = {0: (), 1: (1,), 2: (1, *shape[1:], 1, 1)}[len(shape)]  # a count, a batch norm, a 1x1 convolution
    return [theirs.replace("*", str(c)) for c in range(channels)], part


def _published(model: str) -> _Published:
    model_spec(model)  # an unknown name is its own error
    if model not in _PUBLISHED:
        raise InputError(f"nobody published a checkpoint of {model}; can be imported: {', '.join(published_models())}")
    return _PUBLISHED[model]


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
