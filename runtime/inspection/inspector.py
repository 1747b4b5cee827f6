"""From maps to verdicts: which regions are defects, and when a source is in alarm."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sdi.runtime.common.errors import InputError
from sdi.runtime.frame import Event, Frame, Verdict
from sdi.runtime.inspection.defects import DefectRule, find_blobs
from sdi.runtime.inspection.tracks import Linker, Track
from sdi.runtime.records import utc
from sdi.runtime.region import Region

__all__ = ["Inspector"]


@dataclass
class _State:
    """One source's."""

    linker: Linker | None
    alarm: bool = False
    against: int = 0  # frames in a row that contradict `alarm`
    since: tuple[int, float] = (0, 0.0)  # index and wall time of the frame that raised the alarm


class Inspector:
    """Judges frames one by one. The frames of a source come in order; each source is judged by itself. For one thread.

    Args:
        rule: what counts as a defect.
        alarm_frames: so many frames in a row with a defect raise the alarm, and as many without one clear it. A linked
            defect counts when it was seen in so many frames; it has passed when it was not seen for as many.
        link: give regions that overlap from frame to frame one id, and emit an event for each defect that has passed.
    Raises:
        InputError: `alarm_frames` is below 1.
    """

    def __init__(self, rule: DefectRule | None = None, *, alarm_frames: int = 1, link: bool = False) -> None:
        if alarm_frames < 1:
            raise InputError(f"alarm-frames must be at least 1, got {alarm_frames}")
        self.rule = rule or DefectRule()
        self.alarm_frames = alarm_frames
        self.link = link
        self._ids = itertools.count(1)
        self._states: dict[str, _State] = {}

    def inspect(self, frame: Frame, saliency: np.ndarray) -> Verdict:
        """Judge one frame.

        Args:
            saliency: (H, W) uint8 at the frame's own size, probability x 255.
        Raises:
            InputError: nothing of the picture lies within the region of interest.
        """
        state = self._states.get(frame.source)
        if state is None:
            state = self._states[frame.source] = _State(Linker(self._ids, self.alarm_frames) if self.link else None)
        blobs = find_blobs(saliency, self.rule)
        regions, passed = [blob.region for blob in blobs], list[Track]()
        if state.linker is not None:
            regions, passed = state.linker.link(frame, blobs)
        changes = [*self._passed(frame.source, passed), *self._turn(state, frame, regions)]
        return Verdict(regions, state.alarm, tuple(changes))

    def finish(self, source: str | None = None) -> list[Event]:
        """End what is open, at the end of the run or when `source` was lost: linked defects pass.

        An alarm stays: that no picture comes does not make the strip clean.
        """
        names = [source] if source is not None else list(self._states)
        events: list[Event] = []
        for name in names:
            state = self._states.get(name)
            if state is not None and state.linker is not None:
                events += self._passed(name, state.linker.finish())
        return events

    def _turn(self, state: _State, frame: Frame, regions: list[Region]) -> list[Event]:
        state.against = state.against + 1 if bool(regions) != state.alarm else 0
        if state.against < self.alarm_frames:
            return []
        state.alarm, state.against = not state.alarm, 0
        details = {"frame": frame.index, "name": frame.name}
        if state.alarm:
            state.since = (frame.index, frame.wall_time)
            largest = regions[0]
            text = f"{_count(len(regions), 'defect')} in {frame.name}, the largest {_size(largest)}"
            details["defects"] = [region.to_dict() for region in regions]
            return [Event("alarm", frame.source, text, frame.wall_time, details)]
        index, wall_time = state.since
        seconds = max(0.0, frame.wall_time - wall_time)  # the clock may have been set back
        details |= {"alarm_frame": index, "seconds": round(seconds, 3)}
        return [Event("cleared", frame.source, f"no defect any more, after {seconds:.1f} s", frame.wall_time, details)]

    def _passed(self, source: str, tracks: Iterable[Track]) -> list[Event]:
        return [_defect_event(source, track) for track in tracks if track.frames >= self.alarm_frames]


def _defect_event(source: str, track: Track) -> Event:
    details = {
        "id": track.id,
        "first_frame": track.first,
        "last_frame": track.last,
        "first_time": utc(track.began),
        "last_time": utc(track.ended),
        "frames": track.frames,
        "joined": list(track.joined),
        "name": track.largest_name,
        "largest": track.largest.to_dict(),
    }
    text = f"defect {track.id} passed in {_count(track.frames, 'frame')}, the largest view {_size(track.largest)}"
    return Event("defect", source, text, track.ended, details)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(region: Region) -> str:
    scale = region.mm_per_pixel
    if scale is None:
        return f"{region.width}x{region.height} px"
    return f"{region.width * scale:.1f}x{region.height * scale:.1f} mm"
