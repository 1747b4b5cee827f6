"""Where training runs: device, processes and precision, through Lightning Fabric."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from sdi.runtime.common.errors import DeviceError, InputError, SdiError

__all__ = ["Devices", "one_voice", "open_fabric"]


@dataclass(frozen=True)
class Devices:
    """What a training may use."""

    kind: str = "auto"  # or cpu, cuda, mps
    count: int = 1  # GPUs, or on a CPU processes
    threads: int | None = None  # of a CPU, in each process; None: all


def open_fabric(device: str = "auto", devices: int = 1, precision: str = "32") -> Fabric:
    """A Fabric for `devices` devices of one kind, not launched yet.

    With several devices `Fabric.launch` starts the other processes by running this program again with the same
    arguments, and returns in all of them.

    Args:
        device: auto, cpu, cuda or mps.
        devices: GPUs, or on a CPU processes.
        precision: "32", "16-mixed" or "bf16-mixed".
    Raises:
        InputError: the device is not there, there are fewer of it, or it cannot compute in this precision.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cpu": _cores(), "cuda": torch.cuda.device_count(), "mps": 1}.get(device, devices)
    if devices > available > 0:
        what = "CPU cores" if device == "cpu" else f"{device} devices"
        raise InputError(f"--devices {devices} cannot be had: {available} {what} here; use --devices {available}")
    if precision == "16-mixed" and device == "cpu":
        raise InputError("--precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32")
    if precision == "bf16-mixed" and device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError("--precision bf16-mixed is not for this GPU, which lacks bfloat16; use 16-mixed or 32")
    strategy = _data_parallel() if devices > 1 else "auto"
    try:
        return Fabric(accelerator=device, devices=devices, strategy=strategy, precision=precision)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--device {device} cannot be used here: {error}") from error


@contextmanager
def one_voice(fabric: Fabric) -> Iterator[None]:
    """Let the first process alone report what went wrong in all of them.

    Raises:
        DeviceError: another process ended, or its connection did.
    """
    try:
        yield
    except SdiError:
        if fabric.is_global_zero:
            raise
        raise SystemExit(0) from None  # Fabric kills the first process when another one fails
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if fabric.world_size == 1 or not lost:
            raise
        if not fabric.is_global_zero:
            raise SystemExit(1) from None
        raise DeviceError(
            f"training stopped: one of the {fabric.world_size} processes was lost; go on from the last epoch with "
            "--resume RUN"
        ) from error


def _data_parallel() -> DDPStrategy:
    """Without overwriting every process's buffers by the first one's: the trainer averages batch norm's statistics."""
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # PyTorch 2.14
    options: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DDPStrategy(**options)


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
