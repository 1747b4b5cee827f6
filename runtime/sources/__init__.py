"""Where frames come from.

A source is opened before the loop starts, so that what is wrong is said before the first frame.
"""

from __future__ import annotations

import abc
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sdi.runtime.errors import InputError
from sdi.runtime.frame import Frame, Skipped
from sdi.runtime.images import IMAGE_SUFFIXES, images_among, list_images

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Source", "open_source"]


class Source(abc.ABC):
    """An opened source; a context manager.

    Attributes:
        name: as the user gave it.
        live: True where frames come whether one is ready or not, so that stale ones are dropped.
        length: number of frames, where it is known.
        fps: frames a second at which a video of it should play.
        inputs: the files it reads, so that no output lands on them.
    """

    name: str
    live: bool
    length: int | None
    fps: float = 25.0
    inputs: Sequence[Path] = ()

    @abc.abstractmethod
    def frames(self) -> Iterator[Frame | Skipped]:
        """Frames until the source ends. Called once, from the thread that grabs.

        Raises:
            DeviceError: a live source was lost.
        """

    def close(self) -> None:
        """Release the device or file. Called after `frames` has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(spec: str) -> Source:
    """Open a source by what it is.

    Args:
        spec: "demo", "camera:N", a URL with "://" (RTSP, HTTP: live), a folder, a glob, an image or a video file.
    Raises:
        InputError: nothing there, or nothing in it.
        DeviceError: a camera or stream does not open.
    """
    from sdi.runtime.sources.camera import CameraSource
    from sdi.runtime.sources.demo import DemoSource
    from sdi.runtime.sources.images import ImageSource
    from sdi.runtime.sources.video import VideoSource

    if not spec:
        raise InputError("the source is empty; give a folder, an image, a video, a URL, camera:N or demo")
    if spec == "demo":
        return DemoSource()
    if spec.startswith("camera:"):
        number = spec.removeprefix("camera:")
        if not number.isdecimal():
            raise InputError(f"'{spec}': a camera is given by its index, e.g. camera:0")
        return CameraSource(int(number))
    if "://" in spec and not spec.startswith("file://"):
        return CameraSource(spec)
    path = Path(url2pathname(urlsplit(spec).path)) if spec.startswith("file://") else Path(spec)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise InputError(f"cannot read source '{spec}': {error.strerror}") from error
    if is_folder:
        return ImageSource(spec, list_images(path))
    if is_file:
        return ImageSource(spec, [path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path)
    matches = images_among(Path(match) for match in glob.glob(spec, recursive=True))
    if matches:
        return ImageSource(spec, matches)
    raise InputError(
        f"source '{spec}' is not there: expected a folder, a glob ('strip/*.png', quoted), an image, a video, a URL, "
        "camera:N or demo"
    )
