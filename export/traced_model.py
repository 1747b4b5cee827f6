"""A network as float32 ONNX, before it becomes half or INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from sdi.export.runners import InputSpec

__all__ = ["TracedModel"]


@dataclass(frozen=True)
class TracedModel:
    """The model, and what the ranges of its tensors depend on besides the pictures.

    Attributes:
        model: float32, with uint8 frames and maps, and types in its value_info; whoever takes it leaves it as it is.
        name: of the network.
        preprocessing: as `Preprocessing.to_dict` gives it.
        weights: SHA-256 of the checkpoint; None: random weights.
        spec: how the model takes frames.
    """

    model: onnx.ModelProto
    name: str
    preprocessing: Mapping[str, Any]
    weights: str | None
    spec: InputSpec
