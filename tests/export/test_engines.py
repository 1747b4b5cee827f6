"""Engine builders: which one is taken, what each refuses, and plans that TensorRT-RTX really builds."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from sdi.export.engines import BUILDERS, BuildOptions, Exported, choose_builder
from sdi.export.engines.network import edge_layers, half_tensor, opset_of
from sdi.export.engines.tensorrt import strongly_typed
from sdi.export.exporter import ExportRequest, ExportSource, export_engine, export_onnx
from sdi.export.plan import engine_from_onnx
from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.manifest import manifest_path, read_manifest, write_manifest
from sdi.runtime.engine.plan import HEADER_BYTES, PlanHeader
from sdi.train.checkpoint import load_checkpoint
from support import command, nvidia_view

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
RTX = BUILDERS["tensorrt-rtx"]
PLAIN = BuildOptions()
no_tensorrt = pytest.mark.skipif(BUILDERS["tensorrt"].unavailable() is None, reason="TensorRT and a GPU are here")


@no_tensorrt
def test_auto_builds_without_a_gpu_and_says_why() -> None:
    builder, why = choose_builder("auto", "fp16")
    assert builder is RTX
    assert why.startswith("it needs no GPU; tensorrt: ")


@no_tensorrt
def test_auto_never_takes_weight_only_int8_in_silence() -> None:
    builder, why = choose_builder("auto", "int8")
    assert builder.name == "onnx"
    assert "documents INT8 for weights only" in why
    assert "sdi-export --onnx FILE --target tensorrt" in why


def test_raw_files_are_no_engines() -> None:
    assert choose_builder("auto", "fp32", raw=True)[0].name == "onnx"
    with pytest.raises(InputError, match="--raw is for other tools"):
        choose_builder("tensorrt-rtx", "fp32", raw=True)


@no_tensorrt
def test_an_unavailable_builder_is_listed_with_its_reason() -> None:
    with pytest.raises(
        InputError, match=r"unknown target 'trt'; known: auto, onnx \(available\), tensorrt \(.+\), tenso"
    ):
        choose_builder("trt", "fp16")
    with pytest.raises(DeviceError, match="target tensorrt cannot build here: "):
        choose_builder("tensorrt", "fp16")


@pytest.mark.parametrize(
    ("target", "options", "text"),
    [
        ("tensorrt-rtx", {"version_compatible": True}, "--version-compatible is not for target tensorrt-rtx"),
        ("tensorrt-rtx", {"hardware_compatible": True}, "--hardware-compatible is not for target tensorrt-rtx"),
        ("tensorrt-rtx", {"dla_core": 0}, "--dla is not for target tensorrt-rtx: a DLA is on a Jetson"),
        ("tensorrt-rtx", {"compute_capabilities": ("9.0",)}, r"--compute-capability 9\.0: .* builds for each of 7\.5"),
        ("tensorrt-rtx", {"compute_capabilities": ("8.9", "8.9")}, "--compute-capability 8.9, 8.9"),
        ("tensorrt-rtx", {"workspace_gib": 0.0}, "--workspace must be over 0 GiB"),
        ("tensorrt", {"compute_capabilities": ("8.9",)}, "tensorrt builds for the GPU it runs on"),
        ("tensorrt", {"dla_core": 0}, "--dla takes FP16, one fixed shape and planar frames"),
        ("onnx", {"refit": True, "workspace_gib": 1.0}, "--workspace, --refit is for a TensorRT builder"),
        ("onnx", {"compute_capabilities": ("8.9",)}, "--compute-capability is for a TensorRT builder"),
    ],
)
def test_options_that_a_builder_lacks_are_refused(target: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        BUILDERS[target].check(BuildOptions(**options), "fp16", planar=False, dynamic=False)


@pytest.mark.parametrize(
    ("precision", "planar", "dynamic", "good"),
    [
        ("fp16", True, False, True),
        ("int8", True, False, False),
        ("fp16", False, False, False),
        ("fp16", True, True, False),
    ],
)
def test_dla_wants_half_planes_and_one_shape(precision: str, planar: bool, dynamic: bool, good: bool) -> None:
    check = BUILDERS["tensorrt"].check
    if good:
        check(BuildOptions(dla_core=0), precision, planar, dynamic)
    else:
        with pytest.raises(InputError, match="--dla takes FP16"):
            check(BuildOptions(dla_core=0), precision, planar, dynamic)


@pytest.mark.parametrize(
    ("version", "flags", "strong"),
    [("10.3.0", True, False), ("10.11.0.33", True, False), ("10.12.0.36", True, True), ("11.0.0", False, True)],
)
def test_typing_follows_what_the_library_has(version: str, flags: bool, strong: bool) -> None:
    builder_flag = SimpleNamespace(FP16=1) if flags else SimpleNamespace()
    assert strongly_typed(SimpleNamespace(__version__=version, BuilderFlag=builder_flag)) is strong
    assert strongly_typed(trt) is True


@pytest.fixture(scope="module")
def plan(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A plan of the half network, built by TensorRT-RTX."""
    folder = tmp_path_factory.mktemp("plan")
    return engine_from_onnx(exports / "tsernet-xs-fp16.onnx", RTX, PLAIN, folder)


