"""The queue on disk: order, bounds, and what outlives a kill, a full disk and damage."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.sinks.spool import Spool, default_spool_folder, spool_path

WAIT_S = 60.0


def _drain(spool: Spool) -> list[tuple[int, str]]:
    taken = []
    while (oldest := spool.first()) is not None:
        taken.append(oldest)
        spool.remove(oldest[0])
    return taken


def test_first_in_first_out_and_first_stays_until_it_is_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "q")
    assert spool.first() is None
    assert [spool.append(text) for text in "abc"] == [1, 2, 3]
    assert spool.first() == spool.first() == (1, "a")
    spool.remove(1)
    spool.remove(1)  # gone already
    assert (spool.first(), len(spool)) == ((2, "b"), 2)
    assert _drain(spool) == [(2, "b"), (3, "c")]
    assert (len(spool), spool.lost) == (0, 0)
    spool.close()


def test_a_later_run_goes_on_and_never_uses_a_number_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "q")
    spool.append("a")
    spool.append("b")
    spool.remove(1)
    spool.close()
    spool = Spool(tmp_path / "deep" / "q")
    assert (len(spool), spool.append("c")) == (1, 3)
    assert _drain(spool) == [(2, "b"), (3, "c")]
    spool.close()
    spool = Spool(tmp_path / "deep" / "q")
    assert spool.append("d") == 4
    spool.close()


def test_when_it_is_full_the_oldest_go_and_are_counted_over_runs(tmp_path: Path) -> None:
    for run in (1, 2):
        spool = Spool(tmp_path / "q", max_bytes=2000)
        for _ in range(20):
            spool.append("x" * 136)  # 200 with what a row costs
        assert (len(spool), spool.lost) == (10, 20 * run - 10)
        spool.close()
    spool = Spool(tmp_path / "q", max_bytes=2000)
    assert [number for number, _ in _drain(spool)] == list(range(31, 41))
    spool.append("y" * 5000)  # larger than all may be: kept alone
    assert len(spool) == 1
    spool.close()


def test_what_is_refused_counts_as_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "q")
    spool.append("a")
    spool.append("b")
    spool.refuse(1)
    assert (spool.first(), spool.lost) == ((2, "b"), 1)
    spool.close()
    spool = Spool(tmp_path / "q")
    assert spool.lost == 1
    spool.close()


def test_a_run_killed_while_it_writes_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    """Killed at a moment of its own choosing, most likely in the middle of a write; three times over one file."""
    code = (
        "import sys; from pathlib import Path; from sdi.runtime.sinks.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        "while True: print(spool.append('x' * 3000), flush=True)"
    )
    last = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "q")], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(50):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=WAIT_S)[0].split("\n")[:-1]  # without half a line
        last = int(said[-1]) if said else last
    spool = Spool(tmp_path / "q")
    numbers = [number for number, body in _drain(spool) if body == "x" * 3000]
    assert numbers == list(range(1, len(numbers) + 1))
    assert last <= len(numbers) <= last + 1  # the last may have been written and not said
    spool.close()


def test_a_second_run_is_refused_and_a_killed_one_holds_nobody_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "q")
    with pytest.raises(InputError, match=r"queue .*q is in use by another run; .*--queue"):
        Spool(tmp_path / "q")
    spool.close()
    Spool(tmp_path / "q").close()


def test_a_full_disk_holds_events_in_memory_and_saves_them_when_there_is_room(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = Spool(small_disk / "q")
    spool.append("before")
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    numbers = [spool.append(f"{number} " + "x" * 3000) for number in range(30)]
    assert capsys.readouterr().err.count("cannot be written") == 1
    assert spool.first() == (1, "before")
    spool.remove(1)  # a full disk removes nothing either, but it is not delivered twice
    oldest = spool.first()
    assert oldest is not None
    assert oldest[0] == numbers[0]
    ballast.unlink()
    after = spool.append("after")
    spool.close()
    spool = Spool(small_disk / "q")
    assert [number for number, _ in _drain(spool)] == [*numbers, after]
    assert spool.lost == 0
    spool.close()


def test_what_memory_cannot_hold_either_is_counted(small_disk: Path) -> None:
    spool = Spool(small_disk / "q", held=5)
    with pytest.raises(OSError, match="No space left"), (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for _ in range(20):
        spool.append("x" * 200_000)
    assert spool.lost == 15
    assert [number for number, _ in _drain(spool)] == [16, 17, 18, 19, 20]
    (small_disk / "ballast").unlink()
    spool.close()
    spool = Spool(small_disk / "q")
    assert spool.lost == 15
    spool.close()


def _other_database(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE coils (id INTEGER)")
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.write_bytes(b"garbage" * 1000), "is no queue of sdi-run, or is damaged"),
        (_other_database, "it is a database of another program"),
        (lambda path: path.mkdir(), "cannot write queue"),
    ],
    ids=["garbage", "foreign", "folder"],
)
def test_files_that_are_no_spool(spoil: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    spoil(tmp_path / "q")
    before = (tmp_path / "q").read_bytes() if (tmp_path / "q").is_file() else b""
    with pytest.raises(InputError, match=text):
        Spool(tmp_path / "q")
    assert not before or (tmp_path / "q").read_bytes() == before


def test_damage_is_an_error_or_harmless_and_never_a_hang(tmp_path: Path) -> None:
    """Bytes of a good spool are overwritten: it is refused in words, or it still gives bodies in order."""
    spool = Spool(tmp_path / "q")
    for number in range(60):
        spool.append(f"{number} " + "x" * 300)
    spool.close()
    good = (tmp_path / "q").read_bytes()
    refused = 0
    for seed in range(40):
        chance = random.Random(seed)
        data = bytearray(good)
        for _ in range(10):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / "bad").write_bytes(data)
        try:
            spool = Spool(tmp_path / "bad")
        except InputError:
            refused += 1
            continue
        oldest = spool.first()
        assert oldest is None or oldest[0] >= 1
        spool.append("new")
        spool.close()
    assert 0 < refused < 40  # both happen


def test_where_spools_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_spool_folder() == tmp_path / ".local" / "state" / "sdi"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert default_spool_folder() == tmp_path / "x" / "sdi"
    monkeypatch.setenv("STATE_DIRECTORY", f"/var/lib/sdi{os.pathsep}/other")
    assert default_spool_folder() == Path("/var/lib/sdi")
    assert spool_path(tmp_path, "mqtt", "a") != spool_path(tmp_path, "mqtt", "b")
