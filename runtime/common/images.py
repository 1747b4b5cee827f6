"""Image files: the one reader and writer that training, calibration, export and the runtime share.

One implementation means that a picture is the same array wherever it is used, so parity between training and
the line starts here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.files import write_bytes

__all__ = [
    "IMAGE_SUFFIXES",
    "check_frame",
    "check_frames",
    "decode_image",
    "images_among",
    "list_images",
    "read_gray",
    "read_image",
    "read_split",
    "resize_image",
    "write_image",
]

# OpenCV warns on stderr about files that our own errors name; logging is its one process-wide setting. Up to 4.12,
# JetPack's among them, the function is in cv2 itself, from 4.13 on in cv2.utils.logging alone.
_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
_set_log_level(0)  # silent

_LEVELS = ((np.arange(1 << 16) + 128) // 257).astype(np.uint8)  # of 16 bit in 8, rounded; 257 = 65535 / 255
IMAGE_SUFFIXES = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff"})


def read_image(path: Path) -> np.ndarray:
    """Read BMP, PNG, JPEG or TIFF, 8 or 16 bit, gray or colour.

    EXIF orientation is applied, transparency dropped, gray repeated to three channels. 16 bit is mapped by its
    full range, 65535 to 255, whatever the picture holds: nothing is guessed from content.

    Returns:
        (H, W, 3) uint8, BGR, contiguous.
    Raises:
        InputError: the file is missing, empty, truncated, no image, or of another depth (named in the text).
    """
    return _read(Path(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)


def decode_image(data: bytes, name: str = "in memory") -> np.ndarray:
    """The picture in the bytes of a file, as `read_image` gives it.

    Args:
        data: a whole BMP, PNG, JPEG or TIFF.
        name: what errors call it.
    Returns:
        (H, W, 3) uint8, BGR, contiguous.
    Raises:
        InputError: empty, truncated, no image, or of another depth.
    """
    return _decode(data, name, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)


def check_frame(image: np.ndarray) -> None:
    """Refuse an array that is not a picture as from `read_image`. Nothing is silently cast, cut or repeated.

    Raises:
        InputError: not (H, W, 3) uint8, or without a pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"frame must be (H, W, 3) uint8 BGR, got {image.shape} {image.dtype}")


def check_frames(frames: np.ndarray, name: str) -> None:
    """As `check_frame`, for what an engine's `execute` is given: (N, H, W, 3) uint8, one frame at least.

    Args:
        name: of the engine.
    Raises:
        InputError: it is something else.
    """
    if isinstance(frames, np.ndarray):
        if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and frames.size:
            return
        found = f"{frames.shape} {frames.dtype}"
    else:
        found = type(frames).__name__
    raise InputError(f"{name} takes frames (N, H, W, 3) uint8 BGR, one at least; got {found}")


def read_gray(path: Path) -> np.ndarray:
    """Read a mask or a saliency map: as `read_image`, but (H, W) uint8."""
    return _read(Path(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)


def write_image(path: Path, image: np.ndarray) -> None:
    """Encode (H, W) or (H, W, 3) BGR uint8 by the suffix of `path`; whole or not at all.

    Raises:
        InputError: the suffix names no known format, or the folder cannot be written.
    """
    path = Path(path)
    try:
        encoded, data = cv2.imencode(path.suffix, image)
    except cv2.error as error:
        raise InputError(f"{path.name}: '{path.suffix}' is no image format known here; use .png") from error
    if not encoded:
        raise InputError(f"{path.name}: encoding as '{path.suffix}' failed; use .png")
    write_bytes(path, data.tobytes(), durable=False)  # a map can be computed again


def resize_image(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Bilinear, no antialiasing, corners not aligned: what the Resize inside an engine computes too.

    Args:
        image: (H, W) or (H, W, 3), uint8 or float32. Returned as it is when the size already fits.
        size_hw: wanted (height, width).
    """
    if image.shape[:2] == size_hw:
        return image
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR)


def list_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, by name with numbers in their order (`In_2` before `In_10`).

    Raises:
        InputError: not a folder, or no image in it.
    """
    folder = Path(folder)
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; expected a folder of images")
        found = images_among(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}") from error
    if not found:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"no image in folder {folder}; expected files ending in {kinds}")
    return found


def images_among(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that are image files by their suffix and not hidden, in the order of `list_images`."""
    found = (p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and not p.is_dir())
    return sorted(found, key=_natural_key)


def read_split(path: Path) -> list[str]:
    """The picture names (stems) listed in a split file, one a line; blank lines do not count.

    Raises:
        InputError: the file is missing, is no UTF-8 text, lists nothing or lists a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read split file {path}: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"split file {path} lists no picture")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise InputError(f"{len(twice)} listed more than once in {path}: {some_of(twice)}")
    return names


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts: list[tuple[int, int, str]] = []
    number = ""
    for char in path.stem + "\0":
        if char.isdecimal():
            number += char
            continue
        if number:
            parts.append((0, int(number), ""))
            number = ""
        parts.append((1, 0, char))
    return parts, path.name


def _read(path: Path, flags: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read image {path}: {error.strerror}") from error
    return _decode(data, str(path), flags)


def _decode(data: bytes, name: str, flags: int) -> np.ndarray:
    if not data:
        raise InputError(f"image {name} is empty (0 bytes)")
    if not _is_whole(data):
        raise InputError(f"image {name} is truncated: its end is missing after {len(data)} bytes; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"cannot decode image {name}: {error.err}") from error
    if image is None:
        raise InputError(f"cannot decode image {name}: it is corrupt, or no 8 or 16 bit BMP, PNG, JPEG or TIFF")
    if image.dtype == np.uint16:
        image = _LEVELS[image.astype(np.uint16, copy=False)]
    if image.dtype != np.uint8:
        raise InputError(f"image {name} holds {image.dtype} values; expected 8 or 16 bit integers, convert it first")
    return image


def _is_whole(data: bytes) -> bool:
    """False where the format marks its end and the end is missing: OpenCV fills the rest with gray, silently."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND\xaeB`\x82" in data  # the last chunk and its checksum
    if data.startswith(b"\xff\xd8\xff"):
        # An end marker after the last start of scan: a thumbnail's comes before it, and padding may follow.
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if data.startswith(b"BM") and len(data) >= 6:
        return len(data) >= int.from_bytes(data[2:6], "little")
    return True
