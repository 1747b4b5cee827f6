"""The engines that come with sdi."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.manifest import read_manifest, write_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import ShippedEngine, default_engine, find_engine, shipped_engines
from sdi.runtime.run.engine_list import list_engines

ENGINES = pytest.mark.parametrize("shipped", shipped_engines(), ids=lambda shipped: shipped.name)


@ENGINES
def test_each_is_whole_and_trained(shipped: ShippedEngine) -> None:
    with open_engine(shipped.name, "cpu") as engine:
        assert engine.manifest is not None
        assert not engine.manifest.random_weights
        engine.self_test()


def test_names_are_different_and_the_package_stays_small() -> None:
    names = [shipped.name for shipped in shipped_engines()]
    assert len(set(names)) == len(names)
    assert default_engine() == shipped_engines()[0].path
    root = Path(__file__).parents[2]
    data = [*(root / "runtime" / "shipped").iterdir(), *(root / "train" / "weights").iterdir()]
    assert sum(path.stat().st_size for path in data) < 15e6
    listed = {shipped.path.name for shipped in shipped_engines()}
    assert {path.name for path in data if path.suffix == ".onnx"} == listed, "no engine that no name leads to"


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_engine("minet").name == "minet-fp32.onnx"
    Path("minet").write_bytes(b"mine")
    assert find_engine("minet") == Path("minet")
    assert find_engine("no-such") == Path("no-such")


def test_the_list_shows_scores_size_and_speed() -> None:
    program = [sys.executable, "-c", "from sdi.runtime.run.cli import main; main()", "--list", "--threads", "1"]
    table = subprocess.run(program, capture_output=True, text=True, check=True, env=None).stdout
    rows = json.loads(subprocess.run([*program, "--json"], capture_output=True, text=True, check=True).stdout)[
        "engines"
    ]
    assert [row["name"] for row in rows] == [shipped.name for shipped in shipped_engines()]
    for row, shipped in zip(rows, shipped_engines(), strict=True):
        manifest = read_manifest(shipped.path)
        assert manifest is not None
        assert (row["bytes"], row["precision"]) == (shipped.path.stat().st_size, manifest.precision)
        assert row["ms"] > 0
        assert row["name"] in table
        assert f"{row['scores']['S']:.4f}"[1:] in table


def test_the_list_names_the_engine_that_cannot_run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network with an operator that no ONNX Runtime has takes the place of one; the others are timed."""
    good, other = shipped_engines()[2], shipped_engines()[0]
    broken = replace(other, name="no-kernel", path=tmp_path / "no-kernel.onnx")
    model = onnx.load(other.path)
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "NoSuchOperator"
    onnx.save(model, broken.path)
    manifest = read_manifest(other.path)
    assert manifest is not None
    digest = sha256_of(broken.path)
    write_manifest(
        broken.path,
        replace(manifest, sha256=digest, onnx_sha256=digest, bytes=broken.path.stat().st_size),
    )
    monkeypatch.setattr("sdi.runtime.engine.shipped.shipped_engines", lambda: (broken, good))
    list_engines("cpu", 1, json=True)
    rows = json.loads(capsys.readouterr().out)["engines"]
    assert [(row["name"], row["ms"] is None) for row in rows] == [("no-kernel", True), (good.name, False)]
    assert "cannot load" in rows[0]["error"]
    assert "NoSuchOperator" in rows[0]["error"]
    list_engines("cpu", 1, json=False)
    streams = capsys.readouterr()
    assert good.name in streams.out
    assert "no-kernel cannot run here: ONNX Runtime" in streams.err
    monkeypatch.setattr("sdi.runtime.engine.shipped.shipped_engines", lambda: (broken,))
    with pytest.raises(InputError, match="NoSuchOperator"):
        list_engines("cpu", 1, json=True)


@pytest.mark.slow
@ENGINES
def test_scores_are_those_of_the_test_pictures(shipped: ShippedEngine, steel_data: Path) -> None:
    program = "from sdi.train.eval_cli import main; main()"
    given = ["--engine", shipped.name, "--data", steel_data, "--json", "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", program, *given], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)["scores"]["all"]
    assert measured["pictures"] == 360
    assert {name: measured[name] for name in shipped.scores} == pytest.approx(shipped.scores, abs=6e-5)
