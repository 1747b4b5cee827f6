"""Output folders: ours to write in, or not."""

from __future__ import annotations

from pathlib import Path

from sdi.runtime.errors import InputError
from sdi.runtime.files import ensure_folder

__all__ = ["claim_folder"]

_MARKER = ".sdi-run"


def claim_folder(folder: Path, overwrite: bool) -> Path:
    """Make `folder` ours: new, empty, or written by an earlier run (a hidden marker file says so).

    Raises:
        InputError: it cannot be written, or holds files that are not ours and `overwrite` is not set.
    """
    folder = Path(folder)
    marker = folder / _MARKER
    try:
        foreign = folder.is_dir() and not marker.exists() and any(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot use folder {folder}: {error.strerror}; choose another folder") from error
    if foreign and not overwrite:
        raise InputError(
            f"folder {folder} holds files that sdi-run did not write; choose another folder or pass --overwrite"
        )
    ensure_folder(folder)
    marker.touch()
    return folder
