"""The two events of a run itself: `started` and `stopped`. `docs/line.md` lists their fields."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sdi.runtime.engine.base import Engine
from sdi.runtime.frame import Event
from sdi.runtime.pipeline.summary import Summary
from sdi.runtime.sources.base import Source

__all__ = ["started", "stopped"]


def started(engine: Engine, sources: Sequence[Source]) -> Event:
    """A run begins."""
    manifest = engine.manifest
    details = {
        "engine": engine.path.name,
        "model": manifest.model if manifest else None,
        "precision": manifest.precision if manifest else None,
        "engine_sha256": manifest.sha256 if manifest else None,
        "device": engine.device,
        "sources": [source.name for source in sources],
    }
    return Event("started", "", f"started with {engine.path.name} on {engine.device}", time.time(), details)


def stopped(summary: Summary, reason: str) -> Event:
    """A run has ended, in order or by a failure."""
    details = {
        "reason": reason,
        "frames": summary.frames,
        "with_defects": summary.with_defects,
        "alarms": summary.alarms,
        "skipped": summary.skipped,
        "drops": summary.drops,
        "seconds": round(summary.seconds, 3),
    }
    return Event("stopped", "", f"stopped after {summary.frames} frames: {reason}", time.time(), details)
