"""Exported files: the I/O contract, the manifest, the answers."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import sdi.export.exporter as exporter
from sdi.export.exporter import ExportRequest, ExportSource, Precision, export_onnx
from sdi.export.work import work_by_precision
from sdi.runtime.common.errors import DeviceError, GateError, InputError
from sdi.runtime.common.files import sha256_of
from sdi.runtime.common.strip import draw_strip
from sdi.runtime.engine.manifest import read_manifest
from sdi.runtime.engine.open import open_engine
from sdi.train.checkpoint import Checkpoint, load_checkpoint, load_network
from sdi.train.engine_module import EngineModule
from sdi.train.models import SaliencyNetwork
from support import command, lively_checkpoint


def pytorch_map(checkpoint: Checkpoint, frames: np.ndarray, raw: bool = False) -> np.ndarray:
    module = EngineModule(load_network(checkpoint), checkpoint.preprocessing, checkpoint.input_hw, raw=raw)
    with torch.inference_mode():
        return module(torch.from_numpy(frames)).numpy()


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return np.ascontiguousarray(draw_strip("inclusion", 3, (64, 64))[0])[None]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_contract_is_kept(exports: Path, precision: Precision) -> None:
    path = exports / f"tsernet-xs-{precision}.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (frame,), (saliency,) = session.get_inputs(), session.get_outputs()
    assert (frame.name, frame.type, frame.shape) == ("frame", "tensor(uint8)", [1, 64, 64, 3])
    assert (saliency.name, saliency.type, saliency.shape) == ("saliency", "tensor(uint8)", [1, 64, 64])


def test_file_is_whole_and_old_parsers_read_it(exports: Path) -> None:
    model = onnx.load(exports / "tsernet-xs-fp16.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    # TensorRT takes uint8 only into a Cast, and gives it only out of one.
    first = [node.op_type for node in model.graph.node if "frame" in node.input]
    last = [node.op_type for node in model.graph.node if "saliency" in node.output]
    assert (first, last) == (["Cast"], ["Cast"])


def test_file_tells_nothing_of_the_machine_that_made_it(exports: Path) -> None:
    content = (exports / "tsernet-xs-fp32.onnx").read_bytes()
    for trace in (b"site-packages", b"pkg.torch", b"stack_trace", b"forward("):
        assert trace not in content


def test_fp32_answers_as_pytorch(exports: Path, checkpoint_file: Path, frame: np.ndarray) -> None:
    wanted = pytorch_map(load_checkpoint(checkpoint_file), frame)[0]
    with open_engine(exports / "tsernet-xs-fp32.onnx") as engine:
        answer = engine(frame[0])
    assert wanted.std() > 1  # a flat map would prove nothing
    assert np.abs(answer.astype(int) - wanted).max() <= 1


def test_fp16_is_half_the_size_and_keeps_float32_where_it_matters(exports: Path) -> None:
    sizes = [(exports / f"tsernet-xs-{p}.onnx").stat().st_size for p in ("fp32", "fp16")]
    assert sizes[1] < 0.6 * sizes[0]
    manifest = read_manifest(exports / "tsernet-xs-fp16.onnx")
    assert manifest is not None
    model = onnx.load(exports / "tsernet-xs-fp16.onnx")
    kinds = {node.name: node.op_type for node in model.graph.node}
    kept = [kinds[name] for name in manifest.high_precision_layers]
    averages = [kind for kind in kinds.values() if kind == "AveragePool"]
    assert sorted(kept) == sorted(["Add", "Clip", "Mul", "Mul", "Round", "Sigmoid", *averages])


def test_manifest_says_what_the_file_is(exports: Path, checkpoint_file: Path) -> None:
    path = exports / "tsernet-xs-fp16.onnx"
    manifest = read_manifest(path)
    assert manifest is not None
    assert (manifest.model, manifest.family, manifest.precision, manifest.target) == (
        "tsernet-xs",
        "tsernet",
        "fp16",
        "onnx",
    )
    assert manifest.sha256 == manifest.onnx_sha256 == sha256_of(path)
    assert manifest.checkpoint_sha256 == sha256_of(checkpoint_file)
    assert manifest.bytes == path.stat().st_size
    assert (manifest.batch, manifest.frame_hw, manifest.network_hw) == (1, (64, 64), (64, 64))
    assert manifest.random_weights is False
    assert manifest.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert 0 < manifest.parity["max"] < 0.1


def test_self_test_passes_on_what_was_exported(exports: Path) -> None:
    for precision in ("fp32", "fp16"):
        with open_engine(exports / f"tsernet-xs-{precision}.onnx") as engine:
            engine.self_test()


def test_self_test_finds_another_answer(exports: Path, tmp_path: Path) -> None:
    """As from a device that computes wrongly: the file is right, what comes out is not."""
    with open_engine(exports / "tsernet-xs-fp32.onnx") as engine:
        engine.execute = lambda frames: 255 - frames[..., 0]  # type: ignore[method-assign]
        with pytest.raises(DeviceError, match=r"fails its self-test on ONNX Runtime .* gray levels, 1\.0 are allowed"):
            engine.self_test()


def test_dynamic_takes_any_size_and_batch(checkpoint_file: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    done = export_onnx(ExportSource(checkpoint, "0" * 64), ExportRequest(dynamic=True), tmp_path)
    assert done.path.name == "tsernet-xs-fp32-dynamic.onnx"
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    for shape in ((1, 50, 70, 3), (2, 64, 64, 3), (3, 120, 90, 3)):
        frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        (answer,) = session.run(None, {"frame": frames})
        assert answer.shape == shape[:3]
        assert np.abs(answer.astype(int) - pytorch_map(checkpoint, frames)).max() <= 1


def test_camera_size_and_batch_are_resized_inside(checkpoint_file: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    request = ExportRequest(frame_hw=(90, 130), batch=2)
    done = export_onnx(ExportSource(checkpoint, "0" * 64), request, tmp_path)
    assert done.path.name == "tsernet-xs-fp32-90x130-batch2.onnx"
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 130, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"frame": frames})
    assert np.abs(answer.astype(int) - pytorch_map(checkpoint, frames)).max() <= 1


def test_raw_gives_probabilities_and_is_no_engine(checkpoint_file: Path, tmp_path: Path, frame: np.ndarray) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    done = export_onnx(ExportSource(checkpoint, "0" * 64), ExportRequest(raw=True), tmp_path)
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"frame": frame})
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, pytorch_map(checkpoint, frame, raw=True), atol=1e-5)
    with pytest.raises(InputError, match="without --raw"):
        open_engine(done.path)


def test_a_wrong_graph_is_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(network: SaliencyNetwork) -> SaliencyNetwork:
        deployed = real(network)
        deployed.get_parameter("subnet.residual.bias").data += 1.0
        return deployed

    real = exporter.deploy_form
    monkeypatch.setattr(exporter, "deploy_form", planted)
    with pytest.raises(GateError, match="does not answer as PyTorch does: max difference"):
        export_onnx(ExportSource(lively_checkpoint("tsernet-xs", 64), "0" * 64), ExportRequest(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_foreign_file_is_not_overwritten_but_ours_is(checkpoint_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "tsernet-xs-fp32.onnx"
    target.write_text("somebody's")
    arguments = ("--checkpoint", checkpoint_file, "--target", "onnx", "-o", tmp_path)
    refused = command("sdi-export", *arguments)
    assert refused.returncode == 2
    assert "exists and has no manifest of sdi" in refused.stderr
    assert target.read_text() == "somebody's"
    for flags in (["--overwrite"], []):
        done = command("sdi-export", *arguments, *flags)
        assert done.returncode == 0, done.stderr
    with open_engine(target) as engine:
        assert engine.frame_hw == (64, 64)


def test_random_weights_are_marked_and_warned_about(tmp_path: Path) -> None:
    flags = ("--random-weights", "--target", "onnx", "--json", "-o", tmp_path)
    done = command("sdi-export", "--model", "tsernet-xs", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["random_weights"] is True
    assert row["checkpoint_sha256"] is None
    ran = command("sdi-run", "--engine", row["path"], "--source", "demo", "--json")
    assert ran.returncode == 0, ran.stderr
    assert "random weights" in ran.stderr


def test_layers_and_their_work_are_counted(exports: Path) -> None:
    """By hand: 3x3 convolution, 4 to 8 channels in 2 groups, on 10x12; then 2x2 transposed, 8 to 5."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=2),
            helper.make_node("ConvTranspose", ["y", "v"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 10, 12])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 5, 20, 24])],
        [
            numpy_helper.from_array(np.zeros((8, 2, 3, 3), np.float32), "w"),
            numpy_helper.from_array(np.zeros((8, 5, 2, 2), np.float32), "v"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    first, second = 8 * 10 * 12 * 2 * 9, 8 * 10 * 12 * 5 * 4
    assert work_by_precision(model) == {"fp32": {"layers": 2, "macs": 1.0}}
    model.graph.node[1].input[1] = "v16"
    model.graph.node.insert(1, helper.make_node("Cast", ["y"], ["y16"], to=TensorProto.FLOAT16))
    model.graph.node.insert(1, helper.make_node("Cast", ["v"], ["v16"], to=TensorProto.FLOAT16))
    model.graph.node[3].input[0] = "y16"
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    found = work_by_precision(model)
    assert {kind: values["layers"] for kind, values in found.items()} == {"fp32": 1, "fp16": 1}
    assert found["fp32"]["macs"] == pytest.approx(first / (first + second))
    half = read_manifest(exports / "tsernet-xs-fp16.onnx")
    assert half is not None
    assert list(half.layers) == ["fp16"]
    assert half.layers["fp16"]["macs"] == 1.0


def test_planar_takes_float_planes(checkpoint_file: Path, tmp_path: Path, frame: np.ndarray) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    done = export_onnx(ExportSource(checkpoint, "0" * 64), ExportRequest(planar=True), tmp_path)
    assert done.path.name == "tsernet-xs-fp32-planar.onnx"
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    planes = np.ascontiguousarray(frame.transpose(0, 3, 1, 2), np.float32)
    (answer,) = session.run(None, {"frame": planes})
    assert (answer.dtype, answer.shape) == (np.float32, (1, 1, 64, 64))
    np.testing.assert_allclose(answer[:, 0], pytorch_map(checkpoint, frame, raw=True), atol=1e-5)
    with pytest.raises(InputError, match="breaks the I/O contract"):
        open_engine(done.path)


def test_any_batch_of_one_size(checkpoint_file: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    request = ExportRequest(batches=(1, 2, 4))
    done = export_onnx(ExportSource(checkpoint, "0" * 64), request, tmp_path)
    assert done.path.name == "tsernet-xs-fp32-batch1to4.onnx"
    assert done.manifest.profile == ((1, 64, 64), (2, 64, 64), (4, 64, 64))
    assert (done.manifest.batch, done.manifest.frame_hw) == (None, (64, 64))
    assert read_manifest(done.path) == done.manifest
    with open_engine(done.path) as engine:
        frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
        answer = engine.execute(frames)
    assert np.abs(answer.astype(int) - pytorch_map(checkpoint, frames)).max() <= 1


def test_a_full_disk_leaves_nothing(checkpoint_file: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full."""
    checkpoint = load_checkpoint(checkpoint_file)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*tsernet-xs-fp32.onnx: .*; make room"):
            export_onnx(ExportSource(checkpoint, "0" * 64), ExportRequest(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
