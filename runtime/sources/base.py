"""The base class of every source of frames.

A source is opened before the loop starts, so that an error comes before the first frame.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from sdi.runtime.frame import Event, Frame, Skipped

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Source"]

_TICK_S = 0.1  # a pause looks this often whether it should end


class Source(abc.ABC):
    """An opened source; a context manager.

    Attributes:
        name: as the user gave it; every record of its frames carries it.
        prefix: put before the names of its frames, so that the names of several sources differ.
        live: True where frames come at the camera's pace, so that old ones are dropped.
        endless: True where only a signal ends it: a live source, or a watched folder.
        length: number of frames, where it is known.
        fps: frames a second for a video of its frames.
        inputs: the files it reads, so that no output overwrites them.
        stopping: set by `stop`; `frames` ends soon after.
        seen: time.monotonic() when it last gave a frame or paused. It stays old while a read hangs in a driver.
    """

    name: str
    prefix: str = ""
    live: bool
    endless: bool = False
    length: int | None = None
    fps: float = 25.0
    inputs: Sequence[Path] = ()
    stopping: bool = False
    seen: float = 0.0

    @abc.abstractmethod
    def frames(self) -> Iterator[Frame | Skipped | Event]:
        """Frames until the source ends. Called once, from the thread that grabs.

        Raises:
            DeviceError: a live source was lost for good.
        """

    def stop(self) -> None:
        """Ask `frames` to end. It sets a plain value, so a signal handler may call it."""
        self.stopping = True

    def recycle(self, image: np.ndarray) -> None:
        """Take back the image of a dropped frame, which nobody has seen; its memory may be used again.

        Called from the thread that grabs, when a newer frame has come.
        """

    def close(self) -> None:
        """Release the device or file. Called after `frames` has ended."""

    def frame(self, index: int, name: str, image: np.ndarray) -> Frame:
        """A frame captured now."""
        self.seen = time.monotonic()
        return Frame(index, self.prefix + name, self.name, image, self.seen, time.time())

    def skipped(self, name: str, reason: str) -> Skipped:
        """Something that gave no picture, now."""
        return Skipped(self.prefix + name, self.name, reason, time.time())

    def event(self, kind: str, text: str, **details: Any) -> Event:
        """An event of this source, now."""
        return Event(kind, self.name, f"{self.name} {text}", time.time(), details)

    def pause(self, seconds: float) -> None:
        """Wait, but not when asked to stop."""
        end = time.monotonic() + seconds
        while not self.stopping and (left := end - (now := time.monotonic())) > 0:
            self.seen = now
            time.sleep(min(_TICK_S, left))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
