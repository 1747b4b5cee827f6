"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdi.runtime.common.errors import InputError

__all__ = ["atomic_path", "create_beside", "ensure_folder", "sha256_of", "write_bytes", "write_text"]


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
    beside = create_beside(path)
    try:
        yield beside
        if durable:
            with beside.open("rb") as written:
                os.fsync(written.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def create_beside(path: Path) -> Path:
    """An empty new file in the folder of `path`, hidden, with its suffix, to be written and renamed onto it.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    # A few letters of the name tell whose it is; all of them might be more than a file name may have.
    beside = path.with_name(f".{path.stem[:16]}-{secrets.token_hex(6)}{path.suffix}")
    try:
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the mode of any other new file
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you can write") from error
    return beside


def write_bytes(path: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
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
