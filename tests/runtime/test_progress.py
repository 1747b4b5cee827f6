"""The seam for progress: the silent default, and the console's."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from sdi.runtime.common import progress as module
from sdi.runtime.common.progress import SILENT, ConsoleProgress, Progress


def console(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(module, "log", Console(file=written, force_terminal=terminal, width=100))
    return written


@pytest.mark.parametrize("progress", [SILENT, ConsoleProgress()])
def test_tracking_passes_on_every_item_in_order(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    console(monkeypatch, terminal=False)
    assert list(progress.track([3, 1, 2], "counting")) == [3, 1, 2]
    assert list(progress.track((number for number in (3, 1, 2)), "counting", 3)) == [3, 1, 2]


def test_the_silent_progress_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    SILENT.log("a line")
    with SILENT.task("work", 2) as task:
        task.advance()
        task.describe("other work")
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_the_task_and_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=True)
    with ConsoleProgress().task("work [of] the day", 2) as task:
        task.advance(2)
        task.describe("other [work]")
    assert "other [work]" in written.getvalue()
    assert "2/2" in written.getvalue()


def test_without_a_terminal_there_are_log_lines_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=False)
    progress = ConsoleProgress()
    progress.log("a line")
    list(progress.track(range(3), "counting"))
    assert written.getvalue().strip() == "a line"


def test_bars_may_be_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=True)
    progress = ConsoleProgress()
    with progress.task("outer", 1) as outer:
        list(progress.track(range(5), "inner"))
        outer.advance()
    assert "inner" in written.getvalue()
    assert "5/5" in written.getvalue()


def test_an_error_of_the_work_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    console(monkeypatch, terminal=True)

    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match=r"^broken$"):
        list(ConsoleProgress().track(items(), "counting"))
