"""A float32 model becomes one of the wanted precision, with what half cannot hold left in float32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from sdi.calibration.ranges import measure_ranges
from sdi.export.half import HALF_MAX, half_model, out_of_half_range
from sdi.export.int8 import Int8Options, Quantisation, int8_model
from sdi.export.onnx_model import float32_nodes
from sdi.export.traced_model import TracedModel
from sdi.runtime.common.progress import SILENT, Progress

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
    traced: TracedModel,
    precision: Precision,
    images: Iterable[tuple[str, np.ndarray]],
    int8: Int8Options | None = None,
    progress: Progress = SILENT,
) -> Converted:
    """Turn a float32 model into `precision`.

    Logs which layers stay in float32 or in high precision, and why.

    Args:
        images: named pictures, (H, W, 3) uint8 BGR, that the ranges for half are measured on.
        int8: how to quantise; needed for "int8".
    Raises:
        InputError: a value is not finite in float32 either; see also `int8_model`.
        GateError: INT8 loses more than it may.
    """
    if precision == "fp32":
        return Converted(traced.model)
    half = precision == "fp16" or (int8 is not None and int8.rest == "fp16")
    wide = out_of_range(traced, images) if half else {}
    notes = _range_notes(wide)
    if notes:
        progress.log(f"{notes[0]}: {', '.join(wide)}")
    if precision == "fp16":
        made = half_model(traced.model, wide)
        return Converted(made, float32_nodes(made), notes)
    assert int8 is not None
    made, quantisation = int8_model(traced, int8, wide, progress)
    return Converted(made, float32_nodes(made) if half else (), notes, quantisation)


def out_of_range(traced: TracedModel, images: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """Nodes that half cannot compute on these pictures, in the graph's order, each with the reason.

    Measured in float32: ONNX Runtime computes half in float32 on a CPU, so overflow never shows in its answers.
    """
    spec = traced.spec
    peaks = measure_ranges(traced.model, (spec.tensor(spec.frame(image)[None]) for _, image in images))
    return {
        node: f"values up to {peak:.3g}, half ends at {HALF_MAX:.0f}"
        for node, peak in out_of_half_range(traced.model, peaks)
    }


def _range_notes(wide: dict[str, str]) -> tuple[str, ...]:
    """What the user of a file should know of the nodes that half cannot compute."""
    if not wide:
        return ()
    first = next(iter(wide))
    return (f"out of half's range, first at {first} ({wide[first]}): {len(wide)} nodes stay in float32",)
