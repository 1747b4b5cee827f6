"""Evidence: frame, map and record of every alarm, within a size budget."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from sdi.runtime.common.console import warn
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.output_folder import claim_folder, safe_name
from sdi.runtime.frame import Event, Result
from sdi.runtime.records import event_record, result_record
from sdi.runtime.sinks.base import Counter, Sink
from sdi.runtime.sinks.view import closeup

__all__ = ["EvidenceSink"]

_WHAT = "keep-defects"
_UNFINISHED = ".unfinished"


class EvidenceSink(Sink):
    """`FOLDER/NUMBER_FRAME/` for every alarm: `frame.png` as the engine saw it, `mask.png` (probability x 255) and
    `alarm.json` (the frame's record, and the event's). Of frames over 640 pixels also `closeup.png` and
    `closeup_mask.png`: the surroundings of the largest defect, pixel by pixel. A folder appears whole or not at all.

    Numbers go up over restarts and do not depend on the clock. The oldest folders are removed before all exceed
    `max_bytes`, and also when the disk is full. When nothing is left to remove, the alarm's evidence is lost and
    counted, and the run goes on.

    Raises:
        InputError: the folder cannot be written, is not ours, or another run writes there.
    """

    def __init__(self, folder: Path, max_bytes: int, *, overwrite: bool = False) -> None:
        self._folder = claim_folder(folder, _WHAT, overwrite)
        self._lock = _lock(self._folder)
        self._max_bytes = max_bytes
        self.lost = 0
        shutil.rmtree(self._folder / _UNFINISHED, ignore_errors=True)  # of a run that was killed
        numbered = sorted((path for path in self._folder.glob("*_*") if _number(path)), key=_number)
        ours = [path for path in numbered if (path / "alarm.json").is_file()]
        self._kept = deque((path, _bytes_in(path)) for path in ours)  # oldest first
        self._bytes = sum(size for _, size in self._kept)
        self._next = _number(numbered[-1]) + 1 if numbered else 1

    def write(self, result: Result) -> None:
        """Alarms come as events."""

    def event(self, event: Event) -> None:
        if event.kind != "alarm" or event.result is None:
            return
        files = _files(event, event.result)
        size = sum(map(len, files.values()))
        folder = self._folder / f"{self._next:06d}_{safe_name(event.result.frame.name)[:100]}"
        if size > self._max_bytes:
            self._lose(folder, f"it takes {size} bytes, more than all may; raise --keep-mb")
            return
        while self._bytes + size > self._max_bytes:
            self._remove_oldest()
        while (error := self._keep(folder, files)) is not None:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._kept:
                self._lose(folder, f"{error.strerror}; make room on its disk")
                return
            self._remove_oldest()
        self._next += 1
        self._kept.append((folder, size))
        self._bytes += size

    def counters(self) -> Sequence[Counter]:
        return (Counter("evidence_lost", "Alarms of this run without evidence.", self.lost),)

    def close(self, *, complete: bool) -> None:
        if self.lost:
            warn(f"{self.lost} alarms left no evidence in {self._folder}: it could not be written")
        self._lock.close()

    def _keep(self, folder: Path, files: dict[str, bytes]) -> OSError | None:
        unfinished = self._folder / _UNFINISHED
        try:
            unfinished.mkdir(exist_ok=True)
            for name, data in files.items():
                with open(unfinished / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())  # a full disk may show itself only here
            unfinished.replace(folder)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            return error
        return None

    def _remove_oldest(self) -> None:
        path, size = self._kept.popleft()
        shutil.rmtree(path, ignore_errors=True)
        self._bytes -= size

    def _lose(self, folder: Path, why: str) -> None:
        self.lost += 1
        if self.lost == 1:  # the number of losses is logged at the end
            warn(f"the evidence {folder} could not be kept: {why}")


def _files(event: Event, result: Result) -> dict[str, bytes]:
    record = {**event_record(event), "result": result_record(result)}
    files = {"frame.png": _png(result.frame.image), "mask.png": _png(result.saliency)}
    part = closeup(result)
    if part is not None:
        rows, columns = part
        box = {"x": columns.start, "y": rows.start, "width": columns.stop - columns.start}
        record["closeup"] = {**box, "height": rows.stop - rows.start}
        files["closeup.png"] = _png(result.frame.image[part])
        files["closeup_mask.png"] = _png(result.saliency[part])
    return {**files, "alarm.json": (json.dumps(record, indent=2) + "\n").encode()}


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _number(path: Path) -> int:
    """The number a folder begins with; 0 where it is none of ours."""
    head = path.name.partition("_")[0]
    return int(head) if re.fullmatch(r"[0-9]{6,}", head) else 0


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _lock(folder: Path) -> BinaryIO:
    """Hold the folder for this process; the system lets go of it however the process ends."""
    file = open(folder / f".sdi-{_WHAT}", "rb+")  # noqa: SIM115 - held open until `close`
    with suppress(ImportError):  # no such locks on Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InputError(f"another run keeps evidence in {folder}; give --keep-defects another folder") from error
    return file
