"""How frames are run that show more steel than the pictures that a network was trained on: whole, or in windows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sdi.runtime.common.console import log, warn
from sdi.runtime.common.errors import InputError
from sdi.runtime.engine.manifest import Manifest
from sdi.runtime.engine.windows import WindowGrid, by

__all__ = ["MAX_FRAME_PIXELS", "Grids", "Tile", "Tiling", "TrainedScale", "parse_tile"]

MAX_FRAME_PIXELS = 1 << 28  # pixels: 0.8 GB as uint8 BGR, beside which tiling needs its map and a batch of windows
_FACTOR = 1.5  # what a frame may be shrunk by, or its aspect changed by, before a network sees other steel

Tile = Literal["auto"] | tuple[int, int] | None


@dataclass(frozen=True)
class TrainedScale:
    """How large steel was in the pictures that a network was trained on, and how large an engine shows it.

    Args:
        native_hw: the window that, resized to the engine's frame, shows steel at the scale of training; in pixels of
            the training pictures. None: unknown.
        mm_per_pixel: of the training pictures; None: unknown.
        frame_hw: what a frame or window is resized to; None: unknown.
        whole_frames: the engine was exported for whole frames of a camera: windows would be blown up to their size.
    """

    native_hw: tuple[int, int] | None
    mm_per_pixel: float | None
    frame_hw: tuple[int, int] | None
    whole_frames: bool = False

    @staticmethod
    def of_engine(manifest: Manifest | None, frame_hw: tuple[int, int] | None) -> TrainedScale:
        """As the manifest tells it.

        Args:
            frame_hw: the engine's own.
        """
        if manifest is None:
            return TrainedScale(None, None, frame_hw)
        whole = frame_hw not in (None, manifest.network_hw)
        return TrainedScale(manifest.native_hw, manifest.mm_per_pixel, manifest.network_hw, whole)


@dataclass(frozen=True)
class Tiling:
    """What `--tile`, `--overlap` and `--mm-per-pixel` say.

    Args:
        tile: height and width of a window in pixels of the frame; "auto": the native window (below) where the frame is
            more than 1.5 of them in a direction, else whole; None: always whole.
        overlap: pixels that neighbouring windows share at least; None is an eighth of a window.
        mm_per_pixel: of the frame. With that of the training pictures, it scales the native window.
    Raises:
        InputError: a value is out of range.

    The native window is what an engine sees at the scale that its network learned steel at: the size of the training
    pictures, as its manifest tells it.
    """

    tile: Tile = "auto"
    overlap: int | None = None
    mm_per_pixel: float | None = None

    def __post_init__(self) -> None:
        if self.overlap is not None and self.overlap < 0:
            raise InputError(f"overlap must be at least 0 pixels, got {self.overlap}")
        if self.mm_per_pixel is not None and not 0 < self.mm_per_pixel < math.inf:
            raise InputError(f"mm-per-pixel must be above 0, e.g. 0.25, got {self.mm_per_pixel}")

    def window_hw(self, scale: TrainedScale) -> tuple[int, int] | None:
        """The window that frames are cut into: what was asked for, else the native one; None where all run whole.

        Raises:
            InputError: there can be no such window, or the overlap leaves no step.
        """
        if self.tile is None or (self.tile == "auto" and scale.whole_frames):
            return None
        window_hw = self.tile if isinstance(self.tile, tuple) else self._native_hw(scale)
        if window_hw is not None:
            WindowGrid(window_hw, window_hw, self.overlap_of(window_hw))
        return window_hw

    def grid(self, scale: TrainedScale, frame_hw: tuple[int, int]) -> WindowGrid | None:
        """The windows of a frame; None where it runs whole.

        Where a frame that `auto` cuts is narrower than a window, the grid's frame is as wide as one.

        Raises:
            InputError: the frame is smaller than the window asked for, or has more pixels than fit the memory bound.
        """
        if frame_hw[0] * frame_hw[1] > MAX_FRAME_PIXELS:
            raise InputError(
                f"a frame of {by(frame_hw)} has {frame_hw[0] * frame_hw[1] / 1e6:.0f} megapixels, at most "
                f"{MAX_FRAME_PIXELS / 1e6:.0f} are taken at once; let the source give shorter pieces of the strip"
            )
        window_hw = self.window_hw(scale)
        if window_hw is None:
            return None
        if self.tile == "auto":
            if max(_ratios(frame_hw, window_hw)) <= _FACTOR:
                return None
            frame_hw = max(frame_hw[0], window_hw[0]), max(frame_hw[1], window_hw[1])
        return WindowGrid(frame_hw, window_hw, self.overlap_of(window_hw))

    def doubt(self, scale: TrainedScale, frame_hw: tuple[int, int]) -> str | None:
        """What is wrong with running a frame of this size whole, and the flag that mends it; None where nothing is."""
        native = self._native_hw(scale)
        seen_hw = native or scale.frame_hw
        if seen_hw is None:
            return None
        down, across = _ratios(frame_hw, seen_hw)
        if max(down, across) <= _FACTOR and max(down, across) / min(down, across) <= _FACTOR:
            return None
        what = (
            f"frames of {by(frame_hw)} run whole, so that the network sees steel at {100 / down:.0f} % down and "
            f"{100 / across:.0f} % across of"
        )
        if native is None:
            return (
                f"{what} its size, and small defects get lost; the engine does not tell how large its training "
                "pictures were: give --tile N, their side in pixels"
            )
        if scale.whole_frames:
            mend = f"export an engine with windows inside: sdi-export --frame {by(frame_hw)} --tile {native[0]}"
        elif max(down, across) > _FACTOR:
            mend = "--tile auto cuts them into windows"
        else:
            mend = f"--tile {min(frame_hw)} cuts them into square windows"
        return f"{what} the size that it was trained at, and misses defects; {mend}"

    def announcement(self, scale: TrainedScale, grid: WindowGrid) -> str:
        """What is done to frames, what scale that takes for granted, and the flags that change it."""
        if isinstance(self.tile, tuple):
            why = "as --tile says"
        elif scale.mm_per_pixel is None:
            why = "taking the frame's pixels to be as large as the training pictures', whose scale is not known"
        elif self.mm_per_pixel is None:
            why = f"taking the frame's pixels to be as large as the training pictures', {scale.mm_per_pixel:g} mm"
        else:
            why = f"which show {scale.mm_per_pixel:g} mm a pixel to the network, as it was trained"
        return (
            f"Frames of {by(grid.frame_hw)} are cut into {len(grid)} windows of {by(grid.window_hw)}, {why} "
            "(--mm-per-pixel tells the frame's scale, --tile N another window, --tile none runs frames whole)."
        )

    def _native_hw(self, scale: TrainedScale) -> tuple[int, int] | None:
        if scale.native_hw is None:
            return None
        factor = 1.0
        if scale.mm_per_pixel is not None and self.mm_per_pixel is not None:
            factor = scale.mm_per_pixel / self.mm_per_pixel
        return max(1, round(scale.native_hw[0] * factor)), max(1, round(scale.native_hw[1] * factor))

    def overlap_of(self, window_hw: tuple[int, int]) -> int:
        """Pixels that windows share at least. More than an eighth finds no more (docs/wide.md), and costs time."""
        return min(window_hw) // 8 if self.overlap is None else self.overlap


class Grids:
    """The windows of frames of any sizes; says once what is done with them, and once what is doubtful.

    Args:
        expectation: what to tell of a grid besides.
    """

    def __init__(
        self, tiling: Tiling, scale: TrainedScale, expectation: Callable[[WindowGrid], str] = lambda grid: ""
    ) -> None:
        self._tiling = tiling
        self._scale = scale
        self._expectation = expectation
        self._known: dict[tuple[int, int], WindowGrid | None] = {}
        self._announced = self._doubted = False  # a folder may hold pictures of any number of sizes

    def of(self, frame_hw: tuple[int, int]) -> WindowGrid | None:
        """The windows of a frame; None where it runs whole.

        Raises:
            InputError: see `Tiling.grid`.
        """
        if frame_hw not in self._known:
            grid = self._known[frame_hw] = self._tiling.grid(self._scale, frame_hw)
            doubt = None if grid is not None else self._tiling.doubt(self._scale, frame_hw)
            if grid is not None and len(grid) > 1 and not self._announced:
                self._announced = True
                log.print(f"{self._tiling.announcement(self._scale, grid)} {self._expectation(grid)}".rstrip())
            elif doubt is not None and not self._doubted:
                self._doubted = True
                warn(doubt)
        return self._known[frame_hw]


def parse_tile(text: str) -> Tile:
    """`auto`, `none`, `N` or `HxW`, as --tile takes it.

    Raises:
        InputError: anything else.
    """
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise InputError(f"--tile takes auto, none, a side N or HxW in pixels, e.g. 200 or 200x320; got '{text}'")
    return int(match[1]), int(match[2] or match[1])


def _ratios(frame_hw: tuple[int, int], window_hw: tuple[int, int]) -> tuple[float, float]:
    return frame_hw[0] / window_hw[0], frame_hw[1] / window_hw[1]
