"""The rooms of the runtime and the direction of imports between them: no circle, and no arrow but those below.

`python tests/runtime/test_rooms.py` prints the rooms, the arrows and the circles.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"

# The architecture, from the bottom up. A room is a folder, or a file of what travels through the loop.
ARROWS: dict[str, set[str]] = {
    "common": set(),
    "region": set(),
    "frame": {"region"},
    "records": {"frame"},
    "engine": {"common"},
    "inspection": {"common", "frame", "records", "region"},
    "sources": {"common", "frame"},
    "sinks": {"common", "frame", "inspection", "records"},  # overlays and the page draw by the rule for defects
    "pipeline": {"common", "engine", "frame", "inspection", "sinks", "sources"},
    "doctor": {"common", "engine"},
    "bench": {"common", "doctor", "engine", "frame", "pipeline", "sources"},  # the doctor reads the GPU's state
    "run": {"bench", "common", "engine", "frame", "inspection", "pipeline", "sinks", "sources"},  # --list measures
}


def room_of(path: Path) -> str:
    """The folder of a file of the runtime; the name of a file that lies in none."""
    parts = path.relative_to(RUNTIME).with_suffix("").parts
    return parts[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules of the runtime that a file imports, wherever in it and for whatever use."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "sdi.runtime":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("sdi.runtime."))


def arrows() -> dict[str, set[str]]:
    """Room -> rooms that it imports. The package's own file, which offers all public names, is left out."""
    found: dict[str, set[str]] = {}
    for path in sorted(RUNTIME.rglob("*.py")):
        if path == RUNTIME / "__init__.py":
            continue
        room = room_of(path)
        others = {name.split(".")[2] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        found[room] = found.get(room, set()) | (others - {room})
    return found


def file_arrows() -> dict[str, set[str]]:
    """Module -> modules that it imports when it is loaded: not within a function, nor for types alone."""
    found: dict[str, set[str]] = {}
    for path in sorted(RUNTIME.rglob("*.py")):
        name = ".".join(("sdi.runtime", *path.relative_to(RUNTIME).with_suffix("").parts)).removesuffix(".__init__")
        body = ast.parse(path.read_text(encoding="utf-8")).body
        loaded = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        found[name] = {other for node in loaded for other in imported(node)}
    return found


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other; empty where imports run one way."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph.get(node, ())
        return seen

    reached = {node: reach(node) for node in graph}
    groups = {
        tuple(sorted(other for other in graph if other in reached[node] and node in reached[other]))
        for node in graph
        if node in reached[node]
    }
    return [list(group) for group in sorted(groups)]


def test_rooms_import_as_the_architecture_allows() -> None:
    assert arrows() == ARROWS


def test_there_is_no_circle_between_rooms() -> None:
    assert circles(arrows()) == []


def test_there_is_no_circle_between_files() -> None:
    assert circles(file_arrows()) == []


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"d"}}, [["a", "b", "c"], ["d"]]),
    ],
)
def test_circles_are_found(graph: dict[str, set[str]], expected: list[list[str]]) -> None:
    assert circles(graph) == expected


if __name__ == "__main__":
    graph = arrows()
    for room, others in graph.items():
        print(f"{room} -> {', '.join(sorted(others)) or 'nothing'}")
    print(f"{len(graph)} rooms, {sum(map(len, graph.values()))} arrows, circles: {circles(graph) or 'none'}")
