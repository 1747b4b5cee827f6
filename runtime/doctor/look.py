"""Two ways to examine a machine: run a program, and read a file."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

__all__ = ["answer_of", "text_of"]

_TIMEOUT_S = 20


def answer_of(*command: str) -> str | None:
    """Stdout of a program; None where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=True)
        return done.stdout
    return None


def text_of(path: Path) -> str:
    """A file's text; nothing where it cannot be read."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
