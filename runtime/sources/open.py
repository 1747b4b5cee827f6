"""Open a source by what it is."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import IMAGE_SUFFIXES, images_among, list_images
from sdi.runtime.sources.base import Source
from sdi.runtime.sources.settings import LiveSettings

__all__ = ["open_source", "open_sources"]

_KINDS = (
    "a folder, a quoted glob ('strip/*.png'), an image, a video, watch:FOLDER, camera:N, /dev/videoN, csi:N, a URL, "
    "a GStreamer pipeline or demo"
)


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
        InputError: there is no such source, or it is empty.
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
