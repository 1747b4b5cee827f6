"""The kernels that TensorRT-RTX compiled for this GPU, kept for the next start: as executable as the plan itself."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import write_bytes

__all__ = ["read_kernels", "runtime_cache_path", "write_kernels"]


def runtime_cache_path(plan: Path) -> Path:
    """Where they are kept: beside the plan, where that folder can be written."""
    return plan.with_name(plan.name + ".cache")


def read_kernels(plan: Path) -> bytes | None:
    """What was kept for a plan; None where nothing was."""
    for path in (runtime_cache_path(plan), _state_path(plan)):
        with suppress(OSError):
            return path.read_bytes()
    return None


def write_kernels(plan: Path, data: bytes) -> None:
    """Keep `data` beside the plan, else in the state folder, else not: then the next start takes longer."""
    if read_kernels(plan) == data:
        return
    try:
        write_bytes(runtime_cache_path(plan), data)
    except InputError:
        path = _state_path(plan)
        with suppress(InputError, OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # nobody else may put kernels there
            write_bytes(path, data)


def _state_path(plan: Path) -> Path:
    """In systemd's StateDirectory, or the user's state folder; a name for each place that a plan may be at.

    Source: systemd.exec, "StateDirectory="; XDG Base Directory Specification, "XDG_STATE_HOME".
    """
    service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    user = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    folder = Path(service) if service else Path(user) / "sdi"
    place = hashlib.sha256(os.fsencode(plan.resolve())).hexdigest()[:16]
    return folder / "kernels" / f"{plan.stem[:64]}-{place}.cache"
