"""In continuous integration a test that skips is a failure, but for the few reasons that tests/conftest.py allows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_runs():
    pass

def test_wants_a_broker():
    pytest.skip("no broker is installed")

def test_wants_a_gpu():
    pytest.skip("no CUDA device answers")

def test_wants_data(steel_data):
    raise AssertionError("there is none")

@pytest.mark.xfail(reason="known")
def test_known():
    raise AssertionError

def test_library():
    pytest.importorskip("no_such_library")
"""
WHOLE_FILE = 'import pytest\npytest.importorskip("no_such_library")\n'


@pytest.mark.parametrize(
    ("environment", "counts"),
    [
        ({}, "1 passed, 5 skipped, 1 xfailed"),
        ({"SDI_NO_SKIPS": "1"}, "2 failed, 1 passed, 2 skipped, 1 xfailed, 1 error"),
        ({"SDI_NO_SKIPS": "1", "SDI_DATA": "/no/such"}, "2 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors"),
    ],
)
def test_skips_are_failures_where_all_should_run(environment: dict[str, str], counts: str, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_file.py").write_text(WHOLE_FILE)
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("SDI_", "PYTEST"))}
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--continue-on-collection-errors"]
    done = subprocess.run(
        [sys.executable, *words, "--rootdir", str(tmp_path), str(tmp_path)],
        env={**rest, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert counts in done.stdout.splitlines()[-1], done.stdout
    assert ("no broker is installed" in done.stdout) == bool(environment)
