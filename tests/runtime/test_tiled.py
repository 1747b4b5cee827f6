"""Frames in windows through real engines, on what they say and on what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import read_gray
from sdi.runtime.engine.batching import Batcher
from sdi.runtime.engine.manifest import read_manifest, write_manifest
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import default_engine
from sdi.runtime.engine.tiling import MAX_FRAME_PIXELS, Tiling, TrainedScale, parse_tile
from sdi.runtime.engine.windows import WindowGrid

MakeEngine = Callable[..., Path]
Picture = Callable[..., np.ndarray]
Capture = pytest.CaptureFixture[str]


def _mean(image: np.ndarray) -> np.ndarray:
    """What the tiny engines compute, by numpy."""
    return np.rint(image.astype(np.float32).mean(axis=2)).astype(np.uint8)


def _knows(path: Path, **facts: object) -> Path:
    """The engine, whose manifest now says more."""
    manifest = read_manifest(path)
    assert manifest is not None
    write_manifest(path, replace(manifest, **facts))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("frame_hw", [None, (40, 40), (64, 48)])
@pytest.mark.parametrize("size_hw", [(40, 40), (41, 40), (97, 203), (40, 300)])
def test_each_window_is_answered_as_a_picture_of_its_own(
    size_hw: tuple[int, int],
    frame_hw: tuple[int, int] | None,
    batch: int | None,
    make_engine: MakeEngine,
    picture: Picture,
) -> None:
    image = picture(1, size_hw)
    kept = image.copy()
    with open_engine(make_engine(frame_hw=frame_hw, batch=batch), tile=40, overlap=11) as engine:
        answer = engine(image)
        again = engine(image)
        expected = np.zeros(size_hw, np.uint8)
        for window in WindowGrid(size_hw, (40, 40), 11):
            expected[window.kept] = engine.whole(np.ascontiguousarray(image[window.seen]))[window.inside]
    assert answer.dtype == np.uint8
    assert np.array_equal(answer, expected)
    assert np.array_equal(again, expected)
    assert np.array_equal(image, kept)
    if frame_hw in (None, (40, 40)):  # nothing is resized, so seams cannot show
        assert np.array_equal(answer, _mean(image))


def test_the_shipped_network_answers_windows_as_it_answers_pictures(picture: Picture) -> None:
    frame = picture(2, (230, 410))
    with open_engine(default_engine(), "cpu", 1) as engine:
        grid = engine.grid((230, 410))
        assert grid == WindowGrid((230, 410), (200, 200), 25)
        answer = engine(frame)
        for window in grid or ():
            assert np.array_equal(answer[window.kept], engine.whole(frame[window.seen])[window.inside])


def test_auto_cuts_frames_of_more_than_one_and_a_half_native_windows(make_engine: MakeEngine) -> None:
    path = _knows(make_engine(frame_hw=(64, 64)), native_hw=(40, 60), network_hw=(64, 64))
    with open_engine(path) as engine:
        assert engine.grid((60, 90)) is None
        assert engine.grid((61, 90)) == WindowGrid((61, 90), (40, 60), 5)
        assert engine.grid((40, 91)) == WindowGrid((40, 91), (40, 60), 5)
        assert engine.grid((20, 20)) is None
    with open_engine(path, tile=None) as engine:
        assert engine.grid((600, 600)) is None
    with open_engine(path, tile=(50, 33), overlap=0) as engine:
        assert engine.grid((60, 90)) == WindowGrid((60, 90), (50, 33), 0)


@pytest.mark.parametrize("size_hw", [(11, 200), (200, 7), (1, 100)])
def test_auto_goes_on_as_in_a_mirror_where_a_frame_is_narrower_than_a_window(
    size_hw: tuple[int, int], make_engine: MakeEngine, picture: Picture
) -> None:
    image = picture(3, size_hw)
    path = _knows(make_engine(frame_hw=(40, 40)), native_hw=(40, 40), network_hw=(40, 40))
    with open_engine(path) as engine:
        assert np.array_equal(engine(image), _mean(image))


def test_millimetres_scale_the_native_window(make_engine: MakeEngine) -> None:
    path = _knows(make_engine(frame_hw=(64, 64)), native_hw=(100, 60), network_hw=(64, 64), mm_per_pixel=0.5)
    with open_engine(path, mm_per_pixel=0.25) as engine:  # twice as many pixels of the camera to a millimetre
        assert engine.grid((500, 500)) == WindowGrid((500, 500), (200, 120), 15)
    with open_engine(path) as engine:
        assert engine.grid((500, 500)) == WindowGrid((500, 500), (100, 60), 7)


def test_one_line_tells_what_is_done_to_frames(make_engine: MakeEngine, picture: Picture, capsys: Capture) -> None:
    known = _knows(make_engine(frame_hw=(64, 64)), native_hw=(40, 40), network_hw=(64, 64))
    with open_engine(known) as engine:
        for seed, size_hw in enumerate([(70, 70), (70, 70), (90, 70)]):
            engine(picture(seed, size_hw))
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    for text in ("70x70 are cut into 4 windows of 40x40", "whose scale is not known", "frames a second"):
        assert text in told
    for flag in ("--mm-per-pixel", "--tile N", "--tile none"):
        assert flag in told
    with open_engine(_knows(known, mm_per_pixel=0.5)) as engine:
        engine.grid((70, 70))
    assert "training pictures', 0.5 mm" in capsys.readouterr().err
    with open_engine(known, mm_per_pixel=0.4) as engine:
        engine.grid((90, 70))
    assert "show 0.5 mm a pixel to the network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("facts", "size_hw", "texts"),
    [
        ({}, (80, 60), ["run whole", "40 % down and 80 % across", "--tile N"]),  # seen at 32 x 48
        ({}, (40, 60), []),
        ({"native_hw": (40, 40)}, (61, 40), ["66 % down and 100 % across", "--tile auto"]),
        ({"native_hw": (40, 40)}, (60, 60), []),
        ({"native_hw": (40, 40)}, (30, 58), ["133 % down and 69 % across", "--tile 30 "]),
        ({"native_hw": (40, 40), "network_hw": (30, 30)}, (200, 100), ["sdi-export --frame 200x100 --tile 40"]),
    ],
)
def test_frames_that_are_shrunk_are_doubted_once(
    facts: dict[str, object], size_hw: tuple[int, int], texts: list[str], make_engine: MakeEngine, capsys: Capture
) -> None:
    path = _knows(make_engine(frame_hw=(32, 48)), **facts)
    with open_engine(path, tile="auto" if not facts or "network_hw" in facts else None) as engine:
        for _ in range(2):
            assert engine.grid(size_hw) is None
            assert engine.grid((size_hw[0] * 2, size_hw[1] * 2)) is None or not texts
    told = capsys.readouterr().err
    lines = told.splitlines()
    if texts:
        assert len(lines) == 1
        assert lines[0].startswith("warning: ")
    assert all(text in told for text in texts)
    if not texts:
        assert f"{size_hw[0]}x{size_hw[1]} run" not in told


def test_no_windows_without_need(make_engine: MakeEngine, capsys: Capture) -> None:
    with open_engine(make_engine(manifest=False)) as engine:  # any size, trained on who knows what
        assert engine.grid((900, 50)) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tile": 20}, "32 pixels a side at least, got 20x20"),
        ({"tile": 40, "overlap": 40}, "cannot overlap by 40 pixels"),
        ({"tile": 40, "overlap": -1}, "overlap must be at least 0"),
        ({"overlap": 64}, "cannot overlap by 64 pixels"),  # of a native window
        ({"mm_per_pixel": 0.0}, "mm-per-pixel must be above 0"),
        ({"tile": 2000}, "takes frames from 32x32 to 900x900, no window of 2000x2000"),
    ],
)
def test_windows_that_no_engine_takes_are_refused_when_it_is_opened(
    options: dict[str, object], text: str, make_engine: MakeEngine
) -> None:
    profile = ((1, 32, 32), (1, 64, 64), (4, 900, 900))
    path = _knows(make_engine(), native_hw=(64, 64), profile=profile)
    with pytest.raises(InputError, match=text):
        open_engine(path, **options)  # type: ignore[arg-type]


def test_frames_that_do_not_go_into_windows_are_refused(make_engine: MakeEngine) -> None:
    with (
        open_engine(make_engine(), tile=64) as engine,
        pytest.raises(InputError, match=r"63x64 .* is smaller than a window of 64x64"),
    ):
        engine(np.zeros((63, 64, 3), np.uint8))
    side = 1 << 15
    assert side * side > MAX_FRAME_PIXELS
    with pytest.raises(InputError, match=r"32768x32768 has 1074 megapixels, at most 268"):
        Tiling().grid(TrainedScale((200, 200), None, (256, 256)), (side, side))


def test_frames_of_several_sources_whole_and_in_windows(make_engine: MakeEngine, picture: Picture) -> None:
    path = _knows(make_engine(frame_hw=(40, 40), batch=2), native_hw=(40, 40), network_hw=(40, 40))
    images = [picture(4, (40, 40)), picture(5, (90, 41))]
    with open_engine(path) as engine:
        for answer, image in zip(Batcher(engine, 2)(images), images, strict=True):
            assert np.array_equal(answer, _mean(image))


def test_the_self_test_is_never_cut(make_engine: MakeEngine) -> None:
    with open_engine(_knows(make_engine(frame_hw=(64, 64)), network_hw=(64, 64)), tile=33) as engine:
        engine.self_test()


@pytest.mark.parametrize(
    ("text", "tile"), [("auto", "auto"), ("none", None), ("200", (200, 200)), ("128x1024", (128, 1024))]
)
def test_tile_as_it_is_spelt(text: str, tile: object) -> None:
    assert parse_tile(text) == tile


@pytest.mark.parametrize("text", ["", "Auto", "200x", "x200", "-200", "2e2", "200x200x3", "1000000"])
def test_tile_misspelt(text: str) -> None:
    with pytest.raises(InputError, match=r"--tile takes auto, none, a side N or HxW"):
        parse_tile(text)


def test_sdi_run_in_windows(
    tmp_path: Path,
    make_engine: MakeEngine,
    make_pictures: Callable[..., Path],
    sdi_run: Callable[..., tuple[int, str, str]],
) -> None:
    path = _knows(make_engine(frame_hw=(40, 40)), native_hw=(40, 40), network_hw=(40, 40))
    pictures = make_pictures("a.png", "b.png", size_hw=(90, 130))
    for number, options in enumerate([(), ("--tile", "33x50", "--overlap", 3), ("--mm-per-pixel", 0.5)]):
        masks = tmp_path / f"masks{number}"
        code, out, err = sdi_run("--engine", path, "--source", pictures, "--masks", masks, "--json", *options)
        assert (code, json.loads(out)["frames"]) == (0, 2)
        assert "Frames of 90x130 are cut into" in err
        assert read_gray(masks / "a.png").shape == (90, 130)
    code, _, err = sdi_run("--engine", path, "--source", pictures, "--tile", "none")
    assert code == 0
    assert "warning: frames of 90x130 run whole" in err
    for options, text in [(("--tile", "99"), "smaller than a window of 99x99"), (("--tile", "big"), "got 'big'")]:
        code, _, err = sdi_run("--engine", path, "--source", pictures, *options)
        assert code == 2
        assert text in err
        assert err.count("error:") == 1


def test_a_first_look_spares_the_engine_windows_without_a_finding(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = np.full((40, 400, 3), 5, np.uint8)  # seen as 5 of 255
    frame[10:20, 130:140] = 200  # in one window, or in two that overlap there
    slow = make_engine(frame_hw=(40, 40), batch=1, name="slow.onnx")
    quick = make_engine(frame_hw=(40, 40), name="quick.onnx")
    with open_engine(slow, tile=40, overlap=0, first_look=quick) as engine:
        calls: list[int] = []
        execute = engine.execute
        monkeypatch.setattr(engine, "execute", lambda frames: (calls.append(len(frames)), execute(frames))[1])
        answer = engine(frame)
        assert np.array_equal(answer, _mean(frame))
        assert sum(calls) == 3 + 1  # those that the rate was measured with, and the window
    with pytest.raises(InputError, match="cannot read engine nowhere"):
        open_engine(slow, tile=40, first_look="nowhere")
