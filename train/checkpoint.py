"""Checkpoints: weights together with all that is needed to use them.

A checkpoint is a dict of plain values and tensors saved by `torch.save`, so `torch.load(weights_only=True)` reads
it and no code in it can run.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.files import atomic_path
from sdi.train.models import SaliencyNetwork, build_model, known_models, model_names, model_spec
from sdi.train.preprocess import Preprocessing

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "load_network",
    "read_torch_file",
    "save_checkpoint",
    "shipped_checkpoint",
    "versions",
]

_FORMAT = "sdi-checkpoint"
_FORMAT_VERSION = 1
_FIELDS = ("model", "input_hw", "preprocessing", "weights", "metrics", "versions", "training")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network at rest."""

    model: str  # the registered name, a variant such as "tsernet-xs"
    input_hw: tuple[int, int]  # size it was trained at
    preprocessing: Preprocessing
    weights: dict[str, Tensor]
    metrics: dict[str, float] = field(default_factory=dict)  # scores of these weights; empty if not evaluated
    versions: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)  # recipe, epoch, and in last.pt what resuming needs
    native_hw: tuple[int, int] | None = None  # of the pictures it was trained on, the median; None: unknown
    mm_per_pixel: float | None = None  # of those pictures; None: unknown

    @property
    def family(self) -> str:
        """The network that `model` is a variant of."""
        return model_spec(self.model).family


def versions() -> dict[str, str]:
    """What made a checkpoint."""
    from importlib.metadata import version

    return {"sdi": version("sdi"), "torch": str(torch.__version__), "python": platform.python_version()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    value = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "model": checkpoint.model,
        "family": checkpoint.family,
        "input_hw": list(checkpoint.input_hw),
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "weights": {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()},
        "metrics": checkpoint.metrics,
        "versions": checkpoint.versions or versions(),
        "training": checkpoint.training,
        "native_hw": None if checkpoint.native_hw is None else list(checkpoint.native_hw),
        "mm_per_pixel": checkpoint.mm_per_pixel,
    }
    with atomic_path(path) as beside:
        torch.save(value, beside)


def load_checkpoint(path: Path, model: str | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Args:
        model: refuse the checkpoint unless it holds this registered model.
    Raises:
        InputError: missing, no PyTorch file, not one of ours, of a newer format, or of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist; train one: sdi-train --model {model or 'minet'}")
    value = read_torch_file(path)
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise InputError(
            f"{path} is a PyTorch file but not a checkpoint of sdi; "
            f"if an author published it, convert it first: sdi-import --model {model or 'NAME'} {path} -o ours.pt"
        )
    if value.get("format_version") != _FORMAT_VERSION:
        raise InputError(
            f"{path} has checkpoint format {value.get('format_version')}, this sdi reads {_FORMAT_VERSION}; "
            f"update sdi (it was written by sdi {value.get('versions', {}).get('sdi', '?')})"
        )
    if missing := [name for name in _FIELDS if name not in value]:
        raise InputError(f"{path} is a damaged checkpoint: it lacks {', '.join(missing)}")
    if model is not None and value["model"] != model:
        raise InputError(f"{path} holds {value['model']}, not {model}; use --model {value['model']}")
    if value["model"] not in model_names():
        raise InputError(f"{path} holds '{value['model']}', which this sdi does not know: {known_models()}")
    native = value.get("native_hw")  # older checkpoints do not have it
    return Checkpoint(
        model=value["model"],
        input_hw=(value["input_hw"][0], value["input_hw"][1]),
        preprocessing=Preprocessing.from_dict(value["preprocessing"]),
        # Those that come with sdi are stored in half, to be small; all computation on them is in float32.
        weights={name: t.float() if t.dtype == torch.float16 else t for name, t in value["weights"].items()},
        metrics=value["metrics"],
        versions=value["versions"],
        training=value["training"],
        native_hw=None if native is None else (native[0], native[1]),
        mm_per_pixel=value.get("mm_per_pixel"),
    )


def load_network(checkpoint: Checkpoint) -> SaliencyNetwork:
    """The checkpoint's network in eval mode. It takes over the checkpoint's tensors: no second copy is made.

    Raises:
        InputError: a weight is missing, extra or misshapen; the text names them.
    """
    with torch.device("meta"):  # no memory, no random numbers: every tensor is replaced below
        network = build_model(checkpoint.model)
    own = network.state_dict()
    problems = [f"missing {name}" for name in own if name not in checkpoint.weights]
    for name, tensor in checkpoint.weights.items():
        if name not in own:
            problems.append(f"extra {name}")
        elif tensor.shape != own[name].shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
    if problems:
        raise InputError(f"the weights do not fit {checkpoint.model}: {some_of(problems, '; ')}")
    network.load_state_dict(checkpoint.weights, assign=True)
    return network.eval()


def shipped_checkpoint(model: str) -> Path | None:
    """The checkpoint that the package ships for `model`, if it ships one."""
    path = Path(__file__).parent / "weights" / f"{model}.pt"
    return path if path.is_file() else None


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote to `path`, on the CPU; plain values and tensors alone, so that no code in it runs.

    Raises:
        InputError: no PyTorch file, damaged, or one that holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds, from EOFError to UnpicklingError
        reason = str(error).split(". ")[0].splitlines() or [type(error).__name__]
        raise InputError(f"{path} is not a checkpoint that can be read safely: {reason[0]}") from error
