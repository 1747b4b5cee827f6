"""`sdi-run`'s options for defects, messages and the page, as users get them wrong and right."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

WAIT_S = 60.0
Run = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--roi", "1,2,3"), "--roi '1,2,3' is neither x,y,w,h nor a polygon"),
        (("--roi", "5000,5000,10,10"), "lies within --roi; give it in pixels of the picture"),
        (("--mm-per-pixel", "0"), "mm-per-pixel must be above 0"),
        (("--threshold", "0"), "threshold must be above 0"),
        (("--http", "nowhere"), "--http 'nowhere' is no address"),
        (("--http", "0.0.0.0:0"), "lets others read: pass --token"),
        (("--http", "127.0.0.1:0", "--token", "short"), "--token must be 16 letters and digits or more"),
        (("--http", "192.0.2.1:80", "--token", "0123456789abcdef"), "--http cannot listen on 192.0.2.1:80"),
        (("--webhook", "x"), "is no URL of a web service"),
        (("--webhook", "http://127.0.0.1:9/", "--queue", "file"), "cannot write to folder"),
        (("--keep-defects", "foreign"), "holds files that sdi-run --keep-defects did not write"),
        (("--keep-defects", "file"), "cannot write to folder"),
        (("--keep-defects", "o", "--masks", "o"), "--masks and --keep-defects need folders of their own"),
        (("--keep-defects", "pictures"), "is where the source's pictures lie"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: tuple[str, ...],
    text: str,
    sdi_run: Run,
    make_engine: Make,
    make_pictures: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine").touch()
    code, out, err = sdi_run("--engine", make_engine(), "--source", make_pictures("a.png"), *arguments)
    assert code == 2
    assert not out
    assert err.splitlines()[-1].startswith("error: ")
    assert text in err
    assert "frames in" not in err


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    sdi_run: Run, make_engine: Make, make_pictures: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "paho"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "paho", None)
    code, _, err = sdi_run(
        "--engine", make_engine(), "--source", make_pictures("a.png"), "--mqtt", "mqtt://127.0.0.1:9/x"
    )
    assert code == 2
    assert re.search(r"error: paho\S* is not installed: pip install 'sdi\[line\]'", err)


@pytest.mark.parametrize(("frames", "code"), [(1, 1), (18, 0)])
def test_fail_on_defect_asks_for_an_alarm(
    frames: int, code: int, sdi_run: Run, make_engine: Make, make_video: Make
) -> None:
    """The last 17 or 18 of 50 frames are over the threshold."""
    video = make_video(frames=48)
    assert (
        sdi_run("--engine", make_engine(), "--source", video, "--fail-on-defect", "--alarm-frames", frames)[0] == code
    )


def test_rotated_lines_hold_every_frame(sdi_run: Run, make_engine: Make, make_video: Make, tmp_path: Path) -> None:
    options = ("--jsonl", tmp_path / "r.jsonl", "--jsonl-mb", "0.002", "--jsonl-keep", 30)
    assert sdi_run("--engine", make_engine(), "--source", make_video(frames=50), *options)[0] == 0
    names = sorted(
        (name for name in os.listdir(tmp_path) if name.startswith("r.jsonl")), key=lambda name: (len(name), name)
    )
    assert len(names) > 3
    lines = [json.loads(line) for name in names for line in (tmp_path / name).read_text().splitlines()]
    assert sorted(line["frame"] for line in lines if "event" not in line) == list(range(50))


def test_the_page_of_a_run_is_there_while_it_runs_and_tells_of_its_frames(
    sdi_run_process: Callable[..., subprocess.Popen[bytes]], make_engine: Make, make_pictures: Make, tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    process = sdi_run_process(
        "--engine", make_engine(), "--watch", watched, "--http", "127.0.0.1:0", "--jsonl", "-", "--station", "mill 3"
    )
    assert process.stderr is not None
    assert process.stdout is not None
    killer = threading.Timer(WAIT_S, process.kill)  # so that no read below waits for ever
    killer.start()
    url = next(line for line in process.stderr if line.startswith(b"page: ")).decode().split()[1]
    assert json.loads(process.stdout.readline())["event"] == "started"
    (make_pictures("a.png") / "a.png").rename(watched / "a.png")
    assert json.loads(process.stdout.readline())["name"].endswith("a")
    state = {"sources": [{"frames": 0}]}
    while state["sources"][0]["frames"] == 0:  # the page hears of a frame after the record; the killer ends the wait
        with urllib.request.urlopen(f"{url}state.json", timeout=WAIT_S) as answer:
            state = json.load(answer)
    assert (state["station"], state["sources"][0]["frames"]) == ("mill 3", 1)
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=WAIT_S)[0].splitlines()
    killer.cancel()
    last = json.loads(rest[-1])
    assert (last["event"], last["reason"], last["frames"]) == ("stopped", "interrupted", 1)
    assert process.returncode == 0
