"""Evidence of alarms: whole, within its budget, whatever happens to the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import read_gray, read_image
from sdi.runtime.frame import Event, Frame, Result
from sdi.runtime.inspection.defects import find_regions
from sdi.runtime.sinks.evidence import EvidenceSink

MB = 1_000_000


def _alarm(index: int, name: str | None = None, side: int = 60) -> Event:
    """A picture of noise, so that its size in bytes is known: PNG cannot shrink it."""
    image = np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
    saliency = np.zeros((side, side), np.uint8)
    saliency[5:15, 20:30] = 250
    frame = Frame(index, name or f"f{index}", "strip", image, 0.0, 1e9 + index)
    result = Result(frame, saliency, find_regions(saliency), 1.0, 2.0, 3, alarm=True)
    return Event("alarm", "strip", "1 defect", frame.wall_time, {"frame": index, "name": frame.name}, result)


def _folders(place: Path) -> list[str]:
    return sorted(name for name in os.listdir(place) if not name.startswith("."))


def _bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def test_an_alarm_leaves_its_frame_its_map_and_its_record(tmp_path: Path) -> None:
    event = _alarm(7, "a/b:ü")
    assert event.result is not None
    with EvidenceSink(tmp_path / "e", MB) as sink:
        sink.write(event.result)  # a result alone leaves nothing
        sink.event(Event("cleared", "strip", "", 0.0, {}, event.result))
        sink.event(event)
    assert _folders(tmp_path / "e") == ["000001_a_b_ü"]
    folder = tmp_path / "e" / "000001_a_b_ü"
    assert np.array_equal(read_image(folder / "frame.png"), event.result.frame.image)
    assert np.array_equal(read_gray(folder / "mask.png"), event.result.saliency)
    record = json.loads((folder / "alarm.json").read_text())
    assert (record["event"], record["frame"], record["name"]) == ("alarm", 7, "a/b:ü")
    assert record["result"]["defects"][0]["area"] == 100


def test_the_oldest_go_before_the_budget_is_exceeded_and_numbers_go_on_over_runs(tmp_path: Path) -> None:
    with EvidenceSink(tmp_path / "e", MB) as sink:
        sink.event(_alarm(0))
    one = _bytes(tmp_path / "e")
    for run in range(2):
        with EvidenceSink(tmp_path / "e", 4 * one) as sink:
            for index in range(1 + 5 * run, 6 + 5 * run):
                sink.event(_alarm(index))
                assert _bytes(tmp_path / "e") <= 4 * one
    names = _folders(tmp_path / "e")
    assert names[-1] == "000011_f10"
    assert names == [f"{index + 1:06d}_f{index}" for index in range(11 - len(names), 11)]
    assert len(names) >= 3


def test_an_alarm_larger_than_the_budget_is_lost_in_words_and_takes_nothing_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EvidenceSink(tmp_path / "e", 20_000) as sink:
        sink.event(_alarm(0))
        sink.event(_alarm(1, side=300))
        assert sink.lost == 1
    assert _folders(tmp_path / "e") == ["000001_f0"]
    err = capsys.readouterr().err
    assert "raise --keep-mb" in err
    assert "1 alarms left no evidence" in err


def test_a_full_disk_makes_room_from_the_oldest_and_the_run_goes_on(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EvidenceSink(small_disk / "e", 100 * MB) as sink:
        for index in range(12):
            sink.event(_alarm(index, side=200))  # 120 kB each on a disk of 1 MiB
        names = _folders(small_disk / "e")
        assert names[-1] == "000012_f11"
        assert 4 <= len(names) < 12
        assert sink.lost == 0
        assert np.array_equal(read_image(small_disk / "e" / names[0] / "frame.png").shape, (200, 200, 3))
        with pytest.raises(OSError, match="No space left"), (small_disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for index in range(12, 14):
            sink.event(_alarm(index, side=700))  # more than all evidence takes: nothing that is removed helps
        assert sink.lost == 2
    assert capsys.readouterr().err.count("could not be kept") == 1
    assert not any(name.startswith(".unfinished") for name in os.listdir(small_disk / "e"))


def test_what_a_killed_run_left_unfinished_goes(tmp_path: Path) -> None:
    EvidenceSink(tmp_path / "e", MB).close(complete=True)
    (tmp_path / "e" / ".unfinished").mkdir()
    (tmp_path / "e" / ".unfinished" / "frame.png").write_bytes(b"half")
    with EvidenceSink(tmp_path / "e", MB) as sink:
        sink.event(_alarm(0))
    assert sorted(os.listdir(tmp_path / "e")) == [".sdi-keep-defects", "000001_f0"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with EvidenceSink(tmp_path / "e", MB), pytest.raises(InputError, match="another run keeps evidence in"):
        EvidenceSink(tmp_path / "e", MB)
    code = (
        "import os, sys; from pathlib import Path; from sdi.runtime.sinks.evidence import EvidenceSink\n"
        "sink = EvidenceSink(Path(sys.argv[1]), 1000); os._exit(3)"  # no chance to let go of it
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "e"], timeout=60, check=False).returncode == 3
    EvidenceSink(tmp_path / "e", MB).close(complete=True)


def test_what_is_not_ours_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="holds files that sdi-run --keep-defects did not write"):
        EvidenceSink(tmp_path / "e", MB)
    (tmp_path / "e" / "000007_mine").mkdir()
    (tmp_path / "e" / "000007_mine" / "big").write_bytes(bytes(30_000))
    with EvidenceSink(tmp_path / "e", 20_000, overwrite=True) as sink:
        for index in range(3):
            sink.event(_alarm(index))
    assert _folders(tmp_path / "e") == ["000007_mine", "000010_f2", "mine.txt"]


def test_sdi_run_keeps_what_its_lines_tell_of(
    sdi_run: Callable[..., tuple[int, str, str]],
    make_engine: Callable[..., Path],
    make_video: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The video grows brighter; with three frames of hysteresis the alarm is that of the third bright one."""
    code, out, _ = sdi_run(
        "--engine", make_engine(), "--source", make_video(frames=50), "--jsonl", tmp_path / "r.jsonl", "--json",
        "--keep-defects", tmp_path / "e", "--alarm-frames", 3, "--fail-on-defect", "--link", "--roi", "8,8,40,30",
        "--mm-per-pixel", "0.5",
    )  # fmt: skip
    assert code == 1
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if "event" in line] == ["started", "alarm", "defect", "stopped"]
    first = next(line["frame"] for line in lines if line.get("defects"))  # 32, or 33 where the encoder rounds down
    summary = json.loads(out)
    assert (summary["alarms"], summary["with_defects"]) == (1, 50 - first)
    assert str(tmp_path / "e") in summary["outputs"]
    name = f"strip_0000{first + 2}"
    assert _folders(tmp_path / "e") == [f"000001_{name}"]
    alarm = next(line for line in lines if line.get("event") == "alarm")
    record = json.loads((tmp_path / "e" / f"000001_{name}" / "alarm.json").read_text())
    assert {key: record[key] for key in alarm} == alarm
    assert record["result"] == next(line for line in lines if line.get("name") == name)
    (defect,) = alarm["defects"]
    assert (defect["x"], defect["y"], defect["width"], defect["height"], defect["id"]) == (8, 8, 40, 30, 1)
    assert defect["mm"]["area"] == 300
    passed = next(line for line in lines if line.get("event") == "defect")
    assert (passed["first_frame"], passed["last_frame"], passed["frames"]) == (first, 49, 50 - first)
