"""Results and events as JSON Lines."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from sdi.runtime.common.errors import InputError
from sdi.runtime.frame import Event, Result, Skipped
from sdi.runtime.records import event_record, result_record, skipped_record
from sdi.runtime.sinks.base import Sink

__all__ = ["JsonlSink"]


class JsonlSink(Sink):
    """One line a frame and one an event, flushed at once; `-` is stdout. See `sdi.runtime.records`.

    A file is appended to, so a restart loses nothing. A file that would exceed `max_bytes` is renamed to `NAME.1`, the
    earlier `NAME.1` to `NAME.2`, and so on; `keep` of these are kept.

    Args:
        max_bytes: None: one file of any size.
    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: str, *, max_bytes: int | None = None, keep: int = 5) -> None:
        self._file: TextIO
        self._path = "stdout" if path == "-" else path
        self._owned = path != "-"
        self._max_bytes = max_bytes if self._owned else None
        self._keep = keep
        self._bytes = 0
        if not self._owned:
            self._file = sys.stdout
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; choose another file for --jsonl") from error

    def write(self, result: Result) -> None:
        self._line(result_record(result))

    def note(self, skipped: Skipped) -> None:
        self._line(skipped_record(skipped))

    def event(self, event: Event) -> None:
        self._line(event_record(event))

    def close(self, *, complete: bool) -> None:
        if self._owned:
            with suppress(OSError):  # every line was flushed, so a failure was raised before
                self._file.close()

    def _line(self, value: dict[str, Any]) -> None:
        line = json.dumps(value) + "\n"  # ASCII: as many bytes as characters
        try:
            if self._max_bytes is not None and self._bytes and self._bytes + len(line) > self._max_bytes:
                self._rotate()
            self._file.write(line)
            self._file.flush()
            self._bytes += len(line)
        except BrokenPipeError:  # the reader has gone, which is no fault
            raise
        except OSError as error:
            raise InputError(
                f"cannot write {self._path}: {error.strerror}; make room or choose another file"
            ) from error

    def _open(self) -> None:
        self._file = Path(self._path).open("a+", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        _end_half_line(self._file)
        self._bytes = self._file.seek(0, 2) if self._file.seekable() else 0

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                Path(f"{self._path}.{number}").replace(f"{self._path}.{number + 1}")
        Path(self._path).replace(f"{self._path}.1")
        self._open()


def _end_half_line(file: TextIO) -> None:
    """A power cut may have left a line without its end; the next one must not be glued to it."""
    end = file.seek(0, 2)
    if end > 0 and file.seekable():
        file.seek(end - 1)
        if file.read(1) != "\n":
            file.write("\n")