def test_a_plan_lies_beside_its_manifest(plan: Exported, exports: Path) -> None:
    assert plan.path.name == "tsernet-xs-fp16.plan"
    assert sorted(path.name for path in plan.path.parent.iterdir()) == [
        "tsernet-xs-fp16.plan",
        "tsernet-xs-fp16.plan.json",
    ]
    assert read_manifest(plan.path) == plan.manifest
    header = PlanHeader.of(plan.path.read_bytes()[:HEADER_BYTES])
    assert header is not None
    assert header.size == plan.manifest.bytes == plan.path.stat().st_size
    source = read_manifest(exports / "tsernet-xs-fp16.onnx")
    assert source is not None
    assert plan.manifest.onnx_sha256 == source.sha256
    assert plan.manifest.golden == source.golden
    assert (plan.manifest.precision, plan.manifest.target) == ("fp16", "tensorrt-rtx")


def test_no_layer_of_the_file_is_lost(plan: Exported, exports: Path) -> None:
    view = nvidia_view(exports / "tsernet-xs-fp16.onnx")
    assert plan.manifest.build["layers"] == len(view.layers)
    model = onnx.load(exports / "tsernet-xs-fp16.onnx")
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert [
        name for name, kind in zip(view.layers, view.layer_kinds, strict=True) if kind == "CONVOLUTION"
    ] == convolutions


def test_a_range_of_batches_is_a_profile(checkpoint_file: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    request = ExportRequest("fp16", batches=(1, 2, 4))
    exported = export_onnx(ExportSource(checkpoint, "0" * 64), request, tmp_path)
    options = BuildOptions(
        compute_capabilities=("8.9",), workspace_gib=2, optimization_level=1, detailed_profiling=True
    )
    done = export_engine(exported, ExportSource(checkpoint, "0" * 64), request, RTX, options)
    assert done.manifest.profile == ((1, 64, 64), (2, 64, 64), (4, 64, 64))
    assert done.manifest.compute_capabilities == ("8.9",)
    assert {**done.manifest.build, "layers": 0} == {
        "layers": 0,
        "workspace_gib": 2,
        "optimization_level": 1,
        "detailed_profiling": True,
    }


def test_the_ends_of_the_graph_are_what_half_files_keep_in_float32(exports: Path) -> None:
    """A builder that chooses precisions keeps the ends itself; the half file's own list is the oracle."""
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1)
    assert trt.OnnxParser(network, logger).parse_from_file(str(exports / "tsernet-xs-fp32.onnx"))
    manifest = read_manifest(exports / "tsernet-xs-fp16.onnx")
    assert manifest is not None
    kept = {layer.name for layer in edge_layers(trt, network)}
    nodes = onnx.load(exports / "tsernet-xs-fp16.onnx").graph.node
    averages = {node.name for node in nodes if node.op_type == "AveragePool"}  # float32 wherever they are
    assert set(manifest.high_precision_layers) - averages <= kept
    convolutions = {
        network.get_layer(i).name
        for i in range(network.num_layers)
        if network.get_layer(i).type == trt.LayerType.CONVOLUTION
    }
    assert not kept & convolutions
    assert len(kept) < network.num_layers / 4
    assert half_tensor(trt, network) is None


