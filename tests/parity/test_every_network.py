"""Every network in every precision through the gate: no network is registered that cannot be proved.

MINet and TSERNet-lite with the weights that come with sdi, on frames of half their side; of the others a few channels,
with weights and batch-norm statistics that make their maps lively, since nothing is proved by a flat one.
`pytest -s` shows the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from sdi.calibration.picture_set import SET_FILE
from sdi.calibration.selection import choose_calibration_set
from sdi.export.int8 import Int8Options
from sdi.export.onnx_model import FrameShape, onnx_from_module
from sdi.export.parity.comparison import compare
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.tolerances import TOLERANCES
from sdi.export.precision import Precision, converted_model
from sdi.export.runners import InputSpec, runner_from_checkpoint
from sdi.export.traced_model import TracedModel
from sdi.runtime.common.images import write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.train.checkpoint import Checkpoint, load_checkpoint, load_network
from sdi.train.engine_module import EngineModule
from sdi.train.models import model_names, model_spec, registered
from sdi.train.models.deploy import deploy_form
from support import NARROW, lively_checkpoint, shipped_weights

SHIPPED = ("minet", "tsernet-lite")
# tsernet and tsernet-s are tsernet-xs in other widths.
NETWORKS = [n for n in model_names() if not model_spec(n).ablation and n not in ("tsernet", "tsernet-s")]


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    for kind in DEFECTS:
        write_image(folder / f"{kind}.png", draw_strip(kind, 10)[0])
    choose_calibration_set(folder, len(DEFECTS)).write(folder / SET_FILE)
    return folder


@contextmanager
def _checkpoint(name: str) -> Iterator[Checkpoint]:
    """Of a network that is shipped, or of one that is registered narrow as long as it is looked at."""
    spec = model_spec(name)
    if name in SHIPPED:
        yield replace(load_checkpoint(shipped_weights(name)), input_hw=(128, 128))
    elif name == "tsernet-xs":  # narrow as it is
        yield lively_checkpoint(name, 64)
    else:
        with registered(replace(spec, build=partial(spec.build, width=NARROW[spec.family]))):
            yield lively_checkpoint(name, 64)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_precision_is_within_its_bounds(name: str, calibration: Path) -> None:
    with _checkpoint(name) as checkpoint:
        reference, network = runner_from_checkpoint(checkpoint), load_network(checkpoint)
    spec, pictures = InputSpec(checkpoint.input_hw), Pictures()
    maps = [reference(frame[None])[0] for _, frame in spec.frames(pictures)]
    assert max(float(np.ptp(each)) for each in maps) > 0.02
    module = EngineModule(deploy_form(network), checkpoint.preprocessing, checkpoint.input_hw)
    model = onnx_from_module(module, FrameShape(*checkpoint.input_hw))
    traced = TracedModel(model, name, checkpoint.preprocessing.to_dict(), None, spec)
    differences = []
    print()
    for precision in get_args(Precision):
        int8 = Int8Options(calibration, keep=()) if precision == "int8" else None
        model = converted_model(traced, precision, pictures, int8).model
        parity = compare(reference, spec.runner(model), spec.frames(pictures))
        print("|", name, "|", precision, *(f"| {value:.2g}" for value in parity.to_dict().values()), "|")
        assert TOLERANCES[precision].failures(parity) == [], precision
        differences.append(parity.mean)
    assert 0 < differences[0] < differences[1] < differences[2]  # each is what it is said to be
