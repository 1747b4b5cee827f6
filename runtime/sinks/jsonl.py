"""Results as JSON Lines."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from sdi.runtime.errors import InputError
from sdi.runtime.frame import Result, Skipped
from sdi.runtime.sinks import Sink

__all__ = ["JsonlSink"]


class JsonlSink(Sink):
    """One line a frame, flushed at once; `-` is stdout. A file is appended to, so a restart loses nothing.

    A frame's line: `frame` (index), `name`, `source`, `time` (capture, UTC), `engine_ms`, `age_ms`, `drops`,
    `defects` (see `Region`). A line with `event` tells of something that gave no picture.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._file: TextIO
        self._path = "stdout" if path == "-" else path
        self._owned = path != "-"
        if not self._owned:
            self._file = sys.stdout
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = Path(path).open("a+", encoding="utf-8")  # noqa: SIM115 - closed by `close`
            _end_half_line(self._file)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; choose another file for --jsonl") from error

    def write(self, result: Result) -> None:
        frame = result.frame
        self._line(
            {
                "frame": frame.index,
                "name": frame.name,
                "source": frame.source,
                "time": _utc(frame.wall_time),
                "engine_ms": round(result.engine_ms, 3),
                "age_ms": round(result.age_ms, 3),
                "drops": result.drops,
                "defects": [asdict(region) for region in result.regions],
            }
        )

    def note(self, skipped: Skipped) -> None:
        self._line(
            {
                "event": "skipped",
                "name": skipped.name,
                "source": skipped.source,
                "time": _utc(skipped.wall_time),
                "reason": skipped.reason,
            }
        )

    def close(self, *, complete: bool) -> None:
        if self._owned:
            with suppress(OSError):  # every line was flushed, so a failure has been told
                self._file.close()

    def _line(self, value: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()
        except BrokenPipeError:  # the reader has gone, which is no fault
            raise
        except OSError as error:
            raise InputError(
                f"cannot write {self._path}: {error.strerror}; make room or choose another file"
            ) from error


def _end_half_line(file: TextIO) -> None:
    """A power cut may have left a line without its end; the next one must not be glued to it."""
    end = file.seek(0, 2)
    if end > 0 and file.seekable():
        file.seek(end - 1)
        if file.read(1) != "\n":
            file.write("\n")


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
