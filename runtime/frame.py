"""What travels through the loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdi.runtime.defects import Region

__all__ = ["Frame", "Result", "Skipped"]


@dataclass(frozen=True)
class Frame:
    """A picture from a source. `image` is (H, W, 3) uint8 BGR and belongs to whoever holds the frame."""

    index: int  # from 0, counting what the source delivered, dropped frames included
    name: str  # unique within a run; the stem of what is written for it
    source: str
    image: np.ndarray
    captured: float  # time.monotonic() when the picture was there, seconds
    wall_time: float  # time.time() at the same moment, seconds since the epoch


@dataclass(frozen=True)
class Skipped:
    """Something in a source that gave no picture; the run goes on and counts it."""

    name: str  # what its frame would have been named
    source: str
    reason: str
    wall_time: float


@dataclass(frozen=True)
class Result:
    """A frame and its answer."""

    frame: Frame
    saliency: np.ndarray  # (H, W) uint8 at the frame's own size
    regions: list[Region]
    engine_ms: float  # time in the engine, resizing included
    age_ms: float  # from capture to result
    drops: int  # frames dropped so far because the engine was busy
