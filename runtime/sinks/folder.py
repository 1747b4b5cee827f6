"""Output folders: ours to write in, or not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sdi.runtime.errors import InputError
from sdi.runtime.files import ensure_folder

__all__ = ["claim_folder", "remove_stale"]


def claim_folder(folder: Path, what: str, overwrite: bool) -> Path:
    """Make `folder` ours: new, empty, or filled with the same by an earlier run (a hidden marker file says so).

    Args:
        what: what is written there, "masks" or "overlay"; a folder of one does not serve for the other.
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
            f"folder {folder} holds files that sdi-run --{what} did not write; choose another folder or pass "
            "--overwrite"
        )
    ensure_folder(folder)
    marker.touch()
    return folder


def remove_stale(folder: Path, name: str) -> None:
    """Take away what an earlier run wrote for a picture that this run could not read."""
    with suppress(OSError):
        (folder / f"{name}.png").unlink(missing_ok=True)
