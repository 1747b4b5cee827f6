"""TensorRT's plan files, looked at without loading them.

A plan runs in the library version that built it and on the GPUs that it was built for. Both are checked before the
library loads the file, so that the user gets a clear error.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.engine.manifest import Manifest, manifest_path, verify_file
from sdi.runtime.engine.tensorrt_library import LIBRARIES, TENSORRT, TENSORRT_RTX, Library, library_of, version_of

__all__ = [
    "HEADER_BYTES",
    "PlanHeader",
    "check_gpu",
    "check_version",
    "plan_tag",
    "rebuild_command",
    "runs_on",
    "tag_of",
    "verify_plan",
]

HEADER_BYTES = 32
_TAG = re.compile(rb"sdi:([a-z0-9-]{1,64}):([0-9a-f]{64})")


@dataclass(frozen=True)
class PlanHeader:
    """The header of a plan: its first bytes.

    Source: plans of TensorRT-RTX 1.7.1: magic in bytes 0-3, size of the whole plan in bytes 16-23 (little endian),
    version of the library in bytes 24-27. TensorRT's plans have magic and version at the same offsets.
    """

    made_by: Library
    version: tuple[int, ...]  # four numbers; all 0 where the plan holds none
    size: int | None  # of the whole plan, in bytes

    @staticmethod
    def of(head: bytes) -> PlanHeader | None:
        """The header in the first `HEADER_BYTES` of a file; None where it is no plan."""
        library = next((library for library in LIBRARIES if head[:4] == library.magic), None)
        if library is None:
            return None
        head = head.ljust(HEADER_BYTES, b"\0")
        size = int.from_bytes(head[16:24], "little") if library is TENSORRT_RTX else None
        return PlanHeader(library, tuple(head[24:28]), size or None)


def tag_of(manifest: Manifest) -> str:
    """The name that sdi gives a network inside its plan, so that the file shows whose plan it is."""
    return f"sdi:{manifest.model}:{manifest.onnx_sha256}"


def plan_tag(path: Path) -> str | None:
    """The tag in a plan; None where sdi did not build it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = _TAG.search(data)
        return found[0].decode() if found else None


def rebuild_command(path: Path, library: Library) -> str:
    """The command that makes a plan again from the ONNX file beside it."""
    return f"sdi-export --onnx {path.with_suffix('.onnx')} --target {library.target}"


def verify_plan(path: Path, header: PlanHeader, manifest: Manifest | None) -> None:
    """Check a plan against its own header and its manifest.

    Raises:
        InputError: it is truncated, another network's, another library's, or damaged.
    """
    mend = f"copy it again, or build it again: {rebuild_command(path, header.made_by)}"
    size = path.stat().st_size
    if size < HEADER_BYTES or (header.size is not None and size < header.size):
        whole = f", it should have {header.size}" if header.size else ""
        raise InputError(f"{path} is truncated: it has {size} bytes{whole}; {mend}")
    if manifest is None:
        return
    listed = library_of(manifest.target)
    if listed is not header.made_by:
        raise InputError(
            f"{path} is a {header.made_by.title} plan, its manifest is of target {manifest.target}; {mend}"
        )
    try:
        verify_file(path, manifest, mend)
    except InputError:
        tag = plan_tag(path)
        if tag is not None and tag != tag_of(manifest):
            other = tag.split(":")[1]
            which = f"of {other}" if other != manifest.model else f"of another {other}"
            raise InputError(
                f"{path} is a plan {which}, {manifest_path(path).name} describes {manifest.model} from "
                f"{manifest.onnx_sha256[:12]}; {mend}"
            ) from None
        raise


def check_version(path: Path, header: PlanHeader, manifest: Manifest | None, trt: Any) -> None:
    """Check that the installed library runs plans of the version that built this one.

    Raises:
        DeviceError: the library does not run such a plan.
    """
    built, here = header.version[:3], version_of(trt)[:3]
    if not any(built) or built == here:
        return
    later = manifest is not None and bool(manifest.build.get("version_compatible"))
    # Source: TensorRT documentation, "Engine Compatibility": such a plan runs in later versions, one major on at most.
    if later and built < here and here[0] - built[0] <= 1:
        return
    title = header.made_by.title
    raise DeviceError(
        f"{path} was built by {title} {_dotted(built)}, {title} {_dotted(here)} is installed; build it again: "
        f"{rebuild_command(path, header.made_by)}"
    )


def check_gpu(path: Path, header: PlanHeader, manifest: Manifest | None, name: str, capability: str, trt: Any) -> None:
    """Check that the plan was built for the GPU of this machine.

    Args:
        name, capability: of the GPU, e.g. "8.9".
        trt: the loaded library.

    Raises:
        DeviceError: it was built for others.
    """
    if manifest is None or not manifest.compute_capabilities or runs_on(manifest.compute_capabilities, capability):
        return
    built = ", ".join(manifest.compute_capabilities) + (f" ({manifest.gpu})" if manifest.gpu else "")
    command = rebuild_command(path, header.made_by)
    if header.made_by is TENSORRT_RTX:
        known = "SM" + capability.replace(".", "") in trt.ComputeCapability.__members__
        command = f"{command} --compute-capability {capability}" if known else rebuild_command(path, TENSORRT)
    raise DeviceError(
        f"{path} was built for GPUs of compute capability {built}, {name} has {capability}; build it again: {command}"
    )


def runs_on(listed: tuple[str, ...], capability: str) -> bool:
    """Whether a GPU is among those listed: "8.9" is that one, "12.0+" that one and all later."""
    here = _numbers(capability)
    return any(_numbers(text[:-1]) <= here if text.endswith("+") else _numbers(text) == here for text in listed)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
