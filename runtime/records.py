"""Results and events as records for JSON Lines, messages, evidence and the page.

`docs/line.md` describes every field.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sdi.runtime.frame import Event, Result, Skipped

__all__ = ["event_record", "result_record", "skipped_record", "utc"]


def result_record(result: Result) -> dict[str, Any]:
    """A frame's record: where it comes from, how long it took, its defects."""
    frame = result.frame
    return {
        "frame": frame.index,
        "name": frame.name,
        "source": frame.source,
        "time": utc(frame.wall_time),
        "engine_ms": round(result.engine_ms, 3),
        "age_ms": round(result.age_ms, 3),
        "drops": result.drops,
        "alarm": result.alarm,
        "defects": [region.to_dict() for region in result.regions],
    }


def skipped_record(skipped: Skipped) -> dict[str, Any]:
    """The record of something that gave no picture."""
    return {
        "event": "skipped",
        "name": skipped.name,
        "source": skipped.source,
        "time": utc(skipped.wall_time),
        "reason": skipped.reason,
    }


def event_record(event: Event) -> dict[str, Any]:
    """An event's record: the four fields that all have, then its own."""
    record = {"event": event.kind, "source": event.source, "time": utc(event.wall_time), "text": event.text}
    return {**record, **event.details}


def utc(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
