"""Frame sizes and batches as they are spelt in a shell: HxW, N, and ranges min:opt:max."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from sdi.runtime.common.errors import InputError

__all__ = ["parse_network_size", "parse_sizes"]


def parse_sizes(frame: str | None, batch: str, *, dynamic: bool) -> dict[str, Any]:
    """--frame, --batch and --dynamic as fields of an `ExportRequest`.

    Raises:
        InputError: one of them is misspelt, or they contradict each other.
    """
    counts = tuple(int(part) for part in batch.split(":")) if re.fullmatch(r"\d+(:\d+:\d+)?", batch) else (0,)
    if min(counts) < 1 or list(counts) != sorted(counts):
        raise InputError(f"--batch takes a number or min:opt:max of at least 1, e.g. 1:4:8; got '{batch}'")
    sizes = _sizes(frame)
    if dynamic and (len(sizes) == 1 or (len(counts) == 1 and counts != (1,))):
        raise InputError(
            "--dynamic leaves batch, height and width free; give it without --frame and --batch, or with "
            "min:opt:max of both for the plan"
        )
    if not dynamic and len(sizes) == 3:
        raise InputError("--frame takes a range with --dynamic alone; give one size HxW")
    return {
        "dynamic": dynamic,
        "frame_hw": sizes[0] if len(sizes) == 1 else None,
        "frames": sizes if len(sizes) == 3 else None,
        "batch": counts[0] if len(counts) == 1 else 1,
        "batches": counts if len(counts) == 3 else None,
    }


def parse_network_size(text: str | None) -> tuple[int, int] | None:
    """--network HxW.

    Raises:
        InputError: misspelt, or no multiples of 32: networks halve their input up to five times.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text or "")
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if text is not None and (min(size) < 32 or size[0] % 32 or size[1] % 32):
        raise InputError(f"--network takes height x width, multiples of 32, e.g. 1024x2624; got '{text}'")
    return None if text is None else size


def _sizes(frame: str | None) -> tuple[tuple[int, int], ...]:
    """One size or three, growing, of HxW[:HxW:HxW]; none without --frame."""
    if frame is None:
        return ()
    sizes = tuple((int(h), int(w)) for h, w in re.findall(r"(\d+)x(\d+)", frame))
    grows = all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(sizes))
    if not re.fullmatch(r"\d+x\d+(:\d+x\d+:\d+x\d+)?", frame) or min(map(min, sizes)) < 32 or not grows:
        raise InputError(
            "--frame takes height x width of at least 32, e.g. 1080x1920, or with --dynamic min:opt:max, e.g. "
            f"200x200:1080x1920:2160x3840; got '{frame}'"
        )
    return sizes
