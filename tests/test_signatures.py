"""No function takes a train of arguments: what belongs together travels as one value."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
AT_MOST = 7
FOLDERS = ("runtime", "train", "calibration", "export")


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of a function's parameters, without `self` and `cls`."""
    arguments = function.args
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    found += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return [each.arg for each in found if each.arg not in ("self", "cls")]


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether every parameter is an option of a command line, which typer reads off the signature."""
    annotations = ["" if each.annotation is None else ast.unparse(each.annotation) for each in function.args.args]
    # Those of several commands are named in runtime/common/options.py.
    return all("typer." in annotation or annotation.endswith("Option") for annotation in annotations)


def test_parameters_are_counted() -> None:
    (function,) = ast.parse("def f(self, a, /, b, *c, d=1, **e): pass").body
    assert isinstance(function, ast.FunctionDef)
    assert parameters(function) == ["a", "b", "d", "c", "e"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_function_takes_more_than_seven_arguments(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name} takes {len(parameters(function))}"
        for path in files
        for function in _functions(path)
        if len(parameters(function)) > AT_MOST and not _is_command(function)
    ]
    assert not long
