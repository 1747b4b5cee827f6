"""All errors that we raise, and the exit code of each kind."""

from __future__ import annotations

__all__ = ["DeviceError", "GateError", "InputError", "SdiError", "first_line", "some_of"]

_SHOWN = 8


class SdiError(Exception):
    """Base of every error that a user, a file or a device can cause.

    The message says who failed, what was expected, what arrived and how to mend it.
    """

    exit_code = 2


class GateError(SdiError):
    """A gate failed: parity, accuracy, or a defect found where none may be."""

    exit_code = 1


class InputError(SdiError):
    """Wrong use or bad input: a file, a folder, an option."""

    exit_code = 2


class DeviceError(SdiError):
    """A device or a source could not be opened, or was lost."""

    exit_code = 3


def some_of(items: list[str], separator: str = ", ") -> str:
    """The first eight items of a list for an error text, and how many more there are."""
    more = f"{separator}and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more


def first_line(error: Exception) -> str:
    """The first line of an error's text; without a text, the name of its class."""
    return (str(error).splitlines() or [type(error).__name__])[0]