def test_half_is_seen(exports: Path) -> None:
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1)
    assert trt.OnnxParser(network, logger).parse_from_file(str(exports / "tsernet-xs-fp16.onnx"))
    assert half_tensor(trt, network)


# -- bad input --------------------------------------------------------------------------------------------------------


class Tiny:
    """Writes a small ONNX file around one node, with a manifest that is true of it."""

    def __init__(self, folder: Path, like: Path) -> None:
        self._path = folder / "tiny-fp32.onnx"
        self._like = like  # an engine whose manifest is taken

    def __call__(
        self,
        node: onnx.NodeProto | None = None,
        *,
        opset: int = 20,
        domain: str | None = None,
        answer: str = "saliency",
    ) -> Path:
        node = node or helper.make_node("ReduceMean", ["float", "last"], ["mean"], keepdims=0, name="mean")
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
                node,
                helper.make_node("Cast", ["mean"], [answer], to=TensorProto.UINT8),
            ],
            "tiny",
            [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 32, 32, 3])],
            [helper.make_tensor_value_info(answer, TensorProto.UINT8, [1, 32, 32])],
            [helper.make_tensor("last", TensorProto.INT64, [1], [3])],
        )
        domains = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), self._path)
        return self.true_manifest(self._path)

    def true_manifest(self, path: Path) -> Path:
        """Write a manifest that is true of a file, whatever it holds."""
        manifest = read_manifest(self._like)
        assert manifest is not None
        digest = sha256_of(path)
        size = path.stat().st_size
        write_manifest(path, replace(manifest, model="tiny", sha256=digest, onnx_sha256=digest, bytes=size))
        return path


@pytest.fixture
def tiny(exports: Path, tmp_path: Path) -> Tiny:
    return Tiny(tmp_path, exports / "tsernet-xs-fp32.onnx")


def build(path: Path, options: BuildOptions = PLAIN, folder: Path | None = None) -> Exported:
    return engine_from_onnx(path, RTX, options, folder or path.parent)


def nothing_was_kept(path: Path) -> bool:
    return sorted(item.name for item in path.parent.iterdir()) == [path.name, path.name + ".json"]


def test_another_contract_is_refused(tiny: Tiny) -> None:
    path = tiny(answer="output")
    with pytest.raises(
        InputError, match=r"breaks the I/O contract .* saliency uint8 \[N, H, W\]; it has .*output uint8"
    ):
        build(path)
    assert nothing_was_kept(path)


def test_a_newer_opset_is_refused(tiny: Tiny) -> None:
    path = tiny(opset=26)
    assert opset_of(path) == 26
    with pytest.raises(InputError, match=r"uses opset 26; engines are built from opset 20 at most"):
        build(path)
    assert nothing_was_kept(path)


@pytest.mark.parametrize(
    ("node", "domain", "text"),
    [
        (helper.make_node("Unique", ["float"], ["mean"], name="odd"), None, r"node 1 Unique odd: unsupported node"),
        (
            helper.make_node("Wobble", ["float"], ["mean"], name="odd", domain="com.example"),
            "com.example",
            r"node 1 Wobble odd: invalid node .*[Pp]lugin not found",
        ),
    ],
)
def test_an_unsupported_operator_is_named_with_its_node(
    tiny: Tiny, node: onnx.NodeProto, domain: str, text: str
) -> None:
    path = tiny(node, domain=domain)
    with pytest.raises(InputError, match=text):
        build(path)
    assert nothing_was_kept(path)


