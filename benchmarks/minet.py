"""MINet at the paper's input size: our engine against the paper's form of it in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.paper_minet import paper_form
from benchmarks.rows import Row, Table
from benchmarks.timing import interleaved, quotients, repeated
from benchmarks.workbench import Workbench
from sdi.runtime.common.errors import GateError
from sdi.runtime.engine.open import open_engine
from sdi.train.checkpoint import load_network
from sdi.train.engine_module import EngineModule
from sdi.train.models.deploy import deploy_form
from sdi.train.models.minet import MINet

__all__ = ["run"]

_HW = (368, 368)
_ROUNDS = 15
_AGREEMENT = 1e-5  # greatest difference of a probability between the forms in PyTorch


def run(bench: Workbench) -> Table:
    """Time four ways to answer the same uint8 frame with the same uint8 map."""
    torch.set_num_threads(bench.cores)
    network = load_network(bench.checkpoint)
    assert isinstance(network, MINet)
    frame, _ = bench.picture(0, _HW)
    tensor = torch.from_numpy(frame)[None]
    bench.progress.log("checking that the forms agree")
    forms = {"paper": paper_form(network), "folded": deploy_form(network)}
    preprocessing = bench.checkpoint.preprocessing
    ours = _answer(EngineModule(network, preprocessing, _HW, raw=True), tensor)
    for name, form in forms.items():
        difference = float((_answer(EngineModule(form, preprocessing, _HW, raw=True), tensor) - ours).abs().max())
        if not difference <= _AGREEMENT:
            raise GateError(f"the {name} form of MINet answers otherwise than ours: by {difference:.1e} at most")
    paper, folded = (EngineModule(form, preprocessing, _HW) for form in forms.values())
    with (
        open_engine(bench.engine("fp32", _HW), "cpu", bench.cores) as fp32,
        open_engine(bench.engine("fp16", _HW), "cpu", bench.cores) as fp16,
    ):
        bench.progress.log("timing MINet")
        seconds = interleaved(
            {
                "paper": repeated(lambda: _answer(paper, tensor)),
                "fp32": repeated(lambda: fp32(frame)),
                "folded": repeated(lambda: _answer(folded, tensor)),
                "fp16": repeated(lambda: fp16(frame)),
            },
            bench.rounds(_ROUNDS),
        )
    rows = [
        Row(
            "FP32 engine in ONNX Runtime, times as fast as the paper's form in PyTorch",
            "x",
            quotients(seconds["paper"], seconds["fp32"]),
            at_least=8,
        ),
        Row("folded form in PyTorch, likewise", "x", quotients(seconds["paper"], seconds["folded"])),
        Row("FP16 engine in ONNX Runtime, likewise", "x", quotients(seconds["paper"], seconds["fp16"])),
    ]
    for name, what in (
        ("paper", "paper's form, PyTorch"),
        ("folded", "folded form, PyTorch"),
        ("fp32", "FP32 engine, ONNX Runtime"),
        ("fp16", "FP16 engine, ONNX Runtime"),
    ):
        rows.append(Row(f"{what}: a frame", "ms", [s * 1e3 for s in seconds[name]]))
    notes = (
        f"One 368x368 frame, uint8 in and uint8 out, {bench.weights}. The paper's form runs one 1x1 "
        "convolution, batch norm and ReLU for every channel of every MI module, nothing folded, in eval "
        f"mode; before timing, its map and the folded form's must equal ours within {_AGREEMENT:.0e}. ONNX "
        "Runtime's CPU kernels compute half in float32, so FP16 gains nothing here: it is for GPUs."
    )
    return Table("minet", f"MINet, 368x368, {bench.cores} CPU cores", notes, rows)


# Around the calls alone: tensors made in this mode, a checkpoint's too, could not be trained or exported.
@torch.inference_mode()
def _answer(module: EngineModule, frames: Tensor) -> Tensor:
    return module(frames)
