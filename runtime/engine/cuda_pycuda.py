"""CUDA from `pycuda`."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
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
        self._threads = threading.local()
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
        self._threads.inside = True
        try:
            yield
        except BaseException:
            with suppress(DeviceError):
                self._pop()
            raise
        self._pop()

    def _pop(self) -> None:
        """Again where it failed: pycuda ends the process when a thread ends with a context on its stack."""
        self._threads.inside = False
        try:
            with self._errors("cuCtxPopCurrent"):
                self._context.pop()
        except DeviceError:
            with suppress(self._driver.Error):
                self._context.pop()
            raise

    def stream(self) -> int:
        with self._errors("cuStreamCreate"):
            stream = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def free_stream(self, stream: int) -> None:
        held = [self._streams.pop(stream)]
        try:
            with self._errors("cuStreamDestroy"), nullcontext() if self._is_inside() else self.current():
                held.clear()  # its destructor frees it
        except BaseException:
            _keep_for_ever(held)
            raise

    def synchronise(self, stream: int) -> None:
        with self._errors("cuStreamSynchronize"):
            self._streams[stream].synchronize()

    def device_memory(self, size: int) -> int:
        with self._errors("cuMemAlloc"):
            memory = self._driver.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    def free_device_memory(self, address: int) -> None:
        self._free("cuMemFree", self._memory.pop(address))

    def pinned(self, size: int, *, mapped: bool = False) -> np.ndarray:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._errors("cuMemHostAlloc"):
            array: np.ndarray = self._driver.pagelocked_empty(size, np.uint8, mem_flags=flags)
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        self._free("cuMemFreeHost", _allocation(array))

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
        events: list[Any] = []
        try:
            with self._errors("cuEvent"):
                events += [self._driver.Event(), self._driver.Event()]
                events[0].record(self._streams[stream])
                work()
                events[1].record(self._streams[stream])
                events[1].synchronize()
                return float(events[1].time_since(events[0]))
        finally:
            events.clear()  # here, where the context is current: see `_keep_for_ever`

    def _free(self, what: str, allocation: Any) -> None:
        """In the context where that can be, or pycuda frees nothing in a thread that did not make it."""
        try:
            with ExitStack() as stack:
                if not self._is_inside():
                    with suppress(DeviceError):
                        stack.enter_context(self.current())
                with self._errors(what):
                    allocation.free()
        except BaseException:
            _keep_for_ever([allocation])
            raise

    def _is_inside(self) -> bool:
        return getattr(self._threads, "inside", False)

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


def _keep_for_ever(things: list[Any]) -> None:
    """pycuda's destructors end the process where the context cannot be made current; by then the device is lost."""
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
