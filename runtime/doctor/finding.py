"""One line of the doctor's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdi.runtime.common.errors import SdiError

__all__ = ["Finding", "fault", "fault_of", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, what was found, and what mends or improves it."""

    check: str
    status: Literal["ok", "note", "fault"]  # a note: works, or is not needed by all
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", found)


def note(check: str, found: str, fix: str = "") -> Finding:
    """Works, though something is missing that not everybody needs."""
    return Finding(check, "note", found, fix)


def fault(check: str, found: str, fix: str) -> Finding:
    """Does not work."""
    return Finding(check, "fault", found, fix)


def fault_of(check: str, error: SdiError) -> Finding:
    """An error as a fault: our messages say what is wrong, then what mends it, with a semicolon between."""
    found, _, fix = str(error).partition("; ")
    return fault(check, found, fix)
