"""One defect over many frames: regions that overlap from frame to frame are one track.

A track is a connected component in width, height and time. A defect that falls into pieces, or merges with its
neighbour, stays one track.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sdi.runtime.frame import Frame
from sdi.runtime.inspection.defects import Blob
from sdi.runtime.region import Region

__all__ = ["Linker", "Track"]


@dataclass
class Track:
    """One defect as it passes under the camera."""

    id: int
    first: int  # frame index
    last: int
    began: float  # time.time() of its first frame
    ended: float
    frames: int  # in how many it was seen
    largest: Region  # its largest view
    largest_name: str  # the frame of that view
    joined: tuple[int, ...]  # ids of other tracks that turned out to be the same defect
    blobs: list[Blob]  # as it was last seen


class Linker:
    """Links the regions of one source. Regions are one defect where their pixels overlap.

    Args:
        ids: where the numbers of new tracks come from; sources of one run share it.
        patience: a track ends when it was not seen for this many frames.
    """

    def __init__(self, ids: Iterator[int], patience: int) -> None:
        self._ids = ids
        self._patience = patience
        self._open: dict[int, Track] = {}
        self._missing: dict[int, int] = {}  # track -> frames since it was seen
        self._size_hw: tuple[int, int] | None = None

    def link(self, frame: Frame, blobs: list[Blob]) -> tuple[list[Region], list[Track]]:
        """The frame's regions with their ids, in the order of `blobs`, and the tracks that have ended."""
        size_hw = frame.image.shape[:2]
        ended = self.finish() if self._size_hw not in (None, size_hw) else []  # another size: pixels have moved
        self._size_hw = size_hw
        homes = self._homes(size_hw, blobs)
        seen: dict[int, list[Blob]] = {}
        regions = []
        for home, blob in zip(homes, blobs, strict=True):
            regions.append(replace(blob.region, id=home))
            seen.setdefault(home, []).append(blob)
        for id_, parts in seen.items():
            self._extend(id_, frame, parts)
        for id_ in [id_ for id_ in self._open if id_ not in seen]:
            self._missing[id_] += 1
            if self._missing[id_] >= self._patience:
                ended.append(self._open.pop(id_))
                del self._missing[id_]
        return regions, ended

    def finish(self) -> list[Track]:
        """End all tracks."""
        ended = list(self._open.values())
        self._open.clear()
        self._missing.clear()
        return ended

    def _homes(self, size_hw: tuple[int, int], blobs: list[Blob]) -> list[int]:
        """The track of each blob; tracks that one blob overlaps become the oldest of them."""
        if not blobs:
            return []
        painted = np.zeros(size_hw, np.int32)
        for track in sorted(self._open.values(), key=lambda track: track.last):  # what was seen last lies on top
            for blob in track.blobs:
                painted[_box(blob.region)][blob.inside] = track.id
        under = [np.unique(painted[_box(blob.region)][blob.inside]) for blob in blobs]
        became: dict[int, int] = {}

        def resolve(id_: int) -> int:
            while id_ in became:
                id_ = became[id_]
            return id_

        homes = []
        for ids in under:
            found = {resolve(int(id_)) for id_ in ids if id_}
            home = min(found) if found else next(self._ids)
            for other in found - {home}:
                became[other] = home
            homes.append(home)
        for id_ in sorted(became, reverse=True):
            self._join(id_, resolve(id_))
        return [resolve(home) for home in homes]

    def _join(self, id_: int, home: int) -> None:
        gone, kept = self._open.pop(id_), self._open[home]
        del self._missing[id_]
        kept.joined = tuple(sorted({*kept.joined, *gone.joined, gone.id}))
        kept.first, kept.began = min(kept.first, gone.first), min(kept.began, gone.began)
        kept.frames = max(kept.frames, gone.frames)
        if gone.largest.area > kept.largest.area:
            kept.largest, kept.largest_name = replace(gone.largest, id=home), gone.largest_name

    def _extend(self, id_: int, frame: Frame, blobs: list[Blob]) -> None:
        largest = replace(max(blobs, key=lambda blob: blob.region.area).region, id=id_)
        self._missing[id_] = 0
        track = self._open.get(id_)
        if track is None:
            times = (frame.index, frame.index, frame.wall_time, frame.wall_time)
            self._open[id_] = Track(id_, *times, 1, largest, frame.name, (), blobs)
            return
        track.last, track.ended, track.blobs = frame.index, frame.wall_time, blobs
        track.frames += 1
        if largest.area > track.largest.area:
            track.largest, track.largest_name = largest, frame.name


def _box(region: Region) -> tuple[slice, slice]:
    return np.s_[region.y : region.y + region.height, region.x : region.x + region.width]
