"""A watched folder: pictures are taken when they are whole, each one once."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources.open import open_source
from sdi.runtime.sources.watch import WatchSource

WAIT_S = 20.0
Item = Frame | Skipped | Event


@pytest.fixture
def watch(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Callable[[], Item]]]:
    """A watched folder, and what gives the next item. A parameter: seconds until a broken picture is given up."""
    folder = tmp_path / "drop"
    folder.mkdir()
    items: queue.Queue[Item] = queue.Queue()
    with WatchSource(folder, look_s=0.01, settled_s=getattr(request, "param", 2.0)) as source:
        assert (source.live, source.endless, source.length) == (False, True, None)

        def run() -> None:
            for item in source.frames():
                items.put(item)

        thread = threading.Thread(target=run)
        thread.start()
        yield folder, lambda: items.get(timeout=WAIT_S)
        source.stop()
        thread.join(WAIT_S)
    assert not thread.is_alive()
    assert items.empty()


def _png(level: int) -> bytes:
    return cv2.imencode(".png", np.full((30, 40, 3), level, np.uint8))[1].tobytes()


def _level(item: Item) -> tuple[str, int]:
    assert isinstance(item, Frame), item
    return item.name, int(item.image[0, 0, 0])


def test_pictures_are_taken_as_they_appear(watch: tuple[Path, Callable[[], Item]], tmp_path: Path) -> None:
    folder, following = watch
    (folder / "a.png").write_bytes(_png(10))
    assert _level(following()) == ("a", 10)
    (tmp_path / "b.tmp").write_bytes(_png(20))
    (tmp_path / "b.tmp").rename(folder / "b.png")
    assert _level(following()) == ("b", 20)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(_png(30))
    (folder / "c.png").write_bytes(_png(40))
    item = following()
    assert _level(item) == ("c", 40)
    assert isinstance(item, Frame)
    assert item.index == 2


def test_a_picture_is_taken_when_its_writer_has_finished(watch: tuple[Path, Callable[[], Item]]) -> None:
    folder, following = watch
    data = _png(10)
    with (folder / "slow.png").open("wb") as file:
        file.write(data[:40])
        file.flush()
        for number in range(5):  # many looks go by
            (folder / f"{number}.png").write_bytes(_png(number))
            assert _level(following()) == (str(number), number)
        file.write(data[40:])
    assert _level(following()) == ("slow", 10)


def test_a_picture_that_is_written_again_is_taken_again(watch: tuple[Path, Callable[[], Item]]) -> None:
    folder, following = watch
    for level in (10, 200, 30):
        (folder / "latest.png").write_bytes(_png(level))
        assert _level(following()) == ("latest", level)


@pytest.mark.parametrize("watch", [0.05], indirect=True)
def test_a_broken_picture_is_skipped_once(watch: tuple[Path, Callable[[], Item]]) -> None:
    folder, following = watch
    (folder / "cut.png").write_bytes(_png(10)[:-20])
    item = following()
    assert isinstance(item, Skipped)
    assert item.name == "cut"
    assert "truncated" in item.reason
    (folder / "good.png").write_bytes(_png(20))
    assert _level(following()) == ("good", 20)


def test_one_stem_twice_keeps_the_names_apart(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(10))
    (tmp_path / "a.bmp").write_bytes(cv2.imencode(".bmp", np.zeros((3, 4, 3), np.uint8))[1].tobytes())
    names = set()
    with open_source(f"watch:{tmp_path}") as source:
        for item in source.frames():
            names.add(item.name)  # type: ignore[union-attr]
            if len(names) == 2:
                source.stop()
    assert names == {"a.png", "a.bmp"}


def test_a_folder_that_goes_and_comes_back(watch: tuple[Path, Callable[[], Item]]) -> None:
    folder, following = watch
    (folder / "a.png").write_bytes(_png(10))
    assert _level(following()) == ("a", 10)
    shutil.rmtree(folder)
    lost = following()
    assert isinstance(lost, Event)
    assert lost.kind == "source_lost"
    assert lost.details == {"reason": "No such file or directory"}
    folder.mkdir()
    back = following()
    assert isinstance(back, Event)
    assert back.kind == "source_back"
    assert back.details["outage_s"] > 0
    (folder / "b.png").write_bytes(_png(20))
    assert _level(following()) == ("b", 20)


def test_minus_is_the_folder_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(_png(10))
    with open_source("-") as source:
        for item in source.frames():
            assert _level(item) == ("a", 10)
            source.stop()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone is not a folder; --watch takes the folder that pictures appear in"):
        open_source(f"watch:{tmp_path / 'gone'}")
