"""The programs in examples/ run, and do what they say."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import uvicorn

from sdi.runtime import InputError, Loop, default_engine, find_regions, open_engine
from sdi.runtime.common.strip import draw_strip

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_what_a_program_imports_of_sdi_is_there(path: Path) -> None:
    """All that can be asked of those that want ROS or Triton."""
    tree = ast.parse(path.read_text())
    compile(tree, path, "exec")
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    ours = [node for node in imported if (node.module or "").split(".")[0] == "sdi"]
    assert ours
    for node in ours:
        module = importlib.import_module(node.module or "")
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_list_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert [
        path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb") and path.name not in page
    ] == []


def test_a_loop_of_ones_own_finds_what_is_drawn() -> None:
    clean, *rest = _run("frames", "minet").splitlines()
    assert clean == "frame 0: clean"
    assert len(rest) == 3
    assert all(" at " in line for line in rest)


def test_lines_become_frames_that_overlap() -> None:
    line_scan = _module("line_scan")
    lines = np.arange(100 * 6, dtype=np.uint16).reshape(100, 6).astype(np.uint8)
    with line_scan.LineScanSource(iter(lines), height=40, overlap=10) as source:
        frames = list(source.frames())
    assert [frame.name for frame in frames] == ["line_00000000", "line_00000030", "line_00000060"]
    for frame, first in zip(frames, (0, 30, 60), strict=True):
        assert np.array_equal(frame.image, np.repeat(lines[first : first + 40, :, None], 3, axis=2))


def test_a_source_that_is_stopped_ends() -> None:
    line_scan = _module("line_scan")
    taken = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            yield np.zeros(6, np.uint8)

    source = line_scan.LineScanSource(endless(), height=4, overlap=0)
    for frame in source.frames():
        taken.append(frame)
        if len(taken) == 3:
            source.stop()
    assert len(taken) == 3


def test_the_line_scan_program_sees_the_coil() -> None:
    printed = _run("line_scan").splitlines()
    assert len(printed) == 6
    assert printed[-1] == f"5 frames, {sum(': 0 defects' not in line for line in printed[:5])} of them with defects"


def test_the_table_holds_every_defect_of_every_frame(tmp_path: Path) -> None:
    table_file = tmp_path / "defects.sqlite"
    printed = _run("defect_table", table_file)
    rows = sqlite3.connect(table_file).execute("SELECT frame, count(*) FROM defects GROUP BY frame").fetchall()
    expected = {}
    with open_engine(default_engine()) as engine:
        for kind in ("clean", "patch"):
            regions = find_regions(engine(draw_strip(kind, seed=1)[0]))
            if regions:
                expected[f"{kind}_1"] = len(regions)
    assert {name: count for name, count in rows if name in ("clean_1", "patch_1")} == expected
    assert printed.count(" defects") == len(rows) >= 9
    kinds = sqlite3.connect(table_file).execute("SELECT kind FROM events ORDER BY rowid").fetchall()
    assert kinds[0] == ("started",)
    assert kinds[-1] == ("stopped",)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, and they are no database\n" * 20)
    with pytest.raises(InputError, match="cannot hold the table of defects"):
        _module("defect_table").TableSink(text)


def test_a_table_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    defect_table, line_scan = _module("defect_table"), _module("line_scan")
    sink = defect_table.TableSink(tmp_path / "defects.sqlite")
    other = sqlite3.connect(tmp_path / "defects.sqlite")
    other.execute("DROP TABLE defects")
    other.commit()
    lines = draw_strip("patch", seed=1)[0][:, :, 0]
    with (
        open_engine("minet") as engine,
        line_scan.LineScanSource(iter(lines), 200, 0) as source,
        sink,
        pytest.raises(InputError, match="takes no more rows"),
    ):
        Loop(source, engine, [sink]).run()


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The address of the service, behind a real socket."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SDI_ENGINE", "minet")
    server = uvicorn.Server(uvicorn.Config(_module("service").app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # who calls before it has started waits in its queue
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)
    patch.undo()
    assert not thread.is_alive()


def _post(url: str, data: bytes) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def test_requests_on_many_threads_are_answered_as_one_by_one(service: str) -> None:
    frames = [draw_strip(kind, seed)[0] for seed in range(4) for kind in ("patch", "clean", "scratch")]
    with open_engine("minet") as engine:
        expected = [engine(frame) for frame in frames]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda frame: _post(f"{service}/saliency", _png(frame)), frames))
    for (code, png), saliency in zip(answers, expected, strict=True):
        assert code == 200
        decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded is not None
        assert np.array_equal(decoded, saliency)
    code, text = _post(f"{service}/defects?min_area=30", _png(frames[0]))
    assert code == 200
    assert json.loads(text) == [region.to_dict() for region in find_regions(expected[0], 0.5, 30)] != []


def test_bad_requests_are_named(service: str) -> None:
    code, text = _post(f"{service}/defects", b"no picture")
    assert (code, text.startswith(b"cannot decode image of the request")) == (422, True)
    code, text = _post(f"{service}/defects?threshold=2", _png(draw_strip("patch", 0)[0]))
    assert (code, text.startswith(b"threshold must be above 0")) == (422, True)
    assert _post(f"{service}/saliency", bytes(50_000_001))[0] == 413


def test_the_notebook_runs_from_top_to_bottom() -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]  # kept without: they would only grow stale
    # A kernel needs over a minute to start where many tests share few cores. It raises on the first error.
    NotebookClient(notebook, timeout=300, startup_timeout=300, kernel_name="python3").execute()
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("image/png" in output.get("data", {}) for cell in codes for output in cell.outputs) == 3
    assert float(codes[-2].outputs[0]["data"]["text/plain"]) > 0.5
