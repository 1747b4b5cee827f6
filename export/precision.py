"""A float32 model becomes one of the wanted precision, with what half cannot hold left in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from sdi.calibration.ranges import measure_ranges
from sdi.export.half import HALF_MAX, half_model, out_of_half_range
from sdi.export.int8 import Int8Options, Quantisation, Track, int8_model
from sdi.export.onnx_model import float32_nodes
from sdi.export.runners import InputSpec

__all__ = ["Converted", "Precision", "converted_model", "out_of_range"]

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Converted:
    """A model in its wanted precision."""

    model: onnx.ModelProto
    float32: tuple[str, ...] = ()  # nodes that compute in float32 where the rest does not
    notes: tuple[str, ...] = ()  # what its user should know
    quantisation: Quantisation | None = None


def converted_model(
    model: onnx.ModelProto,
    precision: Precision,
    spec: InputSpec,
    images: Iterable[tuple[str, np.ndarray]],
    *,
    int8: Int8Options | None = None,
    name: str,
    preprocessing: dict[str, Any],
    weights: str | None,
    say: Callable[[str], None] = lambda text: None,
    track: Track = lambda items, what: items,
) -> Converted:
    """Turn a float32 model into `precision`; `model` is left as it was.

    Args:
        images: named pictures, (H, W, 3) uint8 BGR, that the ranges for half are measured on.
        int8: how to quantise; needed for "int8".
        name, preprocessing, weights: see `int8_model`.
        say: hears which layers stay in float32 or in high precision, and why.
    Raises:
        InputError: a value is no number in float32 either; see also `int8_model`.
        GateError: INT8 loses more than it may.
    """
    if precision == "fp32":
        return Converted(model)
    half = precision == "fp16" or (int8 is not None and int8.rest == "fp16")
    wide = out_of_range(model, spec, images) if half else {}
    notes = _tell(wide, say)
    if precision == "fp16":
        made = half_model(model, wide)
        return Converted(made, float32_nodes(made), notes)
    assert int8 is not None
    made, quantisation = int8_model(
        model,
        int8,
        name=name,
        preprocessing=preprocessing,
        weights=weights,
        spec=spec,
        float32=wide,
        say=say,
        track=track,
    )
    return Converted(made, float32_nodes(made) if half else (), notes, quantisation)


def out_of_range(model: onnx.ModelProto, spec: InputSpec, images: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """Nodes that half cannot compute on these pictures, in the graph's order, each with the reason.

    Measured in float32: ONNX Runtime computes half in float32 on a CPU, so overflow never shows in its answers.
    """
    peaks = measure_ranges(model, (spec.tensor(spec.frame(image)[None]) for _, image in images))
    return {
        node: f"values up to {peak:.3g}, half ends at {HALF_MAX:.0f}" for node, peak in out_of_half_range(model, peaks)
    }


def _tell(wide: dict[str, str], say: Callable[[str], None]) -> tuple[str, ...]:
    if not wide:
        return ()
    first = next(iter(wide))
    text = f"out of half's range, first at {first} ({wide[first]}): {len(wide)} nodes stay in float32"
    say(f"{text}: {', '.join(wide)}")
    return (text,)
