"""A folder that is watched: pictures are taken as they appear."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import images_among, read_image
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.sources.base import Source

__all__ = ["WatchSource"]

_SHARE = 4  # the pause after a look is so many times as long as the look, which takes long with many thousands of files

_State = tuple[int, int]  # size, time of last change


class WatchSource(Source):
    """Every picture in a folder: first those that are there, then each new one when it is whole. None is dropped.

    A file is whole when it can be read as a picture and had the same size and time at two looks in a row. A file that
    was renamed into the folder is taken at the second look; a file that is being written is taken when its writer has
    finished; a file that is written again is taken again. The folder is listed again and again, so network shares work.
    While the folder is gone (`source_lost`), it is tried again until `source_back`.

    Args:
        look_s: seconds between two looks into the folder, at least.
        settled_s: a picture that still cannot be read so long after its last change is broken.
    Raises:
        InputError: no such folder.
    """

    live = False
    endless = True

    def __init__(self, folder: Path, *, look_s: float = 0.2, settled_s: float = 2.0) -> None:
        self.name = f"watch:{folder}"
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; --watch takes the folder that pictures appear in")
        self._folder = folder
        self._look_s = look_s
        self._settled_s = settled_s
        self.inputs = [folder / "*"]  # no output may go into this folder: it would be taken as input
        self._seen: dict[Path, _State] = {}  # at the latest look
        self._since: dict[Path, float] = {}  # time.monotonic() when this state was first seen
        self._taken: dict[Path, _State] = {}  # as they were when they were taken

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        index, look_s, lost_at = 0, 0.0, None
        while not self.stopping:
            started = time.monotonic()
            try:
                ready = self._look()
                look_s = time.monotonic() - started
            except OSError as error:
                if lost_at is None:
                    lost_at = time.monotonic()
                    yield self.event("source_lost", f"was lost: {error.strerror}", reason=str(error.strerror))
            else:
                if lost_at is not None:
                    outage_s = time.monotonic() - lost_at
                    yield self.event("source_back", f"is back after {outage_s:.1f} s", outage_s=round(outage_s, 3))
                    lost_at = None
                stems = Counter(path.stem for path in self._seen)
                for path in ready:
                    if self.stopping:
                        return
                    name = path.stem if stems[path.stem] == 1 else path.name
                    try:
                        image = read_image(path)
                    except InputError as error:
                        settled = time.monotonic() - self._since[path] > self._settled_s
                        if settled or not path.exists():
                            self._taken[path] = self._seen[path]
                            yield self.skipped(name, str(error))
                        continue
                    self._taken[path] = self._seen[path]
                    yield self.frame(index, name, image)
                    index += 1
            self.pause(max(self._look_s, _SHARE * look_s))

    def _look(self) -> list[Path]:
        """Pictures that did not change between the last two looks and were not taken, the oldest first."""
        found: dict[Path, _State] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):  # it may just have gone
                    status = entry.stat()
                    found[Path(entry.path)] = (status.st_size, status.st_mtime_ns)
        now = time.monotonic()
        pictures = {path: found[path] for path in images_among(found)}
        still = {path for path, state in pictures.items() if self._seen.get(path) == state}
        self._since = {path: self._since[path] if path in still else now for path in pictures}
        self._seen = pictures
        self._taken = {path: state for path, state in self._taken.items() if path in pictures}
        return sorted(
            (path for path in pictures if path in still and self._taken.get(path) != pictures[path]),
            key=lambda path: pictures[path][1],
        )
