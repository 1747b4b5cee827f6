"""Options that were renamed: the old name still works, is not shown in `--help`, and names the new one."""

from __future__ import annotations

from typing import TypeVar

from sdi.runtime.common.console import warn
from sdi.runtime.common.errors import InputError

__all__ = ["renamed_option"]

T = TypeVar("T")


def renamed_option(new: str, value: T | None, old: str, old_value: T | None) -> T | None:
    """The value that was given under either name, or None; a warning names the new one where the old was used.

    Raises:
        InputError: both were given.
    """
    if old_value is None:
        return value
    if value is not None:
        raise InputError(f"{old} is the old name of {new}; give {new} alone")
    warn(f"{old} is now {new}")
    return old_value
