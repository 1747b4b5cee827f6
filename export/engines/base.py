"""What every engine builder takes and gives."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sdi.runtime.engine.manifest import Manifest, Profile

__all__ = ["BuildJob", "BuildOptions", "BuiltPlan", "EngineBuilder", "Exported"]


@dataclass(frozen=True)
class BuildOptions:
    """What the user may ask of a builder; the defaults leave the choice to the library."""

    compute_capabilities: tuple[str, ...] = ()  # e.g. "8.9"
    workspace_gib: float | None = None
    timing_cache: bool = True
    optimization_level: int | None = None
    dla_core: int | None = None
    refit: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    detailed_profiling: bool = False
    listener: Callable[[str], None] | None = field(default=None, compare=False)  # receives the builder's log

    def with_listener(self, listener: Callable[[str], None]) -> BuildOptions:
        return replace(self, listener=listener)

    def record(self) -> dict[str, Any]:
        """What was asked for, for the manifest."""
        default = asdict(BuildOptions())
        asked = {name: value for name, value in asdict(self).items() if value != default[name]}
        for name in ("listener", "timing_cache", "compute_capabilities"):  # not of the plan, or recorded elsewhere
            asked.pop(name, None)
        return asked


@dataclass(frozen=True)
class BuildJob:
    """One plan to build."""

    onnx: Path
    tag: str  # the network's name inside the plan: whose it is can be read from the file
    precision: str
    planar: bool
    profile: Profile | None  # None: the ONNX file's one shape
    keep_float32: tuple[str, ...]  # nodes that stay in float32 where the builder chooses precisions itself
    timing_cache: Path | None  # where timings are kept


@dataclass(frozen=True)
class BuiltPlan:
    """What a builder made."""

    data: memoryview  # the serialised plan
    version: str
    compute_capabilities: tuple[str, ...]  # see `Manifest`
    gpu: str | None
    layers: int  # of the network, before the builder fuses them
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """A file that was kept."""

    path: Path
    manifest: Manifest
    seconds: float


class EngineBuilder(abc.ABC):
    """Turns an ONNX file into an engine.

    Attributes:
        name: the target, as the command line and the manifest name it.
        suffix: of the files it makes.
    """

    name: str
    suffix: str

    @abc.abstractmethod
    def unavailable(self) -> str | None:
        """Why it cannot build here; None where it can."""

    @abc.abstractmethod
    def check(self, options: BuildOptions, precision: str, planar: bool, dynamic: bool) -> None:
        """Refuse what it cannot do, before anything is exported.

        Raises:
            InputError: names the option and what to do instead.
        """

    def needs_float32(self, precision: str) -> bool:
        """Whether it chooses precisions itself and so wants the float32 form of a `precision` file."""
        return False

    @abc.abstractmethod
    def build(self, job: BuildJob, options: BuildOptions) -> BuiltPlan:
        """Build.

        Raises:
            InputError: the file cannot be parsed, breaks the I/O contract, or holds what the builder lacks.
            DeviceError: the library, or the GPU that it needs, failed.
        """
