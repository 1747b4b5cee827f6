"""Old names of options: they work, are not shown, and name the new ones."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from sdi.calibration.cli import main as calibrate
from sdi.runtime.bench.cli import main as bench
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.renamed import renamed_option
from sdi.runtime.run.cli import main as run


def test_the_new_name_needs_no_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert renamed_option("--new", "value", "--old", None) == "value"
    assert renamed_option("--new", None, "--old", None) is None
    assert capsys.readouterr().err == ""


def test_the_old_name_gives_its_value_and_names_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert renamed_option("--new", None, "--old", 0) == 0
    assert capsys.readouterr().err == "warning: --old is now --new\n"


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(InputError, match=r"--old is the old name of --new; give --new alone"):
        renamed_option("--new", 1, "--old", 1)


COMMANDS = [
    (run, ("--source", "demo"), "--resolution", "--size", "big", "--resolution must be a width and a height"),
    (bench, ("--engine", "no.onnx"), "--frame", "--size", "200", "--frame takes HxW"),
    (calibrate, ("--images", "nowhere"), "--count", "--size", "5", "nowhere"),
]


@pytest.mark.parametrize(("main", "needed", "new", "old", "value", "text"), COMMANDS)
def test_commands_take_the_old_name_and_show_the_new_one(
    main: Callable[[], None],
    needed: tuple[str, ...],
    new: str,
    old: str,
    value: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def error(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sdi", *needed, *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
        return capsys.readouterr().err

    assert text in error(new, value)
    warned = error(old, value)
    assert warned.startswith(f"warning: {old} is now {new}\n")
    assert text in warned
    assert f"{old} is the old name of {new}" in error(old, value, new, value)
    monkeypatch.setattr(sys, "argv", ["sdi", "--help"])
    with pytest.raises(SystemExit):
        main()
    help_text = capsys.readouterr().out
    assert new in help_text
    assert old not in help_text
