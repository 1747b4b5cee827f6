"""One line of the report of `sdi-doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdi.runtime.common.errors import SdiError

__all__ = ["Finding", "fault", "fault_of", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """What was checked, its status, what was found, and what mends or improves it."""

    check: str
    status: Literal["ok", "note", "fault"]  # a note: it works, or not everybody needs it
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", found)


def note(check: str, found: str, fix: str = "") -> Finding:
    """It works, but something is missing that some people need."""
    return Finding(check, "note", found, fix)


def fault(check: str, found: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(check, "fault", found, fix)


def fault_of(check: str, error: SdiError) -> Finding:
    """An error as a fault. Our messages name the problem and then the remedy, with a semicolon between."""
    found, _, fix = str(error).partition("; ")
    return fault(check, found, fix)
