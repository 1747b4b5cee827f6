"""What a Jetson brings stands in one list; extras, Dockerfiles, documents and checkers are held to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
VERSIONS = tomllib.loads((ROOT / "tools" / "jetson" / "versions.toml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()


def _extra(name: str) -> dict[str, Requirement]:
    requirements = [Requirement(text) for text in PROJECT["project"]["optional-dependencies"][name]]
    return {requirement.name: requirement for requirement in requirements}


def _base() -> dict[str, Requirement]:
    return {r.name: r for r in map(Requirement, PROJECT["project"]["dependencies"])}


@pytest.mark.parametrize("jetpack", [VERSIONS["jetpack6"], VERSIONS["jetpack7"]], ids=lambda j: j["jetpack"])
def test_extras_take_what_jetpack_has(jetpack: dict[str, Any]) -> None:
    extra = _extra(jetpack["extra"])
    major = jetpack["cuda"].partition(".")[0]  # within it, a newer binding runs on an older driver
    assert any(f"{major}.{minor}.1" in extra["cuda-bindings"].specifier for minor in range(10))
    assert "12.9.0" not in extra["cuda-bindings"].specifier  # holds Python's lock while it waits for the GPU
    assert ("13.0" in extra["cuda-bindings"].specifier) == (jetpack["jetpack"] >= "7")
    for name in ("numpy", "onnxruntime"):
        if name in jetpack and name in extra:
            assert f"{jetpack[name]}.9" in extra[name].specifier
    assert not any(name.startswith("opencv") for name in extra), "a wheel of OpenCV would hide JetPack's"


def test_jetpack_6_stays_with_numpy_1_and_the_last_onnx_runtime_for_its_python() -> None:
    extra, jetpack = _extra("jetson6"), VERSIONS["jetpack6"]
    assert "2.0.0" not in extra["numpy"].specifier
    major, minor = map(int, jetpack["onnxruntime"].split("."))
    assert f"{major}.{minor + 1}.0" not in extra["onnxruntime"].specifier


def test_what_is_tried_is_what_jetpack_6_has_and_what_the_package_takes() -> None:
    tried, jetpack = VERSIONS["tried"], VERSIONS["jetpack6"]
    declared = {**_base(), **_extra("jetson6")}
    for name, key in (("numpy", "numpy"), ("opencv-python-headless", "opencv"), ("onnxruntime", "onnxruntime")):
        assert tried[name].startswith(jetpack[key] + ".")
        assert tried[name] in declared[name].specifier


@pytest.mark.parametrize("jetpack", [VERSIONS["jetpack6"], VERSIONS["jetpack7"]], ids=lambda j: j["jetpack"])
def test_the_document_says_the_same(jetpack: dict[str, Any]) -> None:
    (table,) = re.findall(r"^\| \| JetPack .*?(?=\n\n)", DEPLOY, re.M | re.S)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    column = next(i for i, cell in enumerate(rows[0]) if cell.startswith(f"JetPack {jetpack['jetpack']}"))
    said = {row[0]: row[column] for row in rows}
    assert said["Jetson Linux, Ubuntu"] == f"{jetpack['linux']}, {jetpack['ubuntu']}"
    assert said["Python"] == jetpack["python"]
    assert said["CUDA"].split()[0] == jetpack["cuda"]
    assert said["TensorRT"].startswith(jetpack["tensorrt"])
    assert said["extra of sdi"] == f"`{jetpack['extra']}`"
    assert ("image" not in jetpack) or f"`{jetpack['image']}`" in said["container image"]


def test_the_document_names_what_was_emulated() -> None:
    for name, version in VERSIONS["tried"].items():
        assert f"{name} {version}" in DEPLOY


def test_the_jetson_container_is_jetpack_6s() -> None:
    jetpack = VERSIONS["jetpack6"]
    lines = (ROOT / "deploy" / "jetson.Dockerfile").read_text()
    for key in ("image", "ubuntu", "cuda", "tensorrt"):
        assert jetpack[key] in lines
    assert f"[{jetpack['extra']},line]" in lines
    assert f"l4t-jetpack image (tag {jetpack['image']}" in lines
    assert f"NVIDIA_L4T_JETPACK_IMAGE:{jetpack['image']}" in DEPLOY


def test_checkers_and_the_package_know_the_oldest_python() -> None:
    oldest = VERSIONS["jetpack6"]["python"]
    assert oldest in Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
