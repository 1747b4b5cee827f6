"""What runs and builds plans is type-checked against the real bindings, whose stubs are made from the library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
pytest.importorskip("mypy", reason="mypy is not installed")

ROOT = Path(__file__).resolve().parents[2]
STUBGEN = "import sys; from mypy.stubgen import main; main(sys.argv[1:])"  # mypy compiles it: no `-m`
CONFIG = """[mypy]
ignore_missing_imports = True
follow_imports = silent
follow_untyped_imports = False
check_untyped_defs = True
warn_unused_ignores = False

[mypy-tensorrt_rtx_bindings.*]
ignore_errors = True
"""


def _mypy(folder: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--config-file", folder / "mypy.ini", "--cache-dir", folder / "cache"]
    return subprocess.run(
        [str(part) for part in (*command, *files)],
        capture_output=True,
        text=True,
        timeout=300,
        env={"MYPYPATH": str(folder), "PATH": "/usr/bin:/bin"},
    )


def _parsable(stub: str) -> str:
    """Open the signatures that the bindings' own texts get wrong (a parameter without default after one with)."""
    lines = stub.splitlines()
    while True:
        try:
            ast.parse("\n".join(lines))
            return "\n".join(lines) + "\n"
        except SyntaxError as error:
            number = (error.lineno or 1) - 1
            fault = lines[number]
            if not fault.lstrip().startswith("def "):
                raise
            lines[number] = fault[: fault.index("(")] + "(self, *args, **kwargs): ..."


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    made = subprocess.run(
        [sys.executable, "-c", STUBGEN, "-p", "tensorrt_rtx_bindings", "--inspect-mode", "-o", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert made.returncode == 0, made.stderr
    for stub in (folder / "tensorrt_rtx_bindings").glob("*.pyi"):
        stub.write_text(_parsable(stub.read_text()))
    (folder / "mypy.ini").write_text(CONFIG)
    return folder


def test_the_calls_into_tensorrt_are_typed_right(stubs: Path) -> None:
    files = [*(ROOT / "runtime" / "engine" / f"{name}.py" for name in ("loaded_plan", "slot", "tensorrt"))]
    files.append(ROOT / "export" / "engines" / "tensorrt.py")
    done = _mypy(stubs, *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_call_would_be_seen(stubs: Path) -> None:
    source = (ROOT / "runtime" / "engine" / "slot.py").read_text()
    assert "context.execute_async_v3, self._stream" in source
    wrong = stubs / "wrong.py"
    wrong.write_text(source.replace("execute_async_v3,", "execute_async_v4,"))
    done = _mypy(stubs, wrong)
    assert done.returncode == 1
    assert '"IExecutionContext" has no attribute "execute_async_v4"' in done.stdout
