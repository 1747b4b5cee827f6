"""A source of your own: a line-scan camera, whose lines become frames that overlap.

    python examples/line_scan.py

A line-scan camera gives one row of pixels at a time, without end. A defect on the border of two frames is seen whole
where they overlap by more than its length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from sdi.runtime import Event, Frame, Inspector, Loop, Result, Skipped, Source, default_engine, open_engine
from sdi.runtime.common.strip import draw_strip


class LineScanSource(Source):
    """Frames of `height` lines; each begins `height - overlap` lines after the one before.

    Args:
        lines: (W,) uint8 gray, all of one width.
        height: lines of a frame.
        overlap: lines that a frame shares with the next, below `height`.
    """

    name = "line scan"
    live = False  # of a real camera True: when the engine is busy, old frames are dropped and counted
    endless = True  # only a signal ends it

    def __init__(self, lines: Iterable[np.ndarray], height: int, overlap: int) -> None:
        self._lines = lines
        self._step = height - overlap
        self._kept: deque[np.ndarray] = deque(maxlen=height)

    def frames(self) -> Iterator[Frame | Skipped | Event]:
        index, due = 0, self._kept.maxlen or 0
        for count, line in enumerate(self._lines, 1):
            self._kept.append(line)
            if count == due:
                image = cv2.cvtColor(np.stack(self._kept), cv2.COLOR_GRAY2BGR)
                yield self.frame(index, f"line_{count - len(image):08d}", image)
                index, due = index + 1, due + self._step
            if self.stopping:  # somebody called `stop`: a signal, or a stage that failed
                return

    def close(self) -> None:
        """Here a camera would be released. Called after `frames` has ended, also when something failed."""


def coil(kinds: Iterable[str]) -> Iterator[np.ndarray]:
    """Stands for the camera: the lines of a coil, drawn."""
    for number, kind in enumerate(kinds):
        image, _ = draw_strip(kind, seed=number)
        yield from image[:, :, 0]


def show(item: Result | Skipped | Event) -> None:
    """What the loop reports; sinks receive the same."""
    if isinstance(item, Result):
        print(f"{item.frame.name}: {len(item.regions)} defects{', alarm' if item.alarm else ''}")


def main() -> None:
    source = LineScanSource(coil(["clean", "patch", "clean", "scratch"]), height=200, overlap=50)
    with open_engine(default_engine()) as engine, source:
        summary = Loop(source, engine, [], Inspector(alarm_frames=1)).run(show)
    print(f"{summary.frames} frames, {summary.with_defects} of them with defects")


if __name__ == "__main__":
    main()
