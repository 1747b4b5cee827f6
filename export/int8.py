"""A float32 model becomes an INT8 one, under the condition that accuracy holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from sdi.calibration.picture_set import CalibrationSet, read_calibration_set
from sdi.calibration.ranges import RangeMethod
from sdi.export.accuracy import DEFAULT_MAX_DROP, Validation, mean_difference, validation_pictures
from sdi.export.half import half_model
from sdi.export.int8_ranges import measured_ranges, trained_ranges
from sdi.export.quantize import Layer, quantizable_layers, quantized_model
from sdi.export.runners import InputSpec
from sdi.export.sensitivity import Kept, Sensitivity, TooLossy, least_kept
from sdi.export.traced_model import TracedModel
from sdi.runtime.common.errors import GateError, InputError
from sdi.runtime.common.progress import SILENT, Progress
from sdi.train.qat import Int8Places

__all__ = ["Int8Options", "Quantisation", "int8_model"]

_RANKED_ON = 4  # pictures
_UNMASKED = 32  # pictures, of those that calibrated, whose maps are compared where no others are given
_KEPT_AT_MOST = 0.5  # of the layers: with more in high precision INT8 gains too little


@dataclass(frozen=True)
class Int8Options:
    """How to quantise, and what it may cost."""

    calibration: Path | None  # a folder of sdi-calibrate; None where the network was trained for INT8
    rest: Literal["fp16", "fp32"] = "fp16"  # precision of what is not INT8
    ranges: RangeMethod = "mse"
    max_drop: float | None = None  # None: the default of what is measured
    validation: Path | None = None  # None: the calibration pictures, by their maps
    masks: Path | None = None
    skips: bool = True  # quantise the skip inputs of residual additions as well
    rank: bool = False  # rank the layers even when none has to be kept
    keep: tuple[str, ...] | None = None  # these stay in high precision, whatever it costs: nothing is measured
    trained: Int8Places | None = None  # what the network was trained for INT8 with: no range is measured

    def __post_init__(self) -> None:
        if (self.calibration is None) == (self.trained is None):
            raise InputError("INT8 takes its ranges from a calibration set or from training for INT8, one of them")
        if self.trained is not None and self.validation is None and (self.max_drop is not None or self.rank):
            raise InputError(
                "--max-drop and --rank-layers need pictures to measure on: give --validation DATA (the network was "
                "trained for INT8, so there are no calibration pictures)"
            )


@dataclass(frozen=True)
class Quantisation:
    """How a model was quantised, for its manifest and the report. Plain values only."""

    fingerprint: str  # over pictures, preprocessing, weights, graph and method
    method: str
    rest: str
    layers: int  # quantisable ones
    kept: dict[str, str]  # layer -> why it is not INT8
    accuracy: dict[str, Any]
    sensitivity: list[dict[str, Any]] = field(default_factory=list)  # worst first; empty where none was ranked
    ranges: dict[str, float] = field(default_factory=dict)  # of the tensors that are quantised

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """The part for the manifest: without the long lists, and without the fingerprint, which has its own field."""
        value = self.to_dict()
        return {name: value[name] for name in ("method", "rest", "layers", "kept", "accuracy")}


def int8_model(
    traced: TracedModel,
    options: Int8Options,
    float32: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> tuple[onnx.ModelProto, Quantisation]:
    """Quantise every layer. Where the loss of accuracy is over the bound, the most sensitive layers are kept.

    Args:
        float32: node -> reason, of the nodes that stay in float32 because half cannot hold their values.
    Raises:
        InputError: the calibration set or the validation pictures cannot be used.
        GateError: the loss is over the bound even with half of the layers kept.
    """
    model, float32 = traced.model, dict(float32 or {})
    layers = quantizable_layers(model)
    if not layers:
        raise InputError("the network has no convolution with constant weights, so there is nothing to quantise")
    pictures: CalibrationSet | None = None
    if options.trained is not None:
        found = trained_ranges(traced, layers, options.trained)
        progress.log(f"ranges are those it was trained for INT8 with, of {options.trained.pictures} training pictures")
    else:
        assert options.calibration is not None
        pictures = read_calibration_set(options.calibration)
        pictures.verify()
        folder = options.calibration if options.calibration.is_dir() else options.calibration.parent
        cache = folder / f"ranges-{traced.name}-{options.ranges}.json"
        found = measured_ranges(traced, layers, options.ranges, pictures, cache, progress)
    quantiser = _Quantiser(model, options, found.limits, {layer.name: layer for layer in layers}, float32)
    accuracy: dict[str, Any] = {}
    sensitivity: list[Sensitivity] = []
    if options.keep is not None:
        kept = options.keep
        why = dict.fromkeys(kept, "asked for")
    elif pictures is None and options.validation is None:
        progress.log("accuracy is not measured, since training scored the network in INT8; --validation measures it")
        kept, why = (), {}
    else:
        search = _Search(quantiser, _validation(options, pictures), traced.spec, progress)
        kept, accuracy, sensitivity = search.run()
        why = {layer: f"among the {len(kept)} most sensitive" for layer in kept}
    why |= dict.fromkeys(quantiser.always, "kept in training")
    reasons = {name: float32[layer.node] for name, layer in quantiser.layers.items() if layer.node in float32} | why
    for layer, reason in reasons.items():
        progress.log(f"kept in high precision: {layer} ({reason})")
    record = Quantisation(
        found.fingerprint,
        found.method,
        options.rest,
        len(layers),
        reasons,
        accuracy,
        [asdict(item) for item in sensitivity],
        {layer.tensor: found.limits[layer.tensor] for layer in layers if layer.name not in reasons},
    )
    return quantiser.made(kept), record


@dataclass(frozen=True)
class _Quantiser:
    """Makes INT8 forms of one model."""

    model: onnx.ModelProto
    options: Int8Options
    ranges: dict[str, float]
    layers: dict[str, Layer]
    float32: dict[str, str]  # nodes out of half's range

    @property
    def always(self) -> tuple[str, ...]:
        """Layers that training kept in high precision, so they have no ranges."""
        return self.options.trained.kept if self.options.trained is not None else ()

    def made(self, keep: Collection[str]) -> onnx.ModelProto:
        """The final form, with these layers in high precision."""
        keep = {*keep, *self.always}
        made = quantized_model(self.model, self.ranges, keep=keep, float32=self.float32, skips=self.options.skips)
        return half_model(made, self.float32) if self.options.rest == "fp16" else made

    def alone(self, layer: str) -> onnx.ModelProto:
        """One layer in INT8, all else in float32."""
        return quantized_model(self.model, self.ranges, keep=[name for name in self.layers if name != layer])


class _Search:
    """Looks for the fewest layers that have to stay in high precision."""

    def __init__(self, quantiser: _Quantiser, validation: Validation, spec: InputSpec, progress: Progress) -> None:
        self._quantiser = quantiser
        self._validation = validation
        self._spec = spec
        self._progress = progress
        self._ranked: list[Sensitivity] = []

    def run(self) -> tuple[tuple[str, ...], dict[str, Any], list[Sensitivity]]:
        """Layers to keep, the accuracy with and without INT8, and the ranking where there was need of one."""
        options, validation, layers = self._quantiser.options, self._validation, self._quantiser.layers
        bound = DEFAULT_MAX_DROP[validation.measure] if options.max_drop is None else options.max_drop
        self._progress.log(f"accuracy: {validation.measure} on {validation.what}, at most {bound:g} may be lost")
        reference = self._maps(self._quantiser.model)
        maps: dict[tuple[str, ...], list[np.ndarray]] = {}

        def drop_of(keep: tuple[str, ...]) -> float:
            maps[keep] = self._maps(self._quantiser.made(keep))
            drop = validation.drop(reference, maps[keep])
            self._progress.log(
                f"{len(layers) - len(keep)} of {len(layers)} layers: {validation.measure} loses {drop:.4f}"
            )
            return drop

        most = int(len(layers) * _KEPT_AT_MOST)
        try:
            kept = least_kept(self._ranking, drop_of, bound, most)
        except TooLossy as error:
            raise GateError(
                f"INT8 loses more {validation.measure} than {bound:g} even with {most} of {len(layers)} layers in "
                f"high precision: {error}; nothing was kept. Train it for INT8 (sdi-train --qat CHECKPOINT), export "
                "--fp16, calibrate on more pictures, choose another --ranges, or allow more with --max-drop"
            ) from error
        if options.rank:
            self._ranking()
        return kept.layers, _accuracy(validation, reference, maps[kept.layers], kept, bound), self._ranked

    def _maps(self, model: onnx.ModelProto) -> list[np.ndarray]:
        return self._validation.maps(self._spec.runner(model), self._spec)

    def _ranking(self) -> list[Sensitivity]:
        """Each layer alone quantised, on a few pictures; worst first."""
        if self._ranked:
            return self._ranked
        few = self._validation.some(_RANKED_ON)
        reference = list(few.probabilities(self._spec.runner(self._quantiser.model), self._spec))
        fixed = {*self._quantiser.float32, *(self._quantiser.layers[name].node for name in self._quantiser.always)}
        layers = [name for name, layer in self._quantiser.layers.items() if layer.node not in fixed]
        for layer in self._progress.track(layers, "ranking layers"):
            answers = few.probabilities(self._spec.runner(self._quantiser.alone(layer)), self._spec)
            errors = [np.abs(a - b).mean() for a, b in zip(reference, answers, strict=True)]
            self._ranked.append(Sensitivity(layer, float(np.mean(errors))))
        self._ranked.sort(key=lambda item: -item.error)
        return self._ranked


def _validation(options: Int8Options, pictures: CalibrationSet | None) -> Validation:
    calibrated = pictures.pictures if pictures is not None else ()
    if options.validation is not None:
        stems = {Path(picture.file).stem for picture in calibrated}
        return validation_pictures(options.validation, options.masks, leave_out=stems)
    assert pictures is not None
    chosen = calibrated[:: max(1, len(calibrated) // _UNMASKED)]
    return Validation(
        tuple(picture.file for picture in chosen),
        tuple(pictures.read(picture) for picture in chosen),
        None,
        f"{len(chosen)} of the pictures that calibrated, without masks (--validation measures the S-measure)",
    )


def _accuracy(
    validation: Validation, reference: list[np.ndarray], maps: list[np.ndarray], kept: Kept, bound: float
) -> dict[str, Any]:
    """The accuracy as the report has it."""
    scores = {}
    if validation.masks is not None:
        scores = {"float32": validation.s_measure(reference), "int8": validation.s_measure(maps)}
    return {
        "measure": validation.measure,
        "pictures": len(validation.names),
        "what": validation.what,
        "bound": bound,
        "drop": kept.drop,
        "mean_map_difference": mean_difference(reference, maps),
        "scores": scores,
        "tried": [{"kept": count, "drop": drop} for count, drop in kept.tried],
    }
