"""Plans: what is found wrong with one before its library sees it. Real plans, built without a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sdi.runtime.common.errors import DeviceError, InputError, SdiError
from sdi.runtime.common.files import sha256_of
from sdi.runtime.engine.cuda import open_cuda
from sdi.runtime.engine.manifest import manifest_path, read_manifest, write_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.plan import (
    HEADER_BYTES,
    PlanHeader,
    check_gpu,
    check_version,
    plan_tag,
    runs_on,
    tag_of,
    verify_plan,
)
from sdi.runtime.engine.tensorrt_library import TENSORRT, TENSORRT_RTX, Library, version_of

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
engines = pytest.importorskip("sdi.export.engines")


def _gpu() -> bool:
    with suppress(DeviceError):
        open_cuda()
        return True
    return False


no_gpu = pytest.mark.skipif(_gpu(), reason="a GPU answers here")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Callable[..., Path]) -> Path:
    """A folder with two plans of two networks, their ONNX files and all manifests."""
    from sdi.export.plan import engine_from_onnx

    folder = tmp_path_factory.mktemp("plans")
    for name, size in (("tiny", (32, 48)), ("other", (64, 48))):
        onnx = tiny_engine(folder / f"{name}.onnx", frame_hw=size, batch=1)
        manifest = read_manifest(onnx)
        assert manifest is not None
        write_manifest(onnx, replace(manifest, model=name))
        engine_from_onnx(onnx, engines.BUILDERS["tensorrt-rtx"], engines.BuildOptions(), folder)
    return folder


@pytest.fixture
def plan(built: Path, tmp_path: Path) -> Path:
    """A copy of the first plan, to be spoiled."""
    for name in ("tiny.plan", "tiny.plan.json"):
        shutil.copy(built / name, tmp_path / name)
    return tmp_path / "tiny.plan"


def _header(path: Path) -> PlanHeader:
    header = PlanHeader.of(path.read_bytes()[:HEADER_BYTES])
    assert header is not None
    return header


def test_the_header_of_a_real_plan_is_read(built: Path) -> None:
    path = built / "tiny.plan"
    assert _header(path) == PlanHeader(TENSORRT_RTX, version_of(trt), path.stat().st_size)


def test_whose_plan_it_is_stands_in_the_file(built: Path) -> None:
    for name in ("tiny", "other"):
        manifest = read_manifest(built / f"{name}.plan")
        assert manifest is not None
        assert plan_tag(built / f"{name}.plan") == tag_of(manifest) == f"sdi:{name}:{sha256_of(built / f'{name}.onnx')}"
    assert plan_tag(built / "tiny.onnx") is None


def test_the_manifest_says_what_the_plan_is(built: Path) -> None:
    manifest = read_manifest(built / "tiny.plan")
    assert manifest is not None
    verify_plan(built / "tiny.plan", _header(built / "tiny.plan"), manifest)
    assert manifest.target == "tensorrt-rtx"
    assert manifest.builder["tensorrt-rtx"] == trt.__version__
    assert manifest.compute_capabilities == ("8.0", "8.6", "8.9", "12.0+")
    assert manifest.frame_hw == (32, 48)
    assert manifest.onnx_sha256 == sha256_of(built / "tiny.onnx")


@no_gpu
def test_without_a_gpu_it_is_a_lost_device(plan: Path, sdi_run: Callable[..., tuple[int, str, str]]) -> None:
    with pytest.raises(DeviceError, match=r"tiny.plan is a TensorRT-RTX plan: no CUDA device answers"):
        open_engine(plan)
    code, out, err = sdi_run("--engine", plan, "--source", "demo")
    assert (code, out) == (3, "")
    assert "or run" in err
    assert "Traceback" not in err


def test_it_runs_on_no_cpu(plan: Path) -> None:
    with pytest.raises(InputError, match=r"runs on a GPU; for device cpu use .*tiny\.onnx"):
        open_engine(plan, device="cpu")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _cut_alone(path: Path) -> None:
    _cut(path)
    manifest_path(path).unlink()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_cut, r"is truncated: it has \d+ bytes, it should have \d+"),
        (_cut_alone, r"is truncated: it has \d+ bytes, it should have \d+"),
        (_flip, r"does not match the SHA-256 in tiny\.plan\.json: it is damaged"),
        (lambda path: path.write_bytes(b"ftrt" + path.read_bytes()[4:]), "is a TensorRT plan, its manifest is of"),
        (lambda path: path.write_bytes(b"\x13\x37" * 99), "is no engine: expected an ONNX file or a TensorRT plan"),
    ],
    ids=["truncated", "truncated-alone", "flipped", "other-library", "foreign"],
)
def test_a_spoilt_plan_is_refused(
    spoil: Callable[[Path], object], text: str, plan: Path, sdi_run: Callable[..., tuple[int, str, str]]
) -> None:
    spoil(plan)
    with pytest.raises(InputError, match=text) as error:
        open_engine(plan)
    assert "sdi-export" in str(error.value)
    assert sdi_run("--engine", plan, "--source", "demo")[0] == 2


def test_another_networks_plan_is_named(plan: Path, built: Path) -> None:
    shutil.copy(built / "other.plan", plan)
    with pytest.raises(InputError, match=r"tiny\.plan is a plan of other, tiny\.plan\.json describes tiny") as error:
        open_engine(plan)
    assert f"sdi-export --onnx {plan.with_suffix('.onnx')} --target tensorrt-rtx" in str(error.value)


def test_a_plan_of_an_older_training_is_told_from_damage(plan: Path) -> None:
    manifest = read_manifest(plan)
    assert manifest is not None
    write_manifest(plan, replace(manifest, onnx_sha256="0" * 64, sha256="0" * 64))
    with pytest.raises(InputError, match=r"is a plan of another tiny, .* describes tiny from 000000000000"):
        open_engine(plan)


def test_another_version_of_the_library_is_refused(plan: Path, sdi_run: Callable[..., tuple[int, str, str]]) -> None:
    data = bytearray(plan.read_bytes())
    data[25] += 1
    plan.write_bytes(data)
    manifest = read_manifest(plan)
    assert manifest is not None
    write_manifest(plan, replace(manifest, sha256=sha256_of(plan)))
    major, minor, patch = version_of(trt)[:3]
    text = (
        rf"was built by TensorRT-RTX {major}\.{minor + 1}\.{patch}, TensorRT-RTX {major}\.{minor}\.{patch} is installed"
    )
    with pytest.raises(DeviceError, match=text):
        open_engine(plan)
    code, _, err = sdi_run("--engine", plan, "--source", "demo")
    assert code == 3
    assert f"sdi-export --onnx {plan.with_suffix('.onnx')} --target tensorrt-rtx" in err


@pytest.mark.parametrize(
    ("built_by", "installed", "compatible", "runs"),
    [
        ((10, 3, 0, 26), "10.3.0", False, True),
        ((10, 3, 0, 26), "10.3.0.30", False, True),
        ((10, 3, 0, 26), "10.13.3.9", False, False),
        ((10, 3, 0, 26), "10.13.3.9", True, True),
        ((10, 13, 3, 9), "11.0.0", True, True),
        ((10, 13, 3, 9), "10.3.0", True, False),
        ((10, 13, 3, 9), "12.0.0", True, False),
        ((0, 0, 0, 0), "10.3.0", False, True),  # the plan does not say: left to the library
    ],
)
def test_which_versions_run_a_plan(
    built_by: tuple[int, ...], installed: str, compatible: bool, runs: bool, built: Path
) -> None:
    manifest = read_manifest(built / "tiny.plan")
    assert manifest is not None
    manifest = replace(manifest, build={"version_compatible": compatible})
    arguments = (Path("x.plan"), PlanHeader(TENSORRT, built_by, None), manifest, SimpleNamespace(__version__=installed))
    if runs:
        check_version(*arguments)
    else:
        with pytest.raises(DeviceError, match=r"sdi-export --onnx x\.onnx --target tensorrt$"):
            check_version(*arguments)


@pytest.mark.parametrize(
    ("listed", "capability", "runs"),
    [
        (("8.7",), "8.7", True),
        (("8.7",), "8.9", False),
        (("8.0", "8.6", "12.0+"), "9.0", False),
        (("8.0", "8.6", "12.0+"), "12.1", True),
        (("8.0+",), "12.0", True),
        (("8.0+",), "7.5", False),
    ],
)
def test_which_gpus_run_a_plan(listed: tuple[str, ...], capability: str, runs: bool) -> None:
    assert runs_on(listed, capability) is runs


def test_another_gpu_is_refused(built: Path) -> None:
    path = built / "tiny.plan"
    manifest = read_manifest(path)
    assert manifest is not None
    check_gpu(path, _header(path), manifest, "RTX 4090", "8.9", trt)
    text = r"built for GPUs of compute capability 8\.0, 8\.6, 8\.9, 12\.0\+, RTX 2080 has 7\.5; build it again"
    with pytest.raises(DeviceError, match=text) as error:
        check_gpu(path, _header(path), manifest, "RTX 2080", "7.5", trt)
    assert str(error.value).endswith("--target tensorrt-rtx --compute-capability 7.5")
    with pytest.raises(DeviceError, match=r"Orin has 8\.7; .* --target tensorrt$"):  # TensorRT-RTX knows no 8.7
        check_gpu(path, _header(path), manifest, "Orin", "8.7", trt)


def test_a_library_that_is_not_installed_says_so() -> None:
    absent = Library("absent", "Absent", b"none", ("absent_library",), "pip install absent")
    with pytest.raises(DeviceError, match=r"Absent cannot be loaded: absent_library is not installed; pip install"):
        absent.load()


@no_gpu
def test_random_damage_is_an_sdi_error(plan: Path) -> None:
    data = plan.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        broken = bytearray(data[: int(rng.integers(4, len(data)))] if trial % 2 else data)
        for place in rng.integers(4, min(len(broken), 64), 3).tolist():
            broken[place] = int(rng.integers(0, 256))
        plan.write_bytes(broken)
        with pytest.raises(SdiError):
            open_engine(plan)
