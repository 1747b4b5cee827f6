"""Where results go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import read_gray, read_image
from sdi.runtime.frame import Event, Frame, Result, Skipped
from sdi.runtime.inspection.defects import DefectRule, find_regions
from sdi.runtime.inspection.roi import parse_roi
from sdi.runtime.sinks.jsonl import JsonlSink
from sdi.runtime.sinks.masks import MasksSink
from sdi.runtime.sinks.overlay import OverlayFolderSink, OverlayVideoSink, WindowSink, draw_overlay, is_video_path

RULE = DefectRule()


def _result(index: int = 0, name: str = "In_1", size_hw: tuple[int, int] = (40, 60), source: str = "strip") -> Result:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    saliency = rng.integers(0, 120, size_hw, dtype=np.uint8)
    saliency[5:15, 20:30] = 250
    frame = Frame(index, name, source, image, time.monotonic(), 1_700_000_000.1234)
    return Result(frame, saliency, find_regions(saliency), 1.23456, 7.5, 3)


@pytest.mark.parametrize("name", ["In_1", "[red]", "[x]:smile:", "ü ä", "x" * 251])
def test_masks_are_the_saliency_bit_for_bit_under_the_stem(name: str, tmp_path: Path) -> None:
    result = _result(name=name)
    with MasksSink(tmp_path / "maps") as sink:
        sink.write(result)
    assert np.array_equal(read_gray(tmp_path / "maps" / f"{name}.png"), result.saliency)
    assert cv2.imdecode(
        np.fromfile(tmp_path / "maps" / f"{name}.png", np.uint8), cv2.IMREAD_UNCHANGED
    ).shape == (40, 60)  # fmt: skip


@pytest.mark.parametrize("sink", [MasksSink, lambda folder, **options: OverlayFolderSink(folder, RULE, **options)])
def test_folders_that_are_not_ours(sink: Callable[..., MasksSink], tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    sink(folder)  # empty is fine, and ours from now on
    sink(folder).write(_result())
    sink(folder).write(_result())
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "truth.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds files that sdi-run --(masks|overlay) did not write; .*--overwrite"):
        sink(foreign)
    assert os.listdir(foreign) == ["truth.png"]
    sink(foreign, overwrite=True).write(_result())
    assert (foreign / "truth.png").read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["file", "file/deeper", "x" * 300])
def test_folders_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for make in (
        lambda: MasksSink(tmp_path / place),
        lambda: OverlayFolderSink(tmp_path / place, RULE),
        lambda: OverlayVideoSink(tmp_path / place / "v.avi", RULE, {"strip": 25}),
        lambda: JsonlSink(str(tmp_path / place / "r.jsonl")),
    ):
        with pytest.raises(InputError, match=r"cannot (write|use)"):
            make()
    assert os.listdir(tmp_path) == ["file"]


def test_overlay_pictures_show_the_defect_and_leave_the_rest(tmp_path: Path) -> None:
    result = _result()
    kept = result.frame.image.copy()
    with OverlayFolderSink(tmp_path / "overlay", RULE) as sink:
        sink.write(result)
    drawn = read_image(tmp_path / "overlay" / "In_1.png")
    assert np.array_equal(drawn, draw_overlay(result, RULE))
    assert np.array_equal(result.frame.image, kept)
    under = np.ones(kept.shape[:2], bool)
    under[5:15, 20:30] = False
    assert np.array_equal(drawn[under], kept[under])
    assert (drawn[5, 20:30] == (40, 40, 255)).all()  # the box


@pytest.mark.parametrize("name", ["out.avi", "out.mp4", "ü 1.avi"])
@pytest.mark.parametrize("size_hw", [(40, 60), (41, 61)])
def test_overlay_video_has_every_frame_and_gets_its_name_at_the_end(
    name: str, size_hw: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "deep" / name
    with OverlayVideoSink(path, RULE, {"strip": 25}) as sink:
        for index in range(12):
            sink.write(_result(index, size_hw=size_hw))
        sink.write(_result(12, size_hw=(80, 90)))  # another camera mode
        assert not path.exists()
    assert os.listdir(path.parent) == [name]
    video = cv2.VideoCapture(str(path))
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 13


def test_overlay_video_of_several_sources_is_one_each(tmp_path: Path) -> None:
    with OverlayVideoSink(tmp_path / "v.avi", RULE, {"left": 25, "rtsp://b/1": 10}) as sink:
        for index in range(3):
            sink.write(_result(index, source="left"))
        sink.write(_result(size_hw=(80, 90), source="rtsp://b/1"))
    assert sorted(os.listdir(tmp_path)) == ["v-left.avi", "v-rtsp___b_1.avi"]
    video = cv2.VideoCapture(str(tmp_path / "v-left.avi"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 3


def test_one_video_of_several_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "v-b.avi").touch()
    with pytest.raises(InputError, match=r"v-b\.avi exists"):
        OverlayVideoSink(tmp_path / "v.avi", RULE, {"a": 25, "b": 25})
    assert os.listdir(tmp_path) == ["v-b.avi"]


def test_overlay_tints_only_what_counts(tmp_path: Path) -> None:
    result = _result()
    drawn = draw_overlay(result, DefectRule(roi=parse_roi("40,20,10,10")))
    outside = np.ones((40, 60), bool)
    outside[4:16, 19:31] = outside[19:31, 39:51] = False  # the box of the region, the line of the ROI
    assert np.array_equal(drawn[outside], result.frame.image[outside])
    assert np.array_equal(drawn[8, 25], result.frame.image[8, 25])  # over the threshold, but not where it counts


def test_overlay_video_of_a_failed_run_is_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError), OverlayVideoSink(tmp_path / "v.avi", RULE, {"strip": 25}) as sink:
        sink.write(_result())
        raise InputError("something else failed")
    assert os.listdir(tmp_path) == ["v.avi"]


def test_overlay_video_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with OverlayVideoSink(tmp_path / "v.avi", RULE, {"strip": 25}):
        pass
    assert os.listdir(tmp_path) == []


def test_overlay_video_replaces_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"v\.avi exists; choose another name or pass --overwrite"):
        OverlayVideoSink(path, RULE, {"strip": 25})
    assert path.read_bytes() == b"old"
    with OverlayVideoSink(path, RULE, {"strip": 25}, overwrite=True) as sink:
        sink.write(_result())
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", ["folder.avi", "x" * 300 + ".avi"])
def test_overlay_video_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.avi").mkdir()
    with pytest.raises(InputError, match=r"is a folder|cannot write"):
        OverlayVideoSink(tmp_path / name, RULE, {"strip": 25}, overwrite=True)
    assert os.listdir(tmp_path) == ["folder.avi"]


def test_is_video_path() -> None:
    assert is_video_path(Path("x.MP4"))
    assert not is_video_path(Path("x.d"))


def test_json_lines_fields_and_append(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    for index in range(2):
        with JsonlSink(str(path)) as sink:
            sink.write(_result(index, name="ü [x]"))
            assert len(path.read_text().splitlines()) == 2 * index + 1  # flushed at once
            sink.note(Skipped("bad.png", "strip", "truncated", 1_700_000_000.0))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 4
    time_utc = datetime.fromtimestamp(1_700_000_000.123, timezone.utc).isoformat(timespec="milliseconds")
    (region,) = _result().regions
    assert lines[0] == {
        "frame": 0,
        "name": "ü [x]",
        "source": "strip",
        "time": time_utc,
        "engine_ms": 1.235,
        "age_ms": 7.5,
        "drops": 3,
        "alarm": False,
        "defects": [
            {
                "x": 20,
                "y": 5,
                "width": 10,
                "height": 10,
                "area": 100,
                "peak": region.peak,
                "mean": region.mean,
                "cx": 24.5,
                "cy": 9.5,
                "elongation": 1.0,
            }
        ],
    }
    assert lines[1]["event"] == "skipped"
    assert (lines[1]["name"], lines[1]["reason"]) == ("bad.png", "truncated")
    assert lines[2]["frame"] == 1


def test_json_lines_tell_events(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with JsonlSink(str(path)) as sink:
        sink.event(Event("source_lost", "left", "left was lost", 1_700_000_000.0, {"frames": 7}))
    assert json.loads(path.read_text()) == {
        "event": "source_lost", "source": "left", "time": "2023-11-14T22:13:20.000+00:00", "text": "left was lost",
        "frames": 7,
    }  # fmt: skip


@pytest.mark.parametrize("runs", [1, 7])
def test_json_lines_rotate_and_no_line_is_torn_or_lost_before_its_time(runs: int, tmp_path: Path) -> None:
    """Whether one run writes all or each of several a part: the newest lines are there, in whole files."""
    path = tmp_path / "r.jsonl"
    line = 0
    for _ in range(runs):
        with JsonlSink(str(path), max_bytes=2000, keep=3) as sink:
            for _ in range(70 // runs):
                sink.write(_result(line))
                line += 1
    names = ["r.jsonl.3", "r.jsonl.2", "r.jsonl.1", "r.jsonl"]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert all((tmp_path / name).stat().st_size <= 2000 for name in names)
    kept = [json.loads(text)["frame"] for name in names for text in (tmp_path / name).read_text().splitlines()]
    assert kept == list(range(70 - len(kept), 70))
    assert len(kept) > 12


def test_a_line_longer_than_a_file_may_be_has_one_of_its_own(tmp_path: Path) -> None:
    with JsonlSink(str(tmp_path / "r.jsonl"), max_bytes=10, keep=2) as sink:
        for index in range(5):
            sink.write(_result(index))
    frames = {path.name: json.loads(path.read_text())["frame"] for path in tmp_path.iterdir()}
    assert frames == {"r.jsonl": 4, "r.jsonl.1": 3, "r.jsonl.2": 2}


def test_json_lines_on_stdout_leave_it_open(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonlSink("-") as sink:
        sink.write(_result())
    print("still open")
    line, after = capsys.readouterr().out.splitlines()
    assert json.loads(line)["frame"] == 0
    assert after == "still open"


def test_json_lines_on_a_full_disk() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(InputError, match="cannot write /dev/full: No space left"), JsonlSink("/dev/full") as sink:
        sink.write(_result())


def test_a_window_needs_a_display() -> None:
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        pytest.skip("there is a display")
    if "headless" not in (cv2.__file__ + cv2.getBuildInformation()) and "NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    with pytest.raises(InputError, match=r"--show needs a display .*--overlay"):
        WindowSink(RULE)


@pytest.mark.parametrize("sink", [MasksSink, lambda folder: OverlayFolderSink(folder, RULE)])
def test_a_map_of_an_earlier_run_does_not_outlive_its_picture(sink: Callable[..., MasksSink], tmp_path: Path) -> None:
    """A picture that can no longer be read has no map, rather than a stale one."""
    result = _result()
    sink(tmp_path / "out").write(result)
    written = tmp_path / "out" / f"{result.frame.name}.png"
    assert written.is_file()
    sink(tmp_path / "out").note(Skipped(result.frame.name, "list", "truncated", 0.0))
    assert not written.exists()


def test_masks_and_overlays_do_not_share_a_folder(tmp_path: Path) -> None:
    MasksSink(tmp_path / "out")
    with pytest.raises(InputError, match="sdi-run --overlay did not write"):
        OverlayFolderSink(tmp_path / "out", RULE)
