"""No function takes a train of arguments: what belongs together travels as one value."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
AT_MOST = 7
FOLDERS = ("runtime", "train", "calibration", "export")


Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function) -> list[str]:
    """Names of a function's parameters, without `self` and `cls`."""
    arguments = function.args
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    found += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return [each.arg for each in found if each.arg not in ("self", "cls")]


def too_long(source: str) -> Iterator[tuple[Function, int]]:
    """Functions of a module that take too many parameters, and how many; a command's are options, so it may."""
    nodes = list(ast.walk(ast.parse(source)))
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "single_command"]
    commands = {ast.unparse(argument) for call in calls for argument in call.args}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in commands:
            count = len(parameters(node))
            if count > AT_MOST:
                yield node, count


def test_parameters_are_counted() -> None:
    (function,) = ast.parse("def f(self, a, /, b, *c, d=1, **e): pass").body
    assert isinstance(function, ast.FunctionDef)
    assert parameters(function) == ["a", "b", "d", "c", "e"]


def test_a_command_may_take_more() -> None:
    names = ", ".join("abcdefgh")
    long = f"def f({names}): pass"
    assert [(function.name, count) for function, count in too_long(long)] == [("f", 8)]
    assert not list(too_long(f"{long}\nsingle_command(f)"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_function_takes_more_than_seven_parameters(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name} takes {count}"
        for path in files
        for function, count in too_long(path.read_text(encoding="utf-8"))
    ]
    assert not wrong
