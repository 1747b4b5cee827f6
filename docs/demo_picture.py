"""Puts the pictures that `make demo` wrote into docs/demo.png, a row for each kind of strip."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sdi.runtime.common.images import read_image, write_image

ROOT = Path(__file__).parent.parent
KINDS = ("inclusion", "patch", "scratch", "clean")
GAP = 4  # pixels of white between pictures


def main() -> None:
    """Three pictures of every kind, side by side."""
    columns = []
    for kind in KINDS:
        pictures = [read_image(ROOT / "out" / "demo" / "overlay" / f"{kind}_{n}.png") for n in (1, 2, 3)]
        framed = [cv2.copyMakeBorder(p, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255)) for p in pictures]
        columns.append(np.hstack(framed))
    rows = [np.hstack(columns[:2]), np.hstack(columns[2:])]
    write_image(ROOT / "docs" / "demo.png", np.vstack(rows))


if __name__ == "__main__":
    main()
