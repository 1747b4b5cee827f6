"""Where the ranges of an INT8 model come from: measured on a calibration set, or trained with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdi.calibration.picture_set import CalibrationSet
from sdi.calibration.ranges import RangeMethod, RangeSource, cached_ranges, measure_ranges
from sdi.export.quantize import Layer, skip_inputs
from sdi.export.runners import InputSpec
from sdi.export.traced_model import TracedModel
from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.progress import SILENT, Progress
from sdi.train.checkpoint import Checkpoint
from sdi.train.qat import Int8Places

__all__ = ["Int8Ranges", "measured_ranges", "trained_places", "trained_ranges"]


@dataclass(frozen=True)
class Int8Ranges:
    """The limit of every tensor that is quantised."""

    limits: dict[str, float]
    method: str
    fingerprint: str  # over all that they come from


def measured_ranges(
    traced: TracedModel,
    layers: Sequence[Layer],
    method: RangeMethod,
    pictures: CalibrationSet,
    cache: Path,
    progress: Progress = SILENT,
) -> Int8Ranges:
    """Ranges on the calibration pictures, or those in the cache when they are of the very same."""
    if (pictures.preprocessing, pictures.weights) not in ((None, None), (traced.preprocessing, traced.weights)):
        progress.log("the calibration set is another network's, by weights or preprocessing; its pictures still serve")
    model = traced.model
    tensors = {layer.tensor for layer in layers} | {tensor for tensor, _ in skip_inputs(model).values()}
    graph = hashlib.sha256(model.SerializeToString(deterministic=True))
    graph.update("\0".join(sorted(tensors)).encode())
    source = RangeSource(
        pictures.picture_fingerprint,
        json.dumps(traced.preprocessing, sort_keys=True),
        traced.weights or "random",
        graph.hexdigest(),
        method,
    )
    frames = _Frames(pictures, traced.spec, progress)
    limits = cached_ranges(cache, source, lambda: measure_ranges(model, frames, method, tensors), progress)
    return Int8Ranges(limits, method, source.fingerprint)


def trained_places(checkpoint: Checkpoint) -> Int8Places | None:
    """What `sdi-train --qat` left in a checkpoint; None where the network was not trained for INT8.

    Raises:
        InputError: it is there and cannot be read.
    """
    value = checkpoint.training.get("qat")
    return None if value is None else Int8Places.from_dict(value)


def trained_ranges(traced: TracedModel, layers: Sequence[Layer], places: Int8Places) -> Int8Ranges:
    """The ranges that the network was trained with, by the tensors of its graph.

    Raises:
        InputError: it was trained with fake quantisation at other places than are quantised here.
    """
    names = {layer.node: layer.name for layer in layers}
    inputs = {layer.name: layer.tensor for layer in layers}
    skips = {names[node]: tensor for tensor, node in skip_inputs(traced.model).values() if node in names}
    limits: dict[str, float] = {}
    wrong: set[str] = set()
    for here, trained in ((inputs, places.inputs), (skips, places.skips)):
        wrong |= here.keys() ^ trained.keys()
        for layer in here.keys() & trained.keys():
            if limits.setdefault(here[layer], trained[layer]) != trained[layer]:
                wrong.add(layer)
    wrong -= inputs.keys() & set(places.kept)
    if wrong:
        raise InputError(
            f"the network was trained for INT8 at other places than are quantised here, at {some_of(sorted(wrong))}; "
            "train it again with this sdi: sdi-train --qat CHECKPOINT"
        )
    text = json.dumps([places.to_dict(), traced.weights], sort_keys=True)
    return Int8Ranges(limits, "trained", hashlib.sha256(text.encode()).hexdigest())


class _Frames:
    """The calibration pictures as input tensors, read anew each time they are gone through."""

    def __init__(self, pictures: CalibrationSet, spec: InputSpec, progress: Progress) -> None:
        self._pictures = pictures
        self._spec = spec
        self._progress = progress

    def __iter__(self) -> Iterator[np.ndarray]:
        for picture in self._progress.track(self._pictures.pictures, "measuring ranges"):
            yield self._spec.tensor(self._spec.frame(self._pictures.read(picture))[None])
