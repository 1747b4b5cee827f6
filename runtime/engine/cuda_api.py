"""The little of CUDA that running a plan takes, whichever package it comes from."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

__all__ = ["Cuda", "Gpu"]


@dataclass(frozen=True)
class Gpu:
    """The GPU in use: the first that CUDA shows (CUDA_VISIBLE_DEVICES chooses)."""

    name: str
    compute_capability: str  # "8.9"
    integrated: bool = False  # shares its memory with the CPU, as on a Jetson


class Cuda(abc.ABC):
    """Memory, streams and graphs. Addresses and handles are plain integers. All raise DeviceError.

    Attributes:
        has_graphs: whether `graph` can work here.
    """

    gpu: Gpu
    has_graphs: bool = False

    @abc.abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Makes the GPU the calling thread's; all other calls happen inside."""

    @abc.abstractmethod
    def stream(self) -> int:
        """A new stream, not synchronised with the default one."""

    @abc.abstractmethod
    def free_stream(self, stream: int) -> None: ...

    @abc.abstractmethod
    def synchronise(self, stream: int) -> None:
        """Wait for all that was put into the stream."""

    @abc.abstractmethod
    def device_memory(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""

    @abc.abstractmethod
    def free_device_memory(self, address: int) -> None: ...

    @abc.abstractmethod
    def pinned(self, size: int, *, mapped: bool = False) -> np.ndarray:
        """(size,) uint8 on the host that the GPU copies from and to without a copy in between.

        Args:
            mapped: the GPU can also work in it, at the address that `mapped` gives.
        """

    @abc.abstractmethod
    def free_pinned(self, array: np.ndarray) -> None: ...

    @abc.abstractmethod
    def mapped(self, array: np.ndarray) -> int:
        """Where the GPU sees a mapped array of `pinned`."""

    @abc.abstractmethod
    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the GPU, in the stream's order."""

    @abc.abstractmethod
    def download(self, array: np.ndarray, address: int, stream: int) -> None: ...

    @abc.abstractmethod
    def graph(self, stream: int, work: Callable[[], None]) -> int:
        """Record what `work` puts into the stream, which is not executed."""

    @abc.abstractmethod
    def launch(self, graph: int, stream: int) -> None: ...

    @abc.abstractmethod
    def free_graph(self, graph: int) -> None: ...

    @abc.abstractmethod
    def milliseconds(self, stream: int, work: Callable[[], None]) -> float:
        """What the GPU takes for all that `work` puts into the stream, by its own clock; waits for its end."""