def test_half_a_file_is_refused(tiny: Tiny) -> None:
    path = tiny()
    whole = path.read_bytes()
    for length in (len(whole) // 2, 10, 1):
        path.write_bytes(whole[:length])
        assert opset_of(path) is None
    tiny.true_manifest(path)
    with pytest.raises(InputError, match="is no whole ONNX model"):
        build(path)


def test_a_file_without_its_manifest_is_refused(tiny: Tiny) -> None:
    path = tiny()
    manifest_path(path).unlink()
    with pytest.raises(InputError, match=r"no manifest beside .* copy tiny-fp32\.onnx\.json too"):
        build(path)


def test_a_raw_file_is_refused(tiny: Tiny) -> None:
    path = tiny()
    manifest = read_manifest(path)
    assert manifest is not None
    write_manifest(path, replace(manifest, face="raw"))
    with pytest.raises(InputError, match="exported with --raw"):
        build(path)


def test_the_builders_last_error_is_told(exports: Path, tmp_path: Path) -> None:
    """What the library itself says of a build that fails: here, of scratch memory that nothing fits into."""
    with pytest.raises(DeviceError, match=r"could not build tsernet-xs-fp16\.onnx: .*within workspace limit"):
        build(exports / "tsernet-xs-fp16.onnx", BuildOptions(workspace_gib=1e-5), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_plan(tiny: Tiny) -> None:
    path = tiny()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))  # stands for a disk that is full
    try:
        with pytest.raises(InputError, match=r"cannot write .*tiny-fp32\.plan: .*; make room"):
            build(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert nothing_was_kept(path)


def test_a_folder_that_cannot_be_written_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write to folder /proc/nowhere"):
        build(tiny(), folder=tmp_path / "/proc/nowhere")


def test_a_foreign_plan_is_not_overwritten(tiny: Tiny) -> None:
    path = tiny()
    other = path.with_suffix(".plan")
    other.write_text("somebody's")
    with pytest.raises(InputError, match="exists and has no manifest of sdi"):
        build(path)
    assert other.read_text() == "somebody's"
    engine_from_onnx(path, RTX, PLAIN, path.parent, overwrite=True)
    build(path)  # now it is ours
    assert read_manifest(other) is not None


def test_ctrl_c_stops_a_build(exports: Path, tmp_path: Path) -> None:
    """As an exception inside the library's callbacks it would end the process."""
    pressed: list[str] = []

    def press_once(text: str) -> None:
        if not pressed:
            pressed.append(text)
            os.kill(os.getpid(), signal.SIGINT)

    options = PLAIN.with_listener(press_once)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(exports / "tsernet-xs-fp16.onnx", RTX, options, tmp_path)
    assert pressed
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


# -- the command ------------------------------------------------------------------------------------------------------


def test_building_on_a_device_takes_neither_torch_nor_onnx(exports: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from sdi.export.cli import main\n"
        "sys.argv = ['sdi-export', '--onnx', sys.argv[1], '-o', sys.argv[2], '--target', 'tensorrt-rtx', '--json']\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "assert not {'torch', 'onnx', 'onnxscript'} & set(sys.modules), sorted(sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(exports / "tsernet-xs-fp16.onnx"), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["path"] == str(tmp_path / "tsernet-xs-fp16.plan")
    assert row["target"] == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--target", "onnx"], "is an engine of target onnx already"),
        (["--fp32"], "is of precision fp16, so the plan will be"),
        (["--model", "minet"], "--onnx FILE says what the network is"),
        (["--compute-capability", "1.0"], "--compute-capability 1.0"),
    ],
)
def test_wrong_use_of_onnx_is_one_line(exports: Path, arguments: Sequence[object], text: str, tmp_path: Path) -> None:
    done = command("sdi-export", "--onnx", exports / "tsernet-xs-fp16.onnx", "-o", tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
