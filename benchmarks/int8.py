"""What FP16 and INT8 cost in accuracy, on real weights and real steel, beside ONNX Runtime's own recipe.

Needs SD-saliency-900 (SDI_DATA), and for the published MINet its authors' checkpoint (minet_published.pth in the
folder SDI_REFERENCE); neither is part of this project.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import py_sod_metrics

from benchmarks.rows import Row, Table
from benchmarks.workbench import Workbench
from sdi.calibration.picture_set import SET_FILE, CalibrationSet
from sdi.calibration.selection import choose_calibration_set, find_held_out
from sdi.export.accuracy import Validation
from sdi.export.half import half_model
from sdi.export.int8 import Int8Options, int8_model
from sdi.export.onnx_model import FrameShape, onnx_from_module
from sdi.export.runners import InputSpec
from sdi.export.traced_model import TracedModel
from sdi.runtime.common.errors import InputError
from sdi.train.checkpoint import Checkpoint, load_checkpoint, load_network, shipped_checkpoint
from sdi.train.data import find_pairs, load_samples
from sdi.train.engine_module import EngineModule
from sdi.train.models.deploy import deploy_form

__all__ = ["run"]

_CALIBRATED_ON = 64  # training pictures
_SHIPPED = {"minet": "MINet", "tsernet-lite": "TSERNet-lite"}
_METHODS = ("minmax", "percentile", "mse", "entropy")


def run(bench: Workbench) -> Table:
    """Score every recipe on all test pictures; ranges and layers to keep come from training pictures alone."""
    data = Path(os.environ.get("SDI_DATA", ""))
    if not (data / "test.txt").is_file():
        raise InputError("the int8 benchmark needs SD-saliency-900: set SDI_DATA to its folder")
    images = data / "Source Images"
    bench.progress.log("choosing calibration pictures")
    pictures = choose_calibration_set(images, _CALIBRATED_ON, held_out=find_held_out(images, None))
    calibration = bench.folder / "calibration"
    calibration.mkdir()
    pictures.write(calibration / SET_FILE)
    samples = load_samples(find_pairs(data, "test"))
    test = Validation(
        tuple(s.name for s in samples), tuple(s.image for s in samples), tuple(s.mask for s in samples), "test pictures"
    )
    rows = []
    for name, checkpoint in _checkpoints().items():
        rows += _Subject(name, checkpoint, bench, data, calibration, pictures, test).rows()
    notes = (
        f"All {len(samples)} test pictures; ranges from {_CALIBRATED_ON} training pictures, layers to keep found on "
        "other training pictures (`--max-drop 0.002`). S and MAE are PySODMetrics', times 1000; losses are against "
        "float32, so a negative one is a gain. INT8 rows: every convolution, the rest in half, unless said. "
        "nvidia-modelopt's, measured in an environment of its own: quantization.md."
    )
    return Table("int8", "FP16 and INT8: what they lose", notes, rows)


def _checkpoints() -> dict[str, Checkpoint]:
    from sdi.train.authors import checkpoint_from_authors

    found = {}
    published = Path(os.environ.get("SDI_REFERENCE", "")) / "minet_published.pth"
    if published.is_file():
        found["published MINet 368x368"] = checkpoint_from_authors(published, "minet")
    for model, title in _SHIPPED.items():
        path = shipped_checkpoint(model)
        assert path is not None
        checkpoint = load_checkpoint(path)
        height, width = checkpoint.input_hw
        found[f"shipped {title} {height}x{width}"] = checkpoint
    return found


@dataclass
class _Subject:
    """One network, quantised in every way."""

    name: str
    checkpoint: Checkpoint
    bench: Workbench
    data: Path
    calibration: Path
    pictures: CalibrationSet
    test: Validation

    def rows(self) -> list[Row]:
        module = EngineModule(
            deploy_form(load_network(self.checkpoint)), self.checkpoint.preprocessing, self.checkpoint.input_hw
        )
        self.spec = InputSpec(self.checkpoint.input_hw)
        self.bench.progress.log(f"tracing {self.name}")
        model = onnx_from_module(module, FrameShape(*self.checkpoint.input_hw))
        exact = self._scores(model)
        rows = [
            Row(f"{self.name}, float32: S", "x 0.001", [exact[0]]),
            Row(f"{self.name}, float32: MAE", "x 0.001", [exact[1]]),
            *self._lost("FP16", half_model(model), exact, s_at_most=0.5),
        ]
        for method in _METHODS:
            rows += self._lost(f"INT8 {method}", self._int8(model, ranges=method), exact)
        rows += self._lost("INT8 mse, skip inputs float", self._int8(model, skips=False), exact)
        rows += self._lost("INT8 mse, rest float32", self._int8(model, rest="fp32"), exact)
        held, kept = self._held(model)
        rows += self._lost(f"INT8 as exported ({kept} layers kept)", held, exact, s_at_most=2, mae_at_most=1)
        rows += self._lost("ONNX Runtime's default recipe, INT8", self._default_recipe(model), exact)
        return rows

    def _int8(self, model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
        return self._quantised(model, Int8Options(self.calibration, keep=(), **options))[0]

    def _held(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
        made, record = self._quantised(model, Int8Options(self.calibration, validation=self.data))
        return made, len(record.kept)

    def _quantised(self, model: onnx.ModelProto, options: Int8Options) -> Any:
        name, preprocessing = self.name.replace(" ", "-"), self.checkpoint.preprocessing.to_dict()
        traced = TracedModel(model, name, preprocessing, self.name, self.spec)
        return int8_model(traced, options, progress=self.bench.progress)

    def _default_recipe(self, model: onnx.ModelProto) -> onnx.ModelProto:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        source, made = self.bench.folder / "float32.onnx", self.bench.folder / "default.onnx"
        onnx.save(model, source)
        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                source,
                made,
                _Reader(self.spec.frame(self.pictures.read(picture))[None] for picture in self.pictures.pictures),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QInt8,
                per_channel=True,
            )
        return onnx.load(made)

    def _scores(self, model: onnx.ModelProto) -> tuple[float, float]:
        """S and MAE on the test pictures, times 1000."""
        maps = self.test.maps(self.spec.runner(model), self.spec)
        mae = py_sod_metrics.MAE()
        for saliency, mask in zip(maps, self.test.masks or (), strict=True):
            mae.step(pred=saliency, gt=mask)
        return self.test.s_measure(maps) * 1e3, float(mae.get_results()["mae"]) * 1e3

    def _lost(
        self,
        what: str,
        model: onnx.ModelProto,
        exact: tuple[float, float],
        s_at_most: float | None = None,
        mae_at_most: float | None = None,
    ) -> list[Row]:
        self.bench.progress.log(f"scoring {self.name}, {what}")
        s, mae = self._scores(model)
        lost = Row(f"{self.name}, {what}: S lost", "x 0.001", [exact[0] - s], at_most=s_at_most)
        more = Row(f"{self.name}, {what}: MAE gained", "x 0.001", [mae - exact[1]], at_most=mae_at_most)
        self.bench.progress.log(
            f"{self.name}, {what}: S loses {exact[0] - s:.2f}, MAE gains {mae - exact[1]:.2f} thousandths"
        )
        return [lost, more]


class _Reader:
    """Frames as ONNX Runtime's quantiser asks for them."""

    def __init__(self, frames: Iterable[np.ndarray]) -> None:
        self._frames: Iterator[np.ndarray] = iter(frames)

    def get_next(self) -> dict[str, np.ndarray] | None:
        frame = next(self._frames, None)
        return None if frame is None else {"frame": frame}
