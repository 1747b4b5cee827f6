"""Runs inside the environment under test, `python answers.py ENGINE...`: does each load and keep its golden answer?

It exits with 1 where an engine does not load, or answers otherwise than its manifest says.
"""

from __future__ import annotations

import platform
import sys

from sdi.runtime.common.errors import SdiError
from sdi.runtime.engine.open import open_engine


def main() -> int:
    """Number of engines that fail, at most 1."""
    failed = 0
    for path in sys.argv[1:]:
        try:
            with open_engine(path, "cpu", threads=1) as engine:
                golden = engine.golden_check()
                device = engine.device
        except SdiError as error:
            print(f"FAILED {path}: {error}", flush=True)
            failed = 1
            continue
        passed = golden is not None and golden.passed
        off = (
            "no golden record" if golden is None else f"{golden.difference:.2f} of {golden.tolerance:g} gray levels off"
        )
        print(f"{'ok    ' if passed else 'FAILED'} {path}: {off} ({device}, {platform.machine()})", flush=True)
        failed |= not passed
    return failed


if __name__ == "__main__":
    sys.exit(main())
