"""`sdi-parity` as a user and a CI call it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from damage import Edit, negate
from sdi.export.parity.cli import parity_command
from sdi.export.parity.result import GateResult
from sdi.export.parity.tolerances import TOLERANCES, read_tolerances
from sdi.runtime.common.console import single_command
from sdi.runtime.common.errors import DeviceError, GateError, InputError
from sdi.runtime.engine.manifest import manifest_path
from support import command, manifest_of


def call(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(single_command(parity_command), [str(argument) for argument in arguments])


def test_a_passing_gate_and_its_reports(
    checkpoint: Path, engines: dict[str, Path], strip_pairs: Path, tmp_path: Path
) -> None:
    pictures = ("--images", strip_pairs / "images", "--masks", strip_pairs / "masks")
    chosen = [part for name in ("fp32", "fp16", "int8") for part in ("--engine", engines[name])]
    done = command(
        "sdi-parity", "--checkpoint", checkpoint, *chosen, "--deploy", *pictures, "--report", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for text in (
        "minet against PyTorch in float32, 4 pictures",
        "deploy form",
        "minet-int8.onnx",
        "int8",
        "S-measure lost",
    ):
        assert text in done.stdout
    assert "FAIL" not in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".sdi-parity", "parity.html", "parity.json", "parity.md", "parity.xml"}
    result = GateResult.from_dict(json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8")))
    assert result.passed
    assert len(result.candidates) == 4
    root = ElementTree.parse(tmp_path / "out" / "parity.xml").getroot()
    assert int(root.attrib["tests"]) == sum(len(runner.rows) for runner in result.candidates)


def test_a_failing_gate_names_metric_picture_and_layer(
    checkpoint: Path, engines: dict[str, Path], damaged: Callable[[Path, Edit], Path], tmp_path: Path
) -> None:
    engine = damaged(engines["fp16"], negate("decoder.1.0.1.0"))
    done = command(
        "sdi-parity",
        "--checkpoint",
        checkpoint,
        "--engine",
        engine,
        "--bisect",
        "--json",
        "--report",
        "out",
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    assert "minet-fp16.onnx fails the fp16 gate: " in done.stderr
    assert "worst picture" in done.stderr
    (runner,) = GateResult.from_dict(json.loads(done.stdout)).candidates
    assert runner.divergence is not None
    assert runner.divergence.layer == "decoder.1.0.1.0"
    assert runner.evidence
    assert all((tmp_path / file).parent == tmp_path / "out" / "evidence" for file in runner.evidence)
    assert all((tmp_path / file).stat().st_size > 1000 for file in runner.evidence)
    page = (tmp_path / "out" / "parity.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == len(runner.evidence)
    assert "first to differ: decoder.1.0.1.0" in page


def test_evidence_lies_where_the_command_is_given_unless_told(
    checkpoint: Path,
    engines: dict[str, Path],
    damaged: Callable[[Path, Edit], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = damaged(engines["fp32"], negate("decoder.1.0.1.0"))
    failed = call("--checkpoint", checkpoint, "--engine", engine)
    assert isinstance(failed.exception, GateError)
    assert len(list((tmp_path / "parity-evidence").glob("minet-fp32.onnx-*.png"))) >= 1


def test_tolerances_are_printed_as_they_are_read_and_replace_the_bounds(
    checkpoint: Path, engines: dict[str, Path], tmp_path: Path
) -> None:
    printed = call("--print-tolerances")
    assert printed.exit_code == 0
    (tmp_path / "all.toml").write_text(printed.stdout, encoding="utf-8")
    assert read_tolerances(tmp_path / "all.toml") == TOLERANCES
    (tmp_path / "strict.toml").write_text("[fp16]\nmax = 1e-9\n", encoding="utf-8")
    failed = call(
        *("--checkpoint", checkpoint, "--engine", engines["fp16"], "--tolerances", tmp_path / "strict.toml"),
        *("--evidence", tmp_path / "evidence"),
    )
    assert isinstance(failed.exception, GateError)
    assert "is over 1e-09" in str(failed.exception)


def test_a_report_goes_into_no_folder_of_others(checkpoint: Path, engines: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    refused = call("--checkpoint", checkpoint, "--engine", engines["fp32"], "--report", tmp_path)
    assert isinstance(refused.exception, InputError)
    assert "holds files that sdi-parity --report did not write" in str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--engine", "a.onnx"], "give --checkpoint FILE, the reference; or --self-test"),
        (["--self-test"], "--self-test needs --engine FILE"),
        (["--self-test", "--checkpoint", "a.pt", "--engine", "a.onnx"], "--self-test needs no checkpoint"),
        (["--self-test", "--where", "--engine", "a.onnx"], "leave out --checkpoint, --deploy and --bisect"),
        (["--checkpoint", "a.pt", "--threshold", "0"], "--threshold must be above 0 and at most 1"),
        (["--checkpoint", "a.pt", "--data", "d", "--images", "i"], "either --data, or --images and --masks"),
        (["--checkpoint", "a.pt", "--masks", "m"], "--images DIR --masks DIR"),
        (["--checkpoint", "none.pt", "--engine", "a.onnx"], "checkpoint none.pt does not exist"),
    ],
)
def test_wrong_use(arguments: Sequence[str], complaint: str) -> None:
    refused = call(*arguments)
    assert isinstance(refused.exception, InputError)
    assert complaint in str(refused.exception)


def test_a_plan_without_its_gpu_is_exit_code_3(checkpoint: Path, engines: dict[str, Path], tmp_path: Path) -> None:
    """A real plan, as far as can be told without a GPU: TensorRT's first bytes."""
    pytest.importorskip("torch")
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here: the plan would be loaded")
    from dataclasses import replace

    from sdi.runtime.common.files import sha256_of
    from sdi.runtime.engine.manifest import write_manifest

    plan = tmp_path / "minet-fp16.plan"
    plan.write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(1000))
    manifest = manifest_of(engines["fp16"])
    write_manifest(
        plan,
        replace(
            manifest, target="tensorrt", precision="fp16", bytes=plan.stat().st_size, sha256=sha256_of(plan),
            gpu="Orin", compute_capabilities=("8.7",), builder={"tensorrt": "10.3.0.26"},
        ),
    )  # fmt: skip
    refused = call("--checkpoint", checkpoint, "--engine", engines["fp32"], "--engine", plan, "--json")
    assert isinstance(refused.exception, DeviceError), refused.exception
    assert "cannot be compared here" in str(refused.exception)
    assert "sdi-parity --self-test --engine minet-fp16.plan" in str(refused.exception)
    first, second = GateResult.from_dict(json.loads(refused.stdout)).candidates
    assert first.passed
    assert second.unavailable


