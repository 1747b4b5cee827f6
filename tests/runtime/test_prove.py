"""`sdi-doctor --prove`: its steps for real, on a simulated GPU whose builder and network are ONNX Runtime."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")

from gpu_simulator import SimulatedGpu, install
from sdi.runtime.common.errors import DeviceError
from sdi.runtime.doctor.finding import ok
from sdi.runtime.doctor.proof_report import write_proof
from sdi.runtime.doctor.prove import NETWORKS, Outcome, Plan, Step, prove
from simulated_builder import add_builder
from simulated_cuda import cuda_python
from simulated_tensorrt import tensorrt

ROOT = Path(__file__).resolve().parents[2]
STARTUP = """
from gpu_simulator import SimulatedGpu, install
from simulated_builder import add_builder
from simulated_cuda import cuda_python
from simulated_tensorrt import tensorrt
gpu = SimulatedGpu(integrated=True)
install(add_builder(tensorrt(gpu, "10.13.0"), gpu), cuda_python(gpu), lambda d, k, v: d.__setitem__(k, v))
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedGpu]:
    from sdi.runtime.engine.cuda import open_cuda

    gpu = SimulatedGpu(integrated=True)
    install(add_builder(tensorrt(gpu, "10.13.0"), gpu), cuda_python(gpu), monkeypatch.setitem)
    yield gpu
    open_cuda.cache_clear()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of processes that find the simulated GPU."""
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "sitecustomize.py").write_text(STARTUP)
    places = map(str, (tmp_path / "startup", ROOT / "tests", ROOT))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "XDG_STATE_HOME": str(tmp_path / "state")}


def test_the_steps(machine: SimulatedGpu, tmp_path: Path) -> None:
    """Each network and precision is built, and each plan is looked at; a failed step keeps none of the rest."""
    ran: list[Step] = []

    def run(step: Step) -> Outcome:
        ran.append(step)
        if step.name == "build tsernet-lite-fp16":
            return Outcome(step, "failed", 1.0, 3, None, "out of <memory>")
        if step.name == "build minet-fp32":
            (tmp_path / "plans").mkdir()
            (tmp_path / "plans" / "minet-fp32.plan").write_bytes(b"")
        rows = [{"engine": "/a/minet-fp32.plan", "size": "256x256", "p50_ms": 1.5, "p99_ms": 2.0, "device_p50_ms": 1.0}]
        return Outcome(step, "passed", 2.0, 0, {"engines": rows} if step.kind == "bench" else None)

    proof = prove(Plan(tmp_path, tests=None), run=run)
    names = [step.name for step in ran]
    assert names[:3] == ["build tsernet-lite-fp16", "build tsernet-lite-int8-restfp32", "build minet-fp32"]
    assert [name for name in names if name.endswith("FP32 and FP16")] == [f"build {n}, FP32 and FP16" for n in NETWORKS]
    timed = next(step for step in ran if step.kind == "bench")
    assert "--compare-copies" in timed.command  # host and GPU share their memory
    assert str(tmp_path / "plans" / "minet-fp32.plan") in timed.command
    assert [outcome.step.name for outcome in proof.failed] == ["build tsernet-lite-fp16"]
    skipped = {outcome.step.name: outcome.said for outcome in proof.outcomes if outcome.status == "skipped"}
    assert skipped["tests on the GPU"] == "tests/gpu is not here; run this in a checkout of sdi"

    written, page = write_proof(tmp_path, proof, [ok("a check", "<found>")])
    facts = json.loads(written.read_text())
    assert facts["machine"]["gpu"] == "Simulated GPU"
    assert facts["fast"] == [
        {
            "engine": "minet-fp32.plan",
            "size": "256x256",
            "p50_ms": 1.5,
            "p99_ms": 2.0,
            "device_p50_ms": 1.0,
            "throttled": None,
        }
    ]
    assert facts["failed"] == ["build tsernet-lite-fp16"]
    assert facts["send_back"] == ["proof.json", "proof.html", "steps/build tsernet-lite-fp16.txt"]
    html = page.read_text()
    assert "Simulated GPU: 1 steps failed" in html
    assert "out of &lt;memory&gt;" in html
    assert "&lt;found&gt;" in html
    assert not re.search(r"https?://", html)  # whole without a network


def test_the_networks_are_those_that_are_no_ablation() -> None:
    models = pytest.importorskip("sdi.train.models", reason="PyTorch is not installed")
    assert set(NETWORKS) == {name for name in models.model_names() if not models.model_spec(name).ablation}


def test_without_a_gpu_there_is_nothing_to_prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdi.runtime.engine.cuda import open_cuda

    gpu = SimulatedGpu(count=0)
    install(tensorrt(gpu), cuda_python(gpu), monkeypatch.setitem)
    with pytest.raises(DeviceError, match="no CUDA device answers"):
        prove(Plan(tmp_path), run=lambda step: pytest.fail(step.name))
    open_cuda.cache_clear()


def test_a_step_that_cannot_end_well_is_told_like_any_other(machine: SimulatedGpu, tmp_path: Path) -> None:
    """For real, in processes: no tests where the folder has none."""
    (tmp_path / "none").mkdir()
    proof = prove(Plan(tmp_path, tests=tmp_path / "none", kinds=("tests",)))
    (outcome,) = proof.failed
    assert outcome.exit_code == 5  # pytest's, for no tests
    assert "no tests ran" in outcome.said
    assert "no tests ran" in (tmp_path / "steps" / "tests on the GPU.txt").read_text()


@pytest.mark.slow
def test_the_proof_of_a_simulated_gpu(tmp_path: Path, environment: dict[str, str]) -> None:
    """Builds, golden pictures, speed and parity of MINet, whose weights come with sdi, and the engines beside them."""
    command = "from sdi.runtime.doctor.cli import main; main()"
    options = ("--prove", "-o", str(tmp_path / "proof"), "--network", "minet", "--seconds", "0.01")
    kinds = [part for kind in ("build", "self-test", "bench", "parity") for part in ("--only", kind)]
    done = subprocess.run(
        [sys.executable, "-c", command, *options, *kinds],
        capture_output=True,
        text=True,
        timeout=1500,
        env=environment,
        cwd=tmp_path,
    )
    facts = json.loads((tmp_path / "proof" / "proof.json").read_text())
    steps = {step["name"]: step for step in facts["steps"]}
    assert facts["failed"] == [], done.stderr
    assert steps["golden pictures of all plans"]["answer"]["passed"]
    assert len(steps["golden pictures of all plans"]["answer"]["engines"]) == 5
    assert steps["parity of minet with PyTorch"]["status"] == "passed"
    assert steps["parity of tsernet-lite with PyTorch"]["status"] == "skipped"
    fast = {row["engine"] for row in facts["fast"]}
    assert {"minet-fp32.plan (zero-copy)", "minet-fp32.plan (copies)", "minet-fp16.plan (copies)"} <= fast
    assert "Simulated GPU: all steps passed" in (tmp_path / "proof" / "proof.html").read_text()


@pytest.mark.slow
def test_the_tests_for_a_gpu_pass_on_a_simulated_one(tmp_path: Path, environment: dict[str, str]) -> None:
    """All but the one that asks PyTorch for free memory."""
    command = (sys.executable, "-m", "pytest", str(ROOT / "tests" / "gpu"), "-q", "-n0", "-p", "no:cacheprovider")
    done = subprocess.run(
        [*command, "--deselect", "tests/gpu/test_tensorrt.py::test_ten_thousand_runs_without_growth[tensorrt]"],
        capture_output=True,
        text=True,
        timeout=1500,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-3000:]
