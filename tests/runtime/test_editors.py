"""Editors follow the package: Jedi, which many of them use, finds where a public name is defined."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

import sdi.runtime

jedi = pytest.importorskip("jedi", reason="jedi is not installed: pip install 'sdi[dev]'")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> jedi.Script:
    """A file of somebody's own project that uses every public name, in the environment that runs this test."""
    folder = tmp_path_factory.mktemp("project")
    names = sdi.runtime.__all__
    code = "".join(f"from sdi.runtime import {name}\n" for name in names)
    environment = jedi.create_environment(Path(sys.executable).parents[1], safe=False)
    return jedi.Script(code, path=folder / "mine.py", project=jedi.Project(folder), environment=environment)


@pytest.mark.parametrize("name", sdi.runtime.__all__)
def test_go_to_definition_finds_every_public_name(name: str, script: jedi.Script) -> None:
    line = sdi.runtime.__all__.index(name) + 1
    found = script.goto(line, len(f"from sdi.runtime import {name}"), follow_imports=True)
    source = inspect.getsourcefile(getattr(sdi.runtime, name))
    assert source is not None
    assert [(place.name, Path(place.module_path).resolve()) for place in found] == [(name, Path(source).resolve())]


def test_the_engine_is_opened_where_the_tree_says(script: jedi.Script) -> None:
    (found,) = script.goto(sdi.runtime.__all__.index("open_engine") + 1, 30, follow_imports=True)
    assert found.full_name == "sdi.runtime.engine.open.open_engine"
    assert Path(found.module_path).resolve().parts[-3:] == ("runtime", "engine", "open.py")
    assert "engine" in found.docstring()
