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

from sdi.runtime.defects import find_regions
from sdi.runtime.errors import InputError
from sdi.runtime.frame import Frame, Result, Skipped
from sdi.runtime.images import read_gray, read_image
from sdi.runtime.sinks.jsonl import JsonlSink
from sdi.runtime.sinks.masks import MasksSink
from sdi.runtime.sinks.overlay import OverlayFolderSink, OverlayVideoSink, WindowSink, draw_overlay, is_video_path


def _result(index: int = 0, name: str = "In_1", size_hw: tuple[int, int] = (40, 60)) -> Result:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    saliency = rng.integers(0, 120, size_hw, dtype=np.uint8)
    saliency[5:15, 20:30] = 250
    frame = Frame(index, name, "strip", image, time.monotonic(), 1_700_000_000.1234)
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


@pytest.mark.parametrize("sink", [MasksSink, lambda folder, **options: OverlayFolderSink(folder, 0.5, **options)])
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
        lambda: OverlayFolderSink(tmp_path / place, 0.5),
        lambda: OverlayVideoSink(tmp_path / place / "v.avi", 0.5, 25),
        lambda: JsonlSink(str(tmp_path / place / "r.jsonl")),
    ):
        with pytest.raises(InputError, match=r"cannot (write|use)"):
            make()
    assert os.listdir(tmp_path) == ["file"]


def test_overlay_pictures_show_the_defect_and_leave_the_rest(tmp_path: Path) -> None:
    result = _result()
    kept = result.frame.image.copy()
    with OverlayFolderSink(tmp_path / "overlay", 0.5) as sink:
        sink.write(result)
    drawn = read_image(tmp_path / "overlay" / "In_1.png")
    assert np.array_equal(drawn, draw_overlay(result, 0.5))
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
    with OverlayVideoSink(path, 0.5, 25) as sink:
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


def test_overlay_video_of_a_failed_run_is_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError), OverlayVideoSink(tmp_path / "v.avi", 0.5, 25) as sink:
        sink.write(_result())
        raise InputError("something else failed")
    assert os.listdir(tmp_path) == ["v.avi"]


def test_overlay_video_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with OverlayVideoSink(tmp_path / "v.avi", 0.5, 25):
        pass
    assert os.listdir(tmp_path) == []


def test_overlay_video_replaces_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"v\.avi exists; choose another name or pass --overwrite"):
        OverlayVideoSink(path, 0.5, 25)
    assert path.read_bytes() == b"old"
    with OverlayVideoSink(path, 0.5, 25, overwrite=True) as sink:
        sink.write(_result())
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", ["folder.avi", "x" * 300 + ".avi"])
def test_overlay_video_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.avi").mkdir()
    with pytest.raises(InputError, match=r"is a folder|cannot write"):
        OverlayVideoSink(tmp_path / name, 0.5, 25, overwrite=True)
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
        "defects": [
            {"x": 20, "y": 5, "width": 10, "height": 10, "area": 100, "peak": region.peak, "mean": region.mean}
        ],
    }
    assert lines[1]["event"] == "skipped"
    assert (lines[1]["name"], lines[1]["reason"]) == ("bad.png", "truncated")
    assert lines[2]["frame"] == 1


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
        WindowSink(0.5)


@pytest.mark.parametrize("sink", [MasksSink, lambda folder: OverlayFolderSink(folder, 0.5)])
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
        OverlayFolderSink(tmp_path / "out", 0.5)
