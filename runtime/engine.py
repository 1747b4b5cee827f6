"""Engines: one face whatever runs beneath it.

How one is used:

    with open_engine("minet-fp32.onnx") as engine:
        saliency = engine(frame)          # (H, W, 3) uint8 BGR -> (H, W) uint8
"""

from __future__ import annotations

import abc
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from sdi.runtime.errors import DeviceError, InputError
from sdi.runtime.golden import GoldenCheck, golden_check
from sdi.runtime.images import check_frame, resize_image
from sdi.runtime.manifest import Manifest, read_manifest, verify_file
from sdi.runtime.plan import HEADER_BYTES, PlanHeader, verify_plan
from sdi.runtime.shipped import find_engine

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Engine", "open_engine"]


class Engine(abc.ABC):
    """A loaded network with the uint8 face. A context manager; not thread-safe, use one a thread.

    Attributes:
        path: the file it came from.
        manifest: None where no manifest lies beside the file.
        frame_hw: height and width of its `frame`; None accepts any.
        batch: frames a call; None accepts any number.
        device: what executes it, in words.
        on_gpu: whether a GPU does.
    """

    path: Path
    manifest: Manifest | None
    frame_hw: tuple[int, int] | None
    batch: int | None
    device: str
    on_gpu: bool = False

    @abc.abstractmethod
    def execute(self, frames: np.ndarray) -> np.ndarray:
        """Run (N, H, W, 3) uint8 BGR of exactly the engine's size; answer (N, H, W) uint8.

        Raises:
            DeviceError: the execution failed. An earlier answer is never handed out again.
        """

    def device_ms(self, frames: np.ndarray) -> float | None:
        """What the device itself takes for `execute(frames)`: upload, network, download; None where it cannot tell.

        Raises:
            DeviceError: the execution failed.
        """
        return None

    def close(self) -> None:
        """Free what the device holds."""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Saliency of one frame, at the frame's own size.

        Args:
            frame: (H, W, 3) uint8 BGR; not modified.
        Returns:
            (H, W) uint8, probability x 255; a new array.
        Raises:
            InputError: the frame has another type or shape.
            DeviceError: the execution failed, or gave a map of another size.
        """
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
            return golden_check(self.manifest.golden, lambda frames: np.stack([self(frame) for frame in frames]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the golden record in the manifest of {self.path} is damaged ({error}); export it again"
            ) from error

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
        self.close()


def open_engine(path: Path | str, device: str = "auto", threads: int | None = None) -> Engine:
    """Load an engine; what the file is, not its name, picks the backend.

    The manifest beside it is checked first: a missing one is left to the caller to warn about
    (`engine.manifest is None`), a contradicted one is an error.

    Args:
        path: a file, or the name of an engine that comes with sdi.
        device: "auto" (a GPU where ONNX Runtime has one, else the CPU; for a plan a GPU), "cpu" or "cuda".
        threads: CPU threads; None uses one per core.
    Raises:
        InputError: no such file, a folder, empty, truncated, damaged, not an engine, or one without our face.
        DeviceError: the device asked for is not there, or a plan is for another library version or another GPU.
    """
    path = find_engine(path)
    head = _head(path)
    header = PlanHeader.of(head)
    if header is not None:
        manifest = read_manifest(path)
        verify_plan(path, header, manifest)
        from sdi.runtime.backends.tensorrt import TensorRTEngine

        return TensorRTEngine(path, manifest, header, device)
    if head.startswith(b"PK\x03\x04"):
        raise InputError(
            f"{path} is a PyTorch file, not an engine; export it first: sdi-export --model NAME --checkpoint {path}"
        )
    if not head.startswith(b"\x08"):  # field 1, ir_version, opens every ONNX file
        raise InputError(f"{path} is no engine: expected an ONNX file or a TensorRT plan; make one with sdi-export")
    manifest = read_manifest(path)
    if manifest is not None:
        verify_file(path, manifest)
    from sdi.runtime.backends.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, manifest, device, threads)


def _head(path: Path) -> bytes:
    """The first bytes of a file, once it is clear that it is one."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; --engine takes a file, e.g. {path / 'minet-fp32.onnx'}")
        size = path.stat().st_size
        if size:  # a pipe or a device has none, and reading it might never end
            with path.open("rb") as file:
                head = file.read(HEADER_BYTES)
    except OSError as error:
        raise InputError(
            f"cannot read engine {path}: {error.strerror}; make one with sdi-export, or see sdi-run --list"
        ) from error
    if size == 0:
        raise InputError(f"engine {path} is empty (0 bytes); copy it again or make it again with sdi-export")
    if path.suffix == ".json":
        raise InputError(f"{path} is a manifest; give the engine beside it: {path.with_suffix('')}")
    return head
