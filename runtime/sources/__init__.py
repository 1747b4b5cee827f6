"""Where frames come from.

A source is opened before the loop starts, so that what is wrong is said before the first frame.
"""

from __future__ import annotations

import abc
import glob
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from sdi.runtime.errors import InputError
from sdi.runtime.frame import Event, Frame, Skipped
from sdi.runtime.images import IMAGE_SUFFIXES, images_among, list_images

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LiveSettings", "Source", "open_source", "open_sources"]

_KINDS = (
    "a folder, a quoted glob ('strip/*.png'), an image, a video, watch:FOLDER, camera:N, /dev/videoN, csi:N, a URL, "
    "a GStreamer pipeline or demo"
)
_TICK_S = 0.1  # how long a pause sleeps before it looks whether it should end


class Source(abc.ABC):
    """An opened source; a context manager.

    Attributes:
        name: as the user gave it; what every record of its frames carries.
        prefix: put before the names of its frames, so that those of several sources differ.
        live: True where frames come whether one is ready or not, so that stale ones are dropped.
        endless: True where only a signal ends it: what is live, and a watched folder.
        length: number of frames, where it is known.
        fps: frames a second at which a video of it should play.
        inputs: the files it reads, so that no output lands on them.
        stopping: set by `stop`; `frames` ends soon after.
        seen: time.monotonic() when it last gave or awaited something: a read that hangs in a driver gives no sign.
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
        """Take back the image of a frame that nobody has seen and nobody will; its memory may be written again.

        Called from the thread that grabs, when a newer frame has come.
        """

    def close(self) -> None:
        """Release the device or file. Called after `frames` has ended."""

    def frame(self, index: int, name: str, image: np.ndarray) -> Frame:
        """A frame captured now."""
        self.seen = time.monotonic()
        return Frame(index, self.prefix + name, self.name, image, self.seen, time.time())

    def skipped(self, name: str, reason: str) -> Skipped:
        """What gave no picture, now."""
        return Skipped(self.prefix + name, self.name, reason, time.time())

    def event(self, kind: str, text: str, **details: Any) -> Event:
        """What happened to this source, now."""
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


@dataclass(frozen=True)
class LiveSettings:
    """What is asked of cameras and streams.

    Args:
        fps, fourcc: asked of cameras alone; None leaves them to the driver.
        size_wh: width and height asked of cameras, and required of every live source; None takes what comes.
        give_up_s: seconds that a lost source is tried again for; None: for ever, 0: not at all.
        frozen_after: identical frames in a row that count as a frozen source; 0 never looks.
    Raises:
        InputError: a value is out of range.
    """

    fps: float | None = None
    size_wh: tuple[int, int] | None = None
    fourcc: str | None = None
    give_up_s: float | None = None
    frozen_after: int = 50

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < 10_000:
            raise InputError(f"--fps must be above 0, e.g. 30, got {self.fps}")
        if self.size_wh is not None and min(self.size_wh) < 1:
            raise InputError(f"--size must be a width and a height, e.g. 1920x1080, got {self.size_wh}")
        if self.fourcc is not None and len(self.fourcc) != 4:
            raise InputError(f"--fourcc must have four letters, e.g. MJPG or YUYV, got '{self.fourcc}'")
        if self.give_up_s is not None and not self.give_up_s >= 0:
            raise InputError(f"--give-up must be 0 or more seconds, got {self.give_up_s}")
        if self.frozen_after < 0 or self.frozen_after == 1:
            raise InputError(f"--frozen-after must be 0 (never) or at least 2 frames, got {self.frozen_after}")


def open_source(spec: str, settings: LiveSettings | None = None, prefix: str = "") -> Source:
    """Open a source by what it is.

    Args:
        spec: a folder, a quoted glob, an image or a video file; "watch:FOLDER" (pictures as they appear; "-" watches
            the folder that the program was started in); a camera: "camera:0", "/dev/video0", or on a Jetson "csi:0";
            a stream's URL; a GStreamer pipeline, "gst:..." or any text with " ! "; or "demo". "NAME=..." gives the
            source a name of its own.
        settings: for cameras and streams.
        prefix: put before the names of its frames.
    Raises:
        InputError: nothing there, or nothing in it.
        DeviceError: a camera or stream does not open, or does not give what `settings` asks for.
    """
    from sdi.runtime.sources.capture import is_live
    from sdi.runtime.sources.demo import DemoSource
    from sdi.runtime.sources.images import ImageSource
    from sdi.runtime.sources.live import open_live
    from sdi.runtime.sources.video import VideoSource
    from sdi.runtime.sources.watch import WatchSource

    if not spec:
        raise InputError(f"the source is empty; give {_KINDS}")
    name, spec = _split_name(spec)
    source: Source
    if spec == "demo":
        source = DemoSource()
    elif spec == "-" or spec.startswith("watch:"):
        source = WatchSource(Path("." if spec == "-" else spec.removeprefix("watch:")))
    elif is_live(spec):
        source = open_live(spec, settings or LiveSettings())
    else:
        path = Path(url2pathname(urlsplit(spec).path)) if spec.startswith("file://") else Path(spec)
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except OSError as error:
            raise InputError(f"cannot read source '{spec}': {error.strerror}") from error
        if is_folder:
            source = ImageSource(spec, list_images(path))
        elif is_file and path.suffix.lower() in IMAGE_SUFFIXES:
            source = ImageSource(spec, [path])
        elif is_file:
            source = VideoSource(path)
        elif matches := images_among(Path(match) for match in glob.glob(spec, recursive=True)):
            source = ImageSource(spec, matches)
        else:
            raise InputError(f"source '{spec}' is not there: expected {_KINDS}")
    source.name = name or source.name
    source.prefix = prefix
    return source


def open_sources(specs: Sequence[str], settings: LiveSettings | None = None) -> list[Source]:
    """Open several sources for one run; all or none.

    Their frames are named apart by a prefix: the source's own name where it has one, else its number from 1.

    Raises:
        InputError, DeviceError: as `open_source`; or two sources have one name.
    """
    names = [_split_name(spec)[0] or str(number) for number, spec in enumerate(specs, 1)]
    with ExitStack() as stack:
        sources = []
        for name, spec in zip(names, specs, strict=True):
            prefix = f"{name}_" if len(specs) > 1 else ""
            sources.append(stack.enter_context(open_source(spec, settings, prefix)))
        twice = [name for name, n in Counter(source.name for source in sources).items() if n > 1]
        if twice or len(set(names)) < len(names):
            raise InputError(f"two sources are called {(twice or names)[0]}; name them, e.g. --source left=camera:0")
        stack.pop_all()
    return sources


def _split_name(spec: str) -> tuple[str | None, str]:
    """ "left=rtsp://..." -> ("left", "rtsp://..."); a file that is there keeps its equals sign."""
    match = re.fullmatch(r"([A-Za-z][\w-]*)=(.+)", spec)
    if match is None or os.path.lexists(spec):
        return None, spec
    return match[1], match[2]
