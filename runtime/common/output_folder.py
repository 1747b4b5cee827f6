"""Output folders: ours to write in, or not."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import ensure_folder

__all__ = ["claim_folder", "remove_stale", "safe_name"]


def claim_folder(folder: Path, what: str, overwrite: bool, writer: str = "") -> Path:
    """Make `folder` ours. It must be new, empty, or filled by an earlier run, which left a hidden marker file.

    Args:
        what: what is written there, "masks" or "overlay"; a folder of one cannot hold the other.
        writer: the command and option that write it, for the error text; by default sdi-run's option `what`.
    Raises:
        InputError: it cannot be written, or holds files that are not ours and `overwrite` is not set.
    """
    folder = Path(folder)
    marker = folder / f".sdi-{what}"
    try:
        foreign = folder.is_dir() and not marker.exists() and any(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot use folder {folder}: {error.strerror}; choose another folder") from error
    if foreign and not overwrite:
        raise InputError(
            f"folder {folder} holds files that {writer or f'sdi-run --{what}'} did not write; choose another folder or "
            "pass --overwrite"
        )
    ensure_folder(folder)
    marker.touch()
    return folder


def remove_stale(folder: Path, name: str) -> None:
    """Remove what an earlier run wrote for a picture that this run could not read."""
    with suppress(OSError):
        (folder / f"{name}.png").unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """A name of a frame or a source as part of a file's: what some file system forbids becomes `_`."""
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name)
