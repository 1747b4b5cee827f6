"""The state behind the page: newest results, metrics of the last minutes, last alarms. Safe between threads."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from sdi.runtime.frame import Event, Result
from sdi.runtime.inspection.defects import DefectRule
from sdi.runtime.records import event_record
from sdi.runtime.sinks.overlay import draw_overlay
from sdi.runtime.sinks.view import WHOLE, View, closeup

__all__ = ["Board"]

_PLOTTED_S = 600  # ten minutes, one point a second
_ALARMS = 12  # that are shown; as many more keep their pictures, for a page that asks late
_LATENCIES = 300
_RATED = 64  # the rate is that of so many frames
_STALE_S = 5.0  # without a frame for so long, the rate is 0
_THUMBNAIL = 320  # pixels, the longer side
_LIVE = 1280


@dataclass
class _SourceBoard:
    """One source's."""

    result: Result | None = None
    frames: int = 0
    with_defects: int = 0
    drops: int = 0
    alarm: bool = False
    lost: bool = False
    written: deque[float] = field(default_factory=lambda: deque(maxlen=_RATED))  # time.monotonic()
    engine_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    age_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    # Second of time.monotonic(), the largest area of defects within it, whether there was alarm.
    areas: deque[tuple[int, float, bool]] = field(default_factory=lambda: deque(maxlen=_PLOTTED_S))
    # Frames, what was looked at of that frame, and its JPEG.
    live: tuple[tuple[int, View], bytes] = ((0, WHOLE), b"")


class Board:
    """Takes results and events from the loop, which never waits here, and gives them to any number of readers.

    A picture is drawn only when a reader asks for it, on the reader's thread.
    """

    def __init__(self, sources: Sequence[str], rule: DefectRule, station: str) -> None:
        self._rule = rule
        self._station = station
        self._changed = threading.Condition()
        self._drawing = threading.Lock()
        self._sources = {name: _SourceBoard() for name in sources}
        self._alarms: deque[tuple[int, dict[str, Any], bytes]] = deque(maxlen=2 * _ALARMS)
        self._alarm_count = 0
        self._last_event = ""
        self._closed = False

    def write(self, result: Result) -> None:
        """Take a result."""
        now = time.monotonic()
        scale = self._rule.mm_per_pixel
        area = sum(region.area for region in result.regions) * (scale or 1.0) ** 2
        with self._changed:
            board = self._sources[result.frame.source]
            board.result, board.alarm, board.drops, board.lost = result, result.alarm, result.drops, False
            board.frames += 1
            board.with_defects += bool(result.regions)
            board.written.append(now)
            board.engine_ms.append(result.engine_ms)
            board.age_ms.append(result.age_ms)
            alarm = result.alarm
            if board.areas and board.areas[-1][0] == int(now):
                _, before, was = board.areas.pop()
                area, alarm = max(area, before), alarm or was
            board.areas.append((int(now), area, alarm))
            self._changed.notify_all()

    def event(self, event: Event) -> None:
        """Take an event; an alarm's picture is kept small."""
        thumbnail = b""
        if event.kind == "alarm" and event.result is not None:
            thumbnail = _jpeg(draw_overlay(event.result, self._rule, closeup(event.result)), _THUMBNAIL)
        with self._changed:
            self._last_event = event.text
            if event.source in self._sources and event.kind in ("source_lost", "source_back"):
                self._sources[event.source].lost = event.kind == "source_lost"
            if thumbnail:
                self._alarm_count += 1
                self._alarms.appendleft((self._alarm_count, event_record(event), thumbnail))

    def close(self) -> None:
        """Wake all readers that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def names(self) -> list[str]:
        """The sources' names."""
        return list(self._sources)

    def snapshot(self) -> dict[str, Any]:
        """The whole state as plain values for JSON."""
        now = time.monotonic()
        with self._changed:
            return {
                "station": self._station,
                "unit": "px" if self._rule.mm_per_pixel is None else "mm²",
                "last_event": self._last_event,
                "sources": [_metrics(name, board, now) for name, board in self._sources.items()],
                "alarm_count": self._alarm_count,
                "alarms": [
                    {
                        "id": number,
                        "source": record["source"],
                        "time": record["time"],
                        "text": record["text"],
                        "defects": record["defects"][:5],
                    }
                    for number, record, _ in itertools.islice(self._alarms, _ALARMS)
                ],
            }

    def thumbnail(self, number: int) -> bytes | None:
        """The JPEG of one of the last alarms."""
        with self._changed:
            return next((jpeg for n, _, jpeg in self._alarms if n == number), None)

    def live(self, source: str, after: int, timeout_s: float, view: View = WHOLE) -> tuple[int, bytes] | None:
        """The newest frame of a source with its defects drawn in, as JPEG, and its number.

        Args:
            after: the number that the reader has; it waits for a newer one, at most `timeout_s`.
            view: the part of the frame that it looks at.
        Returns:
            None when nothing newer came, or never will.
        """
        board = self._sources[source]
        with self._changed:
            self._changed.wait_for(lambda: board.frames > after or self._closed, timeout_s)
            result, number = board.result, board.frames
        if result is None or number <= after:
            return None
        with self._drawing:  # the next reader finds it drawn
            if board.live[0] != (number, view):
                part = view.part((result.saliency.shape[0], result.saliency.shape[1]))
                board.live = (number, view), _jpeg(draw_overlay(result, self._rule, part), _LIVE)
            return number, board.live[1]

    @property
    def closed(self) -> bool:
        return self._closed


def _metrics(name: str, board: _SourceBoard, now: float) -> dict[str, Any]:
    times = board.written
    rate = 0.0
    if len(times) > 1 and now - times[-1] < _STALE_S:
        rate = (len(times) - 1) / max(times[-1] - times[0], 1e-6)
    return {
        "name": name,
        "state": "lost" if board.lost else "alarm" if board.alarm else "ok" if board.frames else "waiting",
        "frames": board.frames,
        "with_defects": board.with_defects,
        "drops": board.drops,
        "fps": round(rate, 2),
        "engine_ms": _percentiles(board.engine_ms),
        "age_ms": _percentiles(board.age_ms),
        # Seconds ago, area, alarm.
        "areas": [[int(now) - second, round(area, 2), alarm] for second, area, alarm in board.areas],
    }


def _percentiles(values: deque[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p95 = np.percentile(np.array(values), (50, 95))
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def _jpeg(image: np.ndarray, longest: int) -> bytes:
    """Shrunk until no side is longer than `longest`."""
    scale = longest / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
