"""A sink of your own: every defect as a row of an SQLite table, to be asked by whoever plans the repairs.

python examples/defect_table.py defects.sqlite
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from sdi.runtime import Event, InputError, Loop, Result, Sink, default_engine, open_engine, open_source

_TABLES = """
CREATE TABLE IF NOT EXISTS defects (source TEXT, frame TEXT, time REAL, x INT, y INT, width INT, height INT, peak REAL);
CREATE TABLE IF NOT EXISTS events (source TEXT, kind TEXT, time REAL, text TEXT);
"""


class TableSink(Sink):
    """Rows appear a frame at a time, whole or not at all.

    Raises:
        InputError: the file cannot be written, or is no SQLite database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:  # a sink proves that it can write when it is made, before the first frame
            self._table = sqlite3.connect(path)
            self._table.executescript(_TABLES)
        except sqlite3.Error as error:
            raise InputError(f"{path} cannot hold the table of defects: {error}; choose another file") from error

    def write(self, result: Result) -> None:
        frame = result.frame
        self._insert(
            "INSERT INTO defects VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(frame.source, frame.name, frame.wall_time, r.x, r.y, r.width, r.height, r.peak) for r in result.regions],
        )

    def event(self, event: Event) -> None:
        row = (event.source, event.kind, event.wall_time, event.text)
        self._insert("INSERT INTO events VALUES (?, ?, ?, ?)", [row])

    def close(self, *, complete: bool) -> None:
        self._table.close()

    def _insert(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        try:
            with self._table:  # one transaction
                self._table.executemany(statement, rows)
        except sqlite3.Error as error:
            raise InputError(f"{self._path} takes no more rows: {error}") from error


def main() -> None:
    path = Path(sys.argv[1])
    with open_engine(default_engine()) as engine, open_source("demo") as source, TableSink(path) as sink:
        Loop(source, engine, [sink]).run()
    table = sqlite3.connect(path)
    for row in table.execute("SELECT frame, count(*), max(peak) FROM defects GROUP BY frame ORDER BY frame"):
        print("{}: {} defects, the clearest {:.2f}".format(*row))
    table.close()


if __name__ == "__main__":
    main()
