"""The C library's allocator, asked in a process of its own: what it is told lasts."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import sys
import numpy as np
from sdi.runtime.bench.measure import resident_mib
from sdi.train.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resident_mib("VmRSS")
block = np.ones(64 << 20, np.uint8)
held = resident_mib("VmRSS") - before
del block
print(held, resident_mib("VmRSS") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's allocator")
def test_freed_memory_is_kept() -> None:
    for how, keeps in (("plain", False), ("keep", True)):
        done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
        held, left = map(float, done.stdout.split())
        assert held >= 60, "64 MiB were used"
        assert (left >= 60) == keeps