def test_help_teaches() -> None:
    text = " ".join(call("--help").stdout.split())
    for part in ("Prove that engines answer what was trained", "--bisect", "--self-test", "Exit code 0", "JUnit"):
        assert part in text


def test_self_test_passes_and_fails(engines: dict[str, Path], tmp_path: Path) -> None:
    done = call("--self-test", "--engine", engines["fp32"], "--engine", engines["fp16"], "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert [Path(each["engine"]).name for each in report["engines"]] == ["minet-fp32.onnx", "minet-fp16.onnx"]
    assert all(0 <= each["difference"] <= each["tolerance"] for each in report["engines"])

    engine = tmp_path / "minet-fp32.onnx"
    engine.write_bytes(engines["fp32"].read_bytes())
    manifest = json.loads(manifest_path(engines["fp32"]).read_bytes())
    manifest["golden"]["tile_means"][0][2][5] += 30
    manifest_path(engine).write_text(json.dumps(manifest), encoding="utf-8")
    failed = call("--self-test", "--engine", engine)
    assert isinstance(failed.exception, GateError)
    assert "minet-fp32.onnx: the answer to a golden picture is off" in str(failed.exception)
    manifest_path(engine).unlink()
    assert isinstance(call("--self-test", "--engine", engine).exception, InputError)


def test_self_test_loads_neither_torch_nor_onnx(engines: dict[str, Path]) -> None:
    """It runs where neither is installed: a finder that refuses them stands in their way."""
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnx", "onnxscript", "lightning_fabric", "jinja2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from sdi.export.parity.cli import main
sys.argv = ["sdi-parity", "--self-test", "--engine", sys.argv[1]]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(engines["fp32"])], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "minet-fp32.onnx" in done.stdout
    assert "pass" in done.stdout
