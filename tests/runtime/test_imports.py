"""Which way imports run, and what the lean runtime never loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "runtime": {"runtime"},
    "train": {"train", "runtime"},
    "calibration": {"calibration", "runtime"},
    "export": {"export", "calibration", "train", "runtime"},
}


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, wherever in it."""
    package = ["sdi", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_run_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in _imports(path)
        if name.split(".")[0] == "sdi" and name.split(".")[1] not in ALLOWED[folder]
    ]
    assert not wrong


def test_the_runtime_imports_no_training_library() -> None:
    heavy = {"torch", "torchvision", "onnx", "onnxscript", "lightning", "lightning_fabric", "scipy", "PIL"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / "runtime").rglob("*.py"))
        for name in _imports(path)
        if name.split(".")[0] in heavy
    ]
    assert not wrong


def _loaded(code: str, *arguments: object) -> set[str]:
    """Top-level modules that a fresh Python has loaded after `code`."""
    code += "\nimport sys; print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("module", ["sdi.runtime", "sdi.runtime.run.cli"])
def test_importing_the_runtime_is_light(module: str) -> None:
    assert not _loaded(f"import {module}") & {"torch", "onnx", "cv2", "onnxruntime", "numpy"}


def test_every_public_name_is_there() -> None:
    import sdi.runtime

    for name in sdi.runtime.__all__:
        assert getattr(sdi.runtime, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sdi.runtime.nothing


def test_a_run_loads_neither_torch_nor_onnx(make_engine: Callable[..., Path], tmp_path: Path) -> None:
    code = (
        "import sys; from sdi.runtime.run.cli import main\n"
        "sys.argv = ['sdi-run', '--engine', sys.argv[1], '--source', 'demo', '--masks', sys.argv[2]]\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code"
    )
    loaded = _loaded(code, make_engine(), tmp_path / "maps")
    assert loaded & {"onnxruntime"}
    assert not loaded & {"torch", "torchvision", "onnx", "onnxscript"}
    assert len(list((tmp_path / "maps").glob("*.png"))) == 12
