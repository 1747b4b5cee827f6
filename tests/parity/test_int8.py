"""INT8 on the one fully trained network of this field at hand, on all 360 test pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import py_sod_metrics
import pytest

from sdi.calibration.picture_set import SET_FILE
from sdi.calibration.selection import choose_calibration_set, find_held_out
from sdi.export.accuracy import Validation
from sdi.export.half import half_model
from sdi.export.int8 import Int8Options, int8_model
from sdi.export.onnx_model import FrameShape, onnx_from_module
from sdi.export.runners import InputSpec
from sdi.export.traced_model import TracedModel
from sdi.train.authors import checkpoint_from_authors
from sdi.train.checkpoint import load_network
from sdi.train.data import find_pairs, load_samples
from sdi.train.engine_module import EngineModule
from sdi.train.models.deploy import deploy_form


@pytest.mark.slow
def test_published_minet_keeps_its_scores_in_half_and_in_int8(
    steel_data: Path, reference: Path, tmp_path: Path
) -> None:
    """The bounds: FP16 loses at most .0005 S, INT8 .002 S and .001 MAE, calibrated on training pictures alone."""
    checkpoint = checkpoint_from_authors(reference / "minet_published.pth", "minet")
    module = EngineModule(deploy_form(load_network(checkpoint)), checkpoint.preprocessing, checkpoint.input_hw)
    model = onnx_from_module(module, FrameShape(*checkpoint.input_hw))
    spec = InputSpec(checkpoint.input_hw)
    traced = TracedModel(model, "minet", checkpoint.preprocessing.to_dict(), None, spec)
    images = steel_data / "Source Images"
    choose_calibration_set(images, 32, held_out=find_held_out(images, None)).write(tmp_path / SET_FILE)
    int8, record = int8_model(traced, Int8Options(tmp_path, validation=steel_data))
    samples = load_samples(find_pairs(steel_data, "test"))
    test = Validation(
        tuple(s.name for s in samples), tuple(s.image for s in samples), tuple(s.mask for s in samples), "test"
    )

    def scores(one: onnx.ModelProto) -> tuple[float, float]:
        maps = test.maps(spec.runner(one), spec)
        mae = py_sod_metrics.MAE()
        for saliency, sample in zip(maps, samples, strict=True):
            mae.step(pred=saliency, gt=sample.mask)
        return test.s_measure(maps), float(np.asarray(mae.get_results()["mae"]))

    exact = scores(model)
    assert exact == pytest.approx((0.8660, 0.0268), abs=2e-4)  # what its authors' program scores
    assert exact[0] - scores(half_model(model))[0] <= 0.0005
    s, mae = scores(int8)
    assert exact[0] - s <= 0.002
    assert mae - exact[1] <= 0.001
    assert len(record.kept) <= 5  # nearly all of its 110 layers are in INT8
