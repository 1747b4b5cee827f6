"""Open an engine: what the file is, not its name, picks the backend."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from sdi.runtime.common.errors import InputError
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.manifest import read_manifest, verify_file
from sdi.runtime.engine.plan import HEADER_BYTES, PlanHeader, verify_plan
from sdi.runtime.engine.shipped import find_engine
from sdi.runtime.engine.tiled import Tiler
from sdi.runtime.engine.tiling import Tiling

__all__ = ["ZERO_COPY", "open_engine", "open_tiled"]


def open_engine(
    path: Path | str,
    device: str = "auto",
    threads: int | None = None,
    *,
    tile: Literal["auto"] | int | tuple[int, int] | None = "auto",
    overlap: int | None = None,
    mm_per_pixel: float | None = None,
    first_look: Path | str | None = None,
) -> Engine:
    """Load an engine; what the file is, not its name, picks the backend.

    The manifest beside it is checked first: a missing one is left to the caller to warn about
    (`engine.manifest is None`), a contradicted one is an error.

    Args:
        path: a file, or the name of an engine that comes with sdi.
        device: "auto" (a GPU where ONNX Runtime has one, else the CPU; for a plan a GPU), "cpu" or "cuda".
        threads: CPU threads; None uses one per core.
        tile: the side, or height and width, of the windows that frames are cut into, in pixels of the frame. "auto":
            windows as large as the training pictures, where the frame is more than 1.5 times larger in a direction and
            the manifest tells how large they were; it says so on stderr. None: every frame is run whole.
        overlap: pixels that neighbouring windows share at least; None is an eighth of a window.
        mm_per_pixel: scale of the frames; windows of "auto" follow it where the manifest knows that of the training
            pictures.
        first_look: another engine, quicker, that sees every window before; where it finds nothing, not even with a
            probability of 0.1, its answer stands.
    Raises:
        InputError: no such file, a folder, empty, truncated, damaged, no engine, or one that breaks the I/O contract;
            or windows that it cannot take.
        DeviceError: the device asked for is not there, or a plan is for another library version or another GPU.
    """
    window = (tile, tile) if isinstance(tile, int) else tile
    return open_tiled(path, device, threads, Tiling(window, overlap, mm_per_pixel), first_look)


ZERO_COPY = {"auto": None, "on": True, "off": False}
"""What commands call the values of `zero_copy`."""


def open_tiled(
    path: Path | str,
    device: str,
    threads: int | None,
    tiling: Tiling,
    first_look: Path | str | None = None,
    zero_copy: bool | None = None,
) -> Engine:
    """As `open_engine`, with what a command's options say of windows.

    Args:
        zero_copy: of a plan: let the GPU work in the host's memory instead of copying frames and maps. None: where both
            share their memory, as on a Jetson.
    """
    with ExitStack() as stack:
        engine = _open(find_engine(path), device, threads, zero_copy)
        stack.callback(engine.close)
        first = None
        if first_look is not None:
            quick = _open(find_engine(first_look), device, threads, zero_copy)
            stack.callback(quick.close)
            quick.self_test()
            first = Tiler(quick, tiling)
        engine.tiler = Tiler(engine, tiling, first)
        stack.pop_all()
        return engine


def _open(path: Path, device: str, threads: int | None, zero_copy: bool | None) -> Engine:
    head = _head(path)
    header = PlanHeader.of(head)
    if header is not None:
        manifest = read_manifest(path)
        verify_plan(path, header, manifest)
        from sdi.runtime.engine.tensorrt import TensorRTEngine

        return TensorRTEngine(path, manifest, header, device, zero_copy)
    if head.startswith(b"PK\x03\x04"):
        raise InputError(
            f"{path} is a PyTorch file, not an engine; export it first: sdi-export --model NAME --checkpoint {path}"
        )
    if not head.startswith(b"\x08"):  # field 1, ir_version, opens every ONNX file
        raise InputError(f"{path} is no engine: expected an ONNX file or a TensorRT plan; make one with sdi-export")
    manifest = read_manifest(path)
    if manifest is not None:
        verify_file(path, manifest)
    from sdi.runtime.engine.onnx_runtime import OnnxRuntimeEngine

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
