"""The facts about a machine as plain values: `machine` collects them, `findings` judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Camera", "Clock", "Driver", "Jetson", "Part", "Probes"]


@dataclass(frozen=True)
class Part:
    """Something that is imported."""

    version: str | None = None
    error: str | None = None  # why it cannot be imported, although it is there
    packages: tuple[str, ...] = ()  # installed distributions that bring it; none where the system does

    @property
    def missing(self) -> bool:
        return self.version is None and self.error is None


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver as the CUDA driver library shows it."""

    cuda: tuple[int, int]  # the newest CUDA that it runs
    gpus: tuple[str, ...] = ()
    capability: str | None = None  # of the first GPU, "8.9"
    error: str | None = None  # why it shows no GPU
    version: str | None = None  # "570.86.15", from nvidia-smi


@dataclass(frozen=True)
class Clock:
    """The GPU's clock."""

    now_mhz: int
    max_mhz: int
    min_mhz: int | None = None  # None where the driver does not show it


@dataclass(frozen=True)
class Jetson:
    """What a Jetson reports about itself."""

    model: str
    release: str = ""  # /etc/nv_tegra_release
    power_mode: str | None = None  # "MAXN"; None where nvpmodel does not name it
    power_modes: Mapping[str, int] = field(default_factory=dict)  # all that nvpmodel.conf has, name -> number
    csi_plugin: bool = False  # GStreamer has nvarguscamerasrc


@dataclass(frozen=True)
class Camera:
    """A /dev/video* of this machine."""

    path: str
    name: str = ""
    readable: bool = True


@dataclass(frozen=True)
class Probes:
    """All facts that findings are made from. The defaults describe a machine with nothing installed."""

    python: tuple[int, int, int] = (3, 12, 0)
    system: str = "Linux"
    machine: str = "x86_64"
    packages: Mapping[str, str] = field(default_factory=dict)  # distribution -> version
    opencv: Part = Part()
    opencv_features: Mapping[str, bool] = field(default_factory=dict)  # "FFMPEG", "GStreamer", "v4l/v4l2"
    gstreamer: str | None = None  # version of the gst-launch-1.0 on the path
    onnx_runtime: Part = Part()
    providers: Mapping[str, str | None] = field(default_factory=dict)  # name -> why it does not run; None: it ran
    tensorrt: Mapping[str, Part] = field(default_factory=dict)  # by target
    nvidia_hardware: bool = False  # an NVIDIA GPU is on the PCI bus
    driver: Driver | None = None
    binding_error: str | None = None  # why the CUDA binding shows no GPU; None: it does
    clock: Clock | None = None
    jetson: Jetson | None = None
    cameras: tuple[Camera, ...] = ()

    @property
    def gpu(self) -> bool:
        """Whether the driver shows a GPU."""
        return self.driver is not None and bool(self.driver.gpus)
