"""What travels through the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdi.runtime.region import Region

__all__ = ["Event", "Frame", "Result", "Skipped", "Verdict"]


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
class Event:
    """Something that happened between frames. It keeps its position among them and is never dropped.

    The sources' own kinds: `source_lost`, `source_back`, `source_changed` (another size or pixel format),
    `source_frozen`, `source_moving`; the loop's: `started`, `stopped`, `frame_stale`.
    """

    kind: str
    source: str
    text: str  # one line for people
    wall_time: float
    details: dict[str, Any] = field(default_factory=dict)  # for machines; plain values, JSON can hold them
    result: Result | None = None  # the frame that raised an alarm; the loop puts it in, evidence needs it


@dataclass(frozen=True)
class Verdict:
    """The inspector's judgement of one saliency map."""

    regions: list[Region]
    alarm: bool = False  # enough of the latest frames of this source had defects
    events: tuple[Event, ...] = ()  # caused by this frame; sinks receive them after its result


@dataclass(frozen=True)
class Result:
    """A frame and its answer."""

    frame: Frame
    saliency: np.ndarray  # (H, W) uint8 at the frame's own size
    regions: list[Region]
    engine_ms: float  # time in the engine, resizing included; of the whole batch where frames shared one
    age_ms: float  # from capture to result
    drops: int  # frames of this source dropped so far because the engine was busy
    alarm: bool = False  # the verdict over the latest frames of this source
