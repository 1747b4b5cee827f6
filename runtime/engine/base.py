"""Engines: one interface, whatever runs beneath it.

How one is used:

    with open_engine("minet-fp32.onnx") as engine:
        saliency = engine(frame)          # (H, W, 3) uint8 BGR -> (H, W) uint8
"""

from __future__ import annotations

import abc
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.images import check_frame, resize_image
from sdi.runtime.engine.golden import GoldenCheck, GoldenPictures
from sdi.runtime.engine.guard import Guard
from sdi.runtime.engine.manifest import Manifest

if TYPE_CHECKING:
    from typing_extensions import Self

    from sdi.runtime.engine.tiled import Tiler
    from sdi.runtime.engine.windows import WindowGrid

__all__ = ["Engine", "Token"]


@dataclass(frozen=True, eq=False)
class Token:
    """A call that `Engine.submit` began and `Engine.collect` ends."""

    work: Any  # the engine's own


class Engine(abc.ABC):
    """A loaded network that keeps the I/O contract. A context manager.

    One thread at a time is let in; another waits for it, but not for ever. Two threads want an engine each.

    Attributes:
        path: the file it came from.
        manifest: None where no manifest lies beside the file.
        frame_hw: height and width of its `frame`; None accepts any.
        batch: frames a call; None accepts any number.
        device: what executes it, in words.
        on_gpu: whether a GPU does.
        tiler: cuts frames into windows where they show more steel than the network was trained to see at once; None
            runs every frame whole.
        zero_copy: whether the GPU works in the host's memory, see `open_engine`; None where that is no question.
        slots: calls that may be under way at once, between `submit` and `collect`.
    """

    path: Path
    manifest: Manifest | None
    frame_hw: tuple[int, int] | None
    batch: int | None
    device: str
    on_gpu: bool = False
    tiler: Tiler | None = None
    zero_copy: bool | None = None
    slots: int = 1
    _guard: Guard

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        engine = super().__new__(cls)
        engine._guard = Guard()  # here, so that no subclass can forget it
        return engine

    @abc.abstractmethod
    def execute(self, frames: np.ndarray) -> np.ndarray:
        """Run (N, H, W, 3) uint8 BGR of exactly the engine's size; answer (N, H, W) uint8, a new array.

        Raises:
            InputError: the frames have another type or shape.
            DeviceError: the execution failed, or the engine is closed, or another thread does not leave it. An
                earlier answer is never handed out again.
        """

    def submit(self, frames: np.ndarray) -> Token:
        """Begin `execute(frames)`: where `slots` is over 1, the device works on while the next call is made ready.

        The frames are read before this returns. A token that is dropped gives its slot back, and a call that fails
        gives up all that are under way.

        Raises:
            InputError: as `execute`; or all slots are under way, so collect one first.
            DeviceError: as `execute`.
        """
        return Token(self.execute(frames))

    def collect(self, token: Token) -> np.ndarray:
        """End a call: wait for its maps, (N, H, W) uint8, a new array. Once for each token, in any order.

        Raises:
            InputError: the token is another engine's, was collected before, or given up when another call failed.
            DeviceError: as `execute`.
        """
        answer: np.ndarray = token.work
        return answer

    def device_ms(self, frames: np.ndarray) -> float | None:
        """What the device itself takes for `execute(frames)`: upload, network, download; None where it cannot tell.

        Raises:
            DeviceError: the execution failed.
        """
        return None

    def close(self) -> None:
        """Free what the device holds. Work under way is waited for; a second call does nothing.

        Raises:
            DeviceError: something could not be freed, the first that could not; or another thread does not leave the
                engine, and nothing was freed.
        """
        with self._guard.closing(self.path.name) as first:
            if first:
                self._release()
                if self.tiler is not None:
                    self.tiler.close()

    def _release(self) -> None:
        """What `close` frees, called once, with no other thread inside."""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Saliency of one frame, at the frame's own size: whole, or in windows (see `open_engine`).

        Args:
            frame: (H, W, 3) uint8 BGR; not modified.
        Returns:
            (H, W) uint8, probability x 255; a new array.
        Raises:
            InputError: the frame has another type or shape, or does not go into the windows asked for.
            DeviceError: the execution failed, or gave a map of another size.
        """
        check_frame(frame)
        grid = self.grid((frame.shape[0], frame.shape[1]))
        if grid is None or self.tiler is None:
            return self.whole(frame)
        return self.tiler(frame, grid)

    def grid(self, frame_hw: tuple[int, int]) -> WindowGrid | None:
        """The windows that a frame is cut into; None where it runs whole.

        Raises:
            InputError: the frame does not go into the windows asked for.
        """
        return None if self.tiler is None else self.tiler.grid(frame_hw)

    def whole(self, frame: np.ndarray) -> np.ndarray:
        """As a call, but never in windows: the frame is resized to the engine's size."""
        check_frame(frame)
        size_hw = (frame.shape[0], frame.shape[1])
        fitted = np.ascontiguousarray(resize_image(frame, self.frame_hw or size_hw))[None]
        if self.batch not in (None, 1):
            fitted = np.repeat(fitted, self.batch, axis=0)
        saliency = self.execute(fitted)
        if saliency.shape != fitted.shape[:3]:
            raise DeviceError(f"{self.path.name} answered {saliency.shape} to frames {fitted.shape}; export it again")
        return resize_image(saliency[0], size_hw)

    def golden_check(self) -> GoldenCheck | None:
        """Run the manifest's golden pictures and compare; None without a manifest.

        Raises:
            InputError: the manifest has no usable golden record.
        """
        if self.manifest is None:
            return None
        try:
            pictures = GoldenPictures.of(self.manifest.golden)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the golden record in the manifest of {self.path} is damaged ({error}); export it again"
            ) from error
        return pictures.compare(np.stack([self.whole(frame) for frame in pictures.frames]))

    def self_test(self) -> None:
        """Run the manifest's golden pictures and refuse the engine when the answer is wrong.

        The file was the right one when it was loaded, so what this finds is a device or a library that computes
        otherwise than PyTorch did.

        Raises:
            DeviceError: the answer is further off than the manifest allows.
            InputError: the manifest has no usable golden record.
        """
        golden = self.golden_check()
        if golden is not None and not golden.passed:
            raise DeviceError(
                f"{self.path.name} fails its self-test on {self.device}: the answer to a golden picture is off by "
                f"{golden.difference:.1f} gray levels, {golden.tolerance} are allowed; update the driver and the "
                "runtime, or export the engine again"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(DeviceError):  # the first error is the one to tell
                self.close()
