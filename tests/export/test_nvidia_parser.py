"""NVIDIA's own parser reads what is exported, and sees the same face. It needs no GPU."""

from __future__ import annotations

import pytest

from sdi.export.exporter import ExportRequest, export_onnx
from sdi.train.checkpoint import load_checkpoint

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")


def parse(path):
    """Shapes of the inputs and outputs by name, and their types."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    assert {tensor.dtype for tensor in (*inputs, *outputs)} == {trt.uint8}
    return {tensor.name: tuple(tensor.shape) for tensor in (*inputs, *outputs)}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_static_face(exports, precision):
    shapes = parse(exports / f"tsernet-xs-{precision}.onnx")
    assert shapes == {"frame": (1, 64, 64, 3), "saliency": (1, 64, 64)}


def test_dynamic_face(checkpoint_file, tmp_path):
    request = ExportRequest("fp16", dynamic=True)
    done = export_onnx(load_checkpoint(checkpoint_file), request, tmp_path, checkpoint_sha256="0" * 64)
    assert parse(done.path) == {"frame": (-1, -1, -1, 3), "saliency": (-1, -1, -1)}
