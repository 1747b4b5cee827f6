"""The settings of cameras and streams."""

from __future__ import annotations

from dataclasses import dataclass

from sdi.runtime.common.errors import InputError

__all__ = ["LiveSettings"]


@dataclass(frozen=True)
class LiveSettings:
    """The settings of cameras and streams.

    Args:
        fps, fourcc: asked of cameras alone; None leaves them to the driver.
        size_wh: width and height, asked of cameras and required of every live source; None accepts any.
        give_up_s: for so many seconds a lost source is tried again; None: for ever, 0: not at all.
        open_timeout_s: a stream or pipeline that takes longer to open does not open.
        read_timeout_s: a stream or pipeline is lost when a frame does not come for so long.
        frozen_after: so many identical frames in a row mean that the source is frozen; 0 disables this.
    Raises:
        InputError: a value is out of range.
    """

    fps: float | None = None
    size_wh: tuple[int, int] | None = None
    fourcc: str | None = None
    give_up_s: float | None = None
    frozen_after: int = 50
    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < 10_000:
            raise InputError(f"--fps must be above 0, e.g. 30, got {self.fps}")
        if self.size_wh is not None and min(self.size_wh) < 1:
            raise InputError(f"--resolution must be a width and a height, e.g. 1920x1080, got {self.size_wh}")
        if self.fourcc is not None and len(self.fourcc) != 4:
            raise InputError(f"--fourcc must have four letters, e.g. MJPG or YUYV, got '{self.fourcc}'")
        if self.give_up_s is not None and not self.give_up_s >= 0:
            raise InputError(f"--give-up must be 0 or more seconds, got {self.give_up_s}")
        for name, seconds in (("open_timeout_s", self.open_timeout_s), ("read_timeout_s", self.read_timeout_s)):
            if not seconds > 0:
                raise InputError(f"{name} must be above 0 seconds, got {seconds}")
        if self.frozen_after < 0 or self.frozen_after == 1:
            raise InputError(f"--frozen-after must be 0 (never) or at least 2 frames, got {self.frozen_after}")
