"""CUDA from `pycuda`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.engine.cuda_api import Cuda, Gpu

__all__ = ["PyCuda"]


class PyCuda(Cuda):
    """The driver interface, without graphs, which pycuda has not."""

    def __init__(self, driver: Any) -> None:
        """Args: driver: the module `pycuda.driver`."""
        self._driver = driver
        # What pycuda would free as soon as nobody refers to it.
        self._streams: dict[int, Any] = {}
        self._memory: dict[int, Any] = {}
        with self._errors("cuInit"):
            driver.init()
            if driver.Device.count() < 1:
                raise DeviceError("CUDA shows no GPU")
            device = driver.Device(0)
            capability = "{}.{}".format(*device.compute_capability())
            integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
            self.gpu = Gpu(device.name(), capability, integrated)
            self._context = device.retain_primary_context()  # the one that TensorRT uses

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._errors("cuCtxPushCurrent"):
            self._context.push()
        try:
            yield
        except BaseException:
            with suppress(self._driver.Error):
                self._context.pop()
            raise
        with self._errors("cuCtxPopCurrent"):
            self._context.pop()

    def stream(self) -> int:
        with self._errors("cuStreamCreate"):
            stream = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def free_stream(self, stream: int) -> None:
        with self._errors("cuStreamDestroy"):
            del self._streams[stream]

    def synchronise(self, stream: int) -> None:
        with self._errors("cuStreamSynchronize"):
            self._streams[stream].synchronize()

    def device_memory(self, size: int) -> int:
        with self._errors("cuMemAlloc"):
            memory = self._driver.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    def free_device_memory(self, address: int) -> None:
        with self._errors("cuMemFree"):
            self._memory.pop(address).free()

    def pinned(self, size: int, *, mapped: bool = False) -> np.ndarray:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._errors("cuMemHostAlloc"):
            array: np.ndarray = self._driver.pagelocked_empty(size, np.uint8, mem_flags=flags)
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        with self._errors("cuMemFreeHost"):
            _allocation(array).free()

    def mapped(self, array: np.ndarray) -> int:
        with self._errors("cuMemHostGetDevicePointer"):
            return int(_allocation(array).get_device_pointer())

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        with self._errors("cuMemcpyHtoDAsync"):
            self._driver.memcpy_htod_async(address, array, self._streams[stream])

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        with self._errors("cuMemcpyDtoHAsync"):
            self._driver.memcpy_dtoh_async(array, address, self._streams[stream])

    def graph(self, stream: int, work: Callable[[], None]) -> int:
        raise DeviceError("pycuda has no graphs")

    def launch(self, graph: int, stream: int) -> None:
        raise DeviceError("pycuda has no graphs")

    def free_graph(self, graph: int) -> None:
        raise DeviceError("pycuda has no graphs")

    def milliseconds(self, stream: int, work: Callable[[], None]) -> float:
        with self._errors("cuEvent"):
            began, ended = self._driver.Event(), self._driver.Event()
            began.record(self._streams[stream])
            work()
            ended.record(self._streams[stream])
            ended.synchronize()
            return float(ended.time_since(began))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise DeviceError(f"{what} failed in CUDA ({error})") from error


def _allocation(array: np.ndarray) -> Any:
    """What pycuda allocated for an array."""
    base: Any = array.base
    return base if hasattr(base, "free") else base.base
