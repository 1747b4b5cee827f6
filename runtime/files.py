"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdi.runtime.errors import InputError

__all__ = ["atomic_path", "ensure_folder", "sha256_of", "write_bytes", "write_text"]


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it onto `path` when the block ends well.

    The temporary name keeps the suffix (encoders choose by it) and is removed if the block raises.

    Args:
        durable: survive a power cut too (waits for the disk); False survives only the end of the process.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    try:
        # A few letters of the name tell whose it is; all of them might be more than a file name may have.
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:16]}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        # mkstemp makes 0600; a finished file has the mode that any other new file would have.
        os.chmod(name, 0o666 & ~_UMASK)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you can write") from error
    try:
        yield Path(name)
        if durable:
            with open(name, "rb") as written:
                os.fsync(written.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        InputError: the folder cannot be written, the disk is full, or `path` is a folder.
    """
    try:
        with atomic_path(path, durable=durable) as beside:
            beside.write_bytes(data)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; make room or choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_bytes(path, text.encode())


def ensure_folder(folder: Path) -> Path:
    """Make `folder` if need be and prove that it can be written.

    Raises:
        InputError: it is a file, or cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to folder {folder}: {error.strerror}; choose another folder") from error
    return folder


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# The umask can only be read by setting it; do so once, at import, before any thread starts.
_UMASK = os.umask(0)
os.umask(_UMASK)
