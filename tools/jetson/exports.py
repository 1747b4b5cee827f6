"""One tiny engine of every network in every precision: `python -m tools.jetson.exports FOLDER`, with PyTorch.

MINet and TSERNet-lite with the weights that come with sdi, on frames of half their side; the others are a few channels
wide, at 64x64, with random weights that make their maps lively.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from tools.jetson.recipe import ROOT

sys.path.insert(0, str(ROOT / "tests"))

import sdi.train.models as models
from sdi.calibration.picture_set import SET_FILE
from sdi.calibration.selection import choose_calibration_set
from sdi.export.exporter import ExportRequest, ExportSource, export_onnx
from sdi.export.int8 import Int8Options
from sdi.runtime.common.images import write_image
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.train.checkpoint import Checkpoint, load_checkpoint, shipped_checkpoint
from sdi.train.models import model_names, model_spec
from support import NARROW, lively_checkpoint


def _checkpoint(name: str) -> Checkpoint:
    shipped = shipped_checkpoint(name)
    if shipped is not None:
        return replace(load_checkpoint(shipped), input_hw=(128, 128))
    spec = model_spec(name)
    if name != "tsernet-xs":  # narrow as it is
        models._MODELS[name] = replace(spec, build=partial(spec.build, width=NARROW[spec.family]))
    return lively_checkpoint(name, 64)


def main() -> None:
    """Export into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    # The wider forms of one network have the same layers.
    names = [n for n in model_names() if not model_spec(n).ablation and n not in ("tsernet", "tsernet-s")]
    with tempfile.TemporaryDirectory() as scratch:
        calibration = Path(scratch)
        for kind in DEFECTS:
            write_image(calibration / f"{kind}.png", draw_strip(kind, 10)[0])
        choose_calibration_set(calibration, len(DEFECTS)).write(calibration / SET_FILE)
        for name in names:
            source = ExportSource(_checkpoint(name), None)
            int8 = ExportRequest("int8", int8=Int8Options(calibration, rest="fp32", keep=()))
            requests = [ExportRequest("fp32"), ExportRequest("fp16"), int8]
            for request in requests:
                made = export_onnx(source, request, folder, overwrite=True)
                print(made.path.name, flush=True)


if __name__ == "__main__":
    main()
