"""What training on a CPU asks of the C library's allocator."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# malloc.h of the GNU C library
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for good.

    By default the GNU C library maps every great block anew and returns it at once, so each step of a training pays
    for fresh, zeroed pages of all its activations.

    Returns:
        True where the C library took it; False elsewhere than on Linux with the GNU C library.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    taken = [
        mallopt(name, value) == 1
        for name, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    ]
    return all(taken)
