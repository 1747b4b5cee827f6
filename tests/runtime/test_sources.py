"""Where frames come from: demo, pictures, videos, streams and cameras."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.strip import draw_strip
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources.base import Source
from sdi.runtime.sources.open import open_source, open_sources
from sdi.runtime.sources.settings import LiveSettings


def _all(spec: object) -> tuple[list[Frame], list[Skipped], Source]:
    with open_source(str(spec)) as source:
        items = list(source.frames())
    frames = [item for item in items if isinstance(item, Frame)]
    return frames, [item for item in items if isinstance(item, Skipped)], source


def test_demo() -> None:
    frames, skipped, source = _all("demo")
    assert not source.live
    assert source.length == len(frames) == 12
    assert not skipped
    assert len({frame.name for frame in frames}) == 12
    assert [frame.index for frame in frames] == list(range(12))
    assert np.array_equal(frames[0].image, draw_strip("inclusion", 1)[0])
    assert all(earlier.captured <= later.captured for earlier, later in pairwise(frames))


def test_folder_glob_and_one_picture(make_pictures: Callable[..., Path], picture: Callable[..., np.ndarray]) -> None:
    folder = make_pictures("In_10.png", "In_2.bmp", "In_1.tif")
    (folder / "notes.txt").write_text("no picture")
    frames, _, source = _all(folder)
    assert [frame.name for frame in frames] == ["In_1", "In_2", "In_10"]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert np.array_equal(frames[2].image, picture(0))
    assert source.length == 3
    assert [path.name for path in source.inputs] == ["In_1.tif", "In_2.bmp", "In_10.png"]
    assert [frame.name for frame in _all(folder / "In_*.png")[0]] == ["In_10"]
    assert [frame.name for frame in _all(folder / "In_2.bmp")[0]] == ["In_2"]


def test_a_name_with_glob_signs_is_a_name_first(make_pictures: Callable[..., Path]) -> None:
    folder = make_pictures("[red].png", "r.png")
    assert [frame.name for frame in _all(folder / "[red].png")[0]] == ["[red]"]
    assert [frame.name for frame in _all(folder / "[r].png")[0]] == ["r"]


def test_a_picture_that_cannot_be_read_is_skipped(make_pictures: Callable[..., Path]) -> None:
    folder = make_pictures("a.png", "b.png", "c.png")
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:-30])
    frames, skipped, _ = _all(folder)
    assert [(frame.index, frame.name) for frame in frames] == [(0, "a"), (1, "c")]
    assert [item.name for item in skipped] == ["b"]
    assert "truncated" in skipped[0].reason


def test_one_stem_twice_is_refused(make_pictures: Callable[..., Path]) -> None:
    folder = make_pictures("a.png", "a.bmp", "b.png")
    with pytest.raises(InputError, match=r"1 names stand for several images, e\.g\. .*a\.bmp, .*a\.png"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", "the source is empty"),
        ("gone", "source 'gone' is not there: expected a folder, a quoted glob"),
        ("gone/*.png", "is not there"),
        ("x" * 300, "cannot read source"),
        ("camera:", "a camera is given by its index"),
        ("camera:front", "a camera is given by its index"),
        ("camera:-1", "a camera is given by its index"),
    ],
)
def test_what_is_no_source(spec: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=text):
        open_source(spec)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image in folder"):
        open_source(str(tmp_path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not there"):
        open_source(str(tmp_path / "pipe"))


@pytest.mark.parametrize("name", ["strip.avi", "strip.mp4", "strip.mkv", "Band ü [1] 100%.avi"])
def test_a_video_gives_every_frame(name: str, make_video: Callable[..., Path]) -> None:
    path = make_video(name, frames=30)
    frames, skipped, source = _all(path)
    assert not source.live
    assert source.length == len(frames) == 30
    assert not skipped
    assert frames[7].name == f"{path.stem}_000007"
    assert all(abs(float(frame.image.mean()) - 4 * frame.index) < 4 for frame in frames)
    assert source.fps == pytest.approx(25)  # type: ignore[attr-defined]
    assert list(source.inputs) == [path]


@pytest.mark.parametrize("name", ["strip.avi", "strip.mkv"])
def test_a_truncated_video_gives_what_is_there_and_says_so(name: str, make_video: Callable[..., Path]) -> None:
    path = make_video(name, frames=30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames, skipped, _ = _all(path)
    assert 0 < len(frames) < 30
    assert len(skipped) == 1
    assert f"ended after {len(frames)} of " in skipped[0].reason
    assert "truncated or damaged" in skipped[0].reason


@pytest.mark.parametrize("name", ["cut.mp4", "text.avi", "empty.avi", "noise.mkv"])
def test_what_is_no_video(name: str, tmp_path: Path, make_video: Callable[..., Path]) -> None:
    path = tmp_path / name
    if name == "cut.mp4":
        make_video(name)
        path.write_bytes(path.read_bytes()[:-300])  # MP4 keeps its table of contents at the end
    else:
        path.write_bytes({"text.avi": b"text " * 99, "empty.avi": b"", "noise.mkv": bytes(range(256)) * 9}[name])
    with pytest.raises(InputError, match=rf"{name} cannot be opened as a video"):
        open_source(str(path))


def test_a_video_without_a_frame_is_not_passed_over_in_silence(make_video: Callable[..., Path]) -> None:
    path = make_video("strip.avi", frames=10)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + 4])
    try:
        source = open_source(str(path))
    except InputError:
        return
    with source:
        (only,) = source.frames()
    assert isinstance(only, Skipped)
    assert "ended after 0 of" in only.reason


def test_a_stream_is_live_and_its_end_is_a_loss(mjpeg: Any) -> None:
    mjpeg.push(*(np.full((48, 64, 3), 8 * i, np.uint8) for i in range(12)))
    mjpeg.end()
    with open_source(mjpeg.url, LiveSettings(give_up_s=0)) as source:
        assert source.live
        assert source.endless
        assert source.length is None
        assert not source.inputs
        levels = []
        with pytest.raises(DeviceError, match=r"strip\.mjpg was lost after 12 frames: no frame came"):
            for item in source.frames():
                if isinstance(item, Event):
                    assert item.kind == "source_lost"
                    continue
                assert isinstance(item, Frame)
                levels.append(float(item.image.mean()))
    assert levels == pytest.approx([8 * i for i in range(12)], abs=2)


def test_names_of_live_frames_differ_between_runs(mjpeg: Any) -> None:
    mjpeg.push(*(np.full((48, 64, 3), 8 * i, np.uint8) for i in range(12)))
    with open_source(mjpeg.url) as source:
        items = source.frames()
        first, second = next(items), next(items)
        mjpeg.end()
    assert isinstance(first, Frame)
    assert isinstance(second, Frame)
    assert first.name != second.name
    # A moment and a number, with no sign that a file name may not have.
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}_000000", first.name)


def test_a_stream_that_does_not_open(closed_port: int) -> None:
    with pytest.raises(DeviceError, match=r"stream http://127\.0\.0\.1:\d+/x does not open; check the address"):
        open_source(f"http://127.0.0.1:{closed_port}/x")


@pytest.mark.parametrize("index", [77, 99_999_999_999])
def test_a_camera_that_does_not_open(index: int) -> None:
    with pytest.raises(DeviceError, match=f"camera {index} does not open"):
        open_source(f"camera:{index}")


def test_a_source_may_be_named(make_pictures: Callable[..., Path]) -> None:
    folder = make_pictures("a.png")
    frames, _, source = _all(f"left={folder}")
    assert source.name == "left"
    assert (frames[0].source, frames[0].name) == ("left", "a")


def test_a_file_with_an_equals_sign_is_a_file(
    make_pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_pictures("a=b.png"))
    frames, _, source = _all("a=b.png")
    assert source.name == "a=b.png"
    assert frames[0].name == "a=b"


def test_frames_of_several_sources_have_names_of_their_own(make_pictures: Callable[..., Path]) -> None:
    first, second = make_pictures("a.png", folder="first"), make_pictures("a.png", "cut.png", folder="second")
    (second / "cut.png").write_bytes(b"\x89PNG")
    sources = open_sources([str(first), f"right={second}"])
    names = [item.name for source in sources for item in source.frames() if not isinstance(item, Event)]
    assert names == ["1_a", "right_a", "right_cut"]
    assert [source.name for source in sources] == [str(first), "right"]


def test_two_sources_of_one_name_are_refused(make_pictures: Callable[..., Path]) -> None:
    folder = make_pictures("a.png")
    with pytest.raises(InputError, match="two sources are called"):
        open_sources([str(folder), str(folder)])
    with pytest.raises(InputError, match="two sources are called x"):
        open_sources([f"x={folder}", "x=demo"])
    assert len(open_sources([f"x={folder}", f"y={folder}"])) == 2
