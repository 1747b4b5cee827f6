"""A bounded queue on disk: events wait there through an outage, a restart and a power cut.

SQLite does the hard part, appends and removals that a crash cannot tear.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

from sdi.runtime.common.console import warn
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import ensure_folder

__all__ = ["Spool", "default_spool_folder", "spool_path"]

_OURS = 0x73646951  # "sdiQ" in the file's header: application_id of SQLite
_ROW_BYTES = 64  # what a row costs beside its body, about


class Spool:
    """First in, first out; safe between threads. One process at a time.

    Every body gets a sequence number, which continues after a restart: a receiver sees from it what it has already and
    what was lost. When the bodies exceed `max_bytes`, the oldest are removed and counted. While the disk cannot be
    written, up to `held` bodies wait in memory.

    Attributes:
        lost: bodies that were given up since the spool was made, over all runs.
    Raises:
        InputError: the file cannot be written, is not a spool, or another run uses it.
    """

    def __init__(self, path: Path, *, max_bytes: int = 64 << 20, held: int = 1000) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._held = held
        self._lock = threading.Lock()
        self._memory: deque[tuple[int, str]] = deque()  # newer than all on disk
        self._ailing = False
        self._done = 0  # all up to this number were delivered
        self._stale = False  # some of them are in the file all the same
        ensure_folder(self._path.parent)
        try:
            self._database = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise
        except sqlite3.Error as error:
            raise InputError(_unusable(self._path, error)) from error

    def append(self, body: str) -> int:
        """Add at the end; the body's sequence number. Returns when it is on the disk, or cannot be now."""
        with self._lock:
            number = self._next
            self._next += 1
            self._memory.append((number, body))
            self._save()
            while len(self._memory) > self._held:
                self._memory.popleft()
                self.lost += 1
            return number

    def first(self) -> tuple[int, str] | None:
        """The oldest, with its sequence number; it stays until `remove`."""
        with self._lock:
            with suppress(sqlite3.Error):
                row = self._database.execute(
                    "SELECT number, body FROM events WHERE number > ? ORDER BY number LIMIT 1", (self._done,)
                ).fetchone()
                if row is not None:
                    return int(row[0]), str(row[1])
            return self._memory[0] if self._memory else None

    def remove(self, number: int) -> None:
        """Take it out once it was delivered; nothing where it is gone already."""
        with self._lock:
            if self._memory and self._memory[0][0] == number:
                self._memory.popleft()
            else:
                self._done = max(self._done, number)
                self._stale = True
            self._save()

    def refuse(self, number: int) -> None:
        """Take it out undelivered and count it as lost."""
        with self._lock:
            self.lost += 1
        self.remove(number)

    def __len__(self) -> int:
        """How many wait, in memory included."""
        with self._lock:
            return self._rows + len(self._memory)

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        with self._lock:
            self._save()
            if self._memory:
                warn(f"{self._path} could not be written; events that are lost with it: {len(self._memory)}")
            self._database.close()

    def _prepare(self) -> None:
        run = self._database.execute
        # Read first: making it ours would spoil a database of another program.
        (owner,) = run("PRAGMA application_id").fetchone()
        (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
        if owner != _OURS and (owner or tables):
            raise sqlite3.DatabaseError("it is a database of another program")
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")  # each append waits for the disk: events are rare, a lost one is dear
        run("BEGIN EXCLUSIVE")
        run(f"PRAGMA application_id = {_OURS}")
        run("CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL)")
        run("CREATE TABLE IF NOT EXISTS counters (lost INTEGER NOT NULL)")
        run("INSERT INTO counters SELECT 0 WHERE NOT EXISTS (SELECT * FROM counters)")
        run("COMMIT")
        (damage,) = run("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise sqlite3.DatabaseError(str(damage))
        self._rows, self._bytes = run("SELECT count(*), coalesce(sum(length(body)), 0) FROM events").fetchone()
        self._bytes += self._rows * _ROW_BYTES
        (self.lost,) = run("SELECT lost FROM counters").fetchone()
        self._lost_on_disk = self.lost
        last = run("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        self._next = (last[0] if last else 0) + 1

    def _save(self) -> None:
        """Bring the disk up to date, as far as it lets us: a full one removes nothing either."""
        try:
            if self._stale:
                self._delete(self._done)
                self._stale = False
            while self._memory:
                self._insert(*self._memory[0])
                self._memory.popleft()
            if self._lost_on_disk != self.lost:
                self._database.execute("UPDATE counters SET lost = ?", (self.lost,))
                self._lost_on_disk = self.lost
            self._ailing = False
        except sqlite3.Error as error:
            if not self._ailing:  # once an illness
                warn(f"{self._path} cannot be written ({error}): events wait in memory; make room on its disk")
            self._ailing = True

    def _insert(self, number: int, body: str) -> None:
        """Add to the file; what is too much for the bound goes."""
        cost = len(body) + _ROW_BYTES
        while self._rows and self._bytes + cost > self._max_bytes:
            self._drop_oldest()
        self._database.execute("INSERT INTO events VALUES (?, ?)", (number, body))
        self._rows += 1
        self._bytes += cost

    def _drop_oldest(self) -> None:
        (number,) = self._database.execute("SELECT min(number) FROM events").fetchone()
        self._delete(number)
        self.lost += number > self._done

    def _delete(self, last: int) -> None:
        """Remove all up to `last`."""
        gone = self._database.execute("DELETE FROM events WHERE number <= ? RETURNING length(body)", (last,)).fetchall()
        for (length,) in gone:
            self._rows -= 1
            self._bytes -= length + _ROW_BYTES


def default_spool_folder() -> Path:
    """The folder for a program's state: systemd's, or one in the user's home."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state:
        return Path(state)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "sdi"


def spool_path(folder: Path, what: str, target: str) -> Path:
    """The spool of one receiver. Each receiver has its own, and a later run finds it again."""
    return folder / f"{what}-{hashlib.sha256(target.encode()).hexdigest()[:12]}.queue"


def _unusable(path: Path, error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return f"queue {path} is in use by another run; end that run or give this one its own folder with --queue"
    if isinstance(error, sqlite3.OperationalError):
        return f"cannot write queue {path}: {error}; make room or choose another folder with --queue"
    return f"{path} is no queue of sdi-run, or is damaged ({error}); move it away or choose another folder with --queue"
