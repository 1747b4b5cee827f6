"""The little of CUDA that running a plan takes, from `cuda-python` or `pycuda`, whichever is installed."""

from __future__ import annotations

import abc
import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdi.runtime.common.errors import DeviceError

__all__ = ["Cuda", "CudaPython", "Gpu", "PyCuda", "open_cuda"]


@dataclass(frozen=True)
class Gpu:
    """The GPU in use: the first that CUDA shows (CUDA_VISIBLE_DEVICES chooses)."""

    name: str
    compute_capability: str  # "8.9"


class Cuda(abc.ABC):
    """Memory, one stream and graphs. Addresses and handles are plain integers. All raise DeviceError."""

    gpu: Gpu

    @abc.abstractmethod
    @contextmanager
    def current(self) -> Iterator[None]:
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
    def pinned(self, size: int) -> np.ndarray:
        """(size,) uint8 on the host that the GPU reads and writes without a copy in between."""

    @abc.abstractmethod
    def free_pinned(self, array: np.ndarray) -> None: ...

    @abc.abstractmethod
    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the GPU, in the stream's order."""

    @abc.abstractmethod
    def download(self, array: np.ndarray, address: int, stream: int) -> None: ...

    @abc.abstractmethod
    def graph(self, stream: int, work: Callable[[], None]) -> int | None:
        """Record what `work` puts into the stream; None where that cannot be done."""

    @abc.abstractmethod
    def launch(self, graph: int, stream: int) -> None: ...

    @abc.abstractmethod
    def free_graph(self, graph: int) -> None: ...

    @abc.abstractmethod
    def milliseconds(self, stream: int, work: Callable[[], None]) -> float:
        """What the GPU takes for all that `work` puts into the stream, by its own clock; waits for its end."""


class CudaPython(Cuda):
    """`cuda-python`, of CUDA 12 and 13: the runtime interface, where each call answers (error, values...)."""

    def __init__(self, api: Any) -> None:
        """Args: api: the module `cuda.bindings.runtime`, or `cuda.cudart` before it had that name."""
        self._api = api
        if self._call("cudaGetDeviceCount") < 1:
            raise DeviceError("CUDA shows no GPU")
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        self.gpu = Gpu(name, f"{properties.major}.{properties.minor}")

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cudaSetDevice", 0)
        yield

    def stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", int(self._api.cudaStreamNonBlocking)))

    def free_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronise(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def device_memory(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free_device_memory(self, address: int) -> None:
        self._call("cudaFree", address)

    def pinned(self, size: int) -> np.ndarray:
        address = int(self._call("cudaHostAlloc", size, int(self._api.cudaHostAllocDefault)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, array: np.ndarray) -> None:
        self._call("cudaFreeHost", array.ctypes.data)

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def graph(self, stream: int, work: Callable[[], None]) -> int | None:
        # Thread-local: what other threads do on the GPU meanwhile neither enters the graph nor spoils it.
        self._call("cudaStreamBeginCapture", stream, self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        failed = False
        try:
            work()
        except DeviceError:
            failed = True
        error, recorded = self._api.cudaStreamEndCapture(stream)  # always, or the stream stays unusable
        if failed or int(error) != 0:
            if int(error) == 0:
                self._call("cudaGraphDestroy", recorded)
            self._api.cudaGetLastError()  # forget it
            return None
        graph = self._call("cudaGraphInstantiate", recorded, 0)
        self._call("cudaGraphDestroy", recorded)
        return int(graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def milliseconds(self, stream: int, work: Callable[[], None]) -> float:
        with ExitStack() as undo:
            began, ended = (self._call("cudaEventCreate") for _ in range(2))
            for event in (began, ended):
                undo.callback(self._call, "cudaEventDestroy", event)
            self._call("cudaEventRecord", began, stream)
            work()
            self._call("cudaEventRecord", ended, stream)
            self._call("cudaEventSynchronize", ended)
            return float(self._call("cudaEventElapsedTime", began, ended))

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._api, name)(*arguments)
        if int(error) != 0:
            texts = [self._api.cudaGetErrorName(error)[1], self._api.cudaGetErrorString(error)[1]]
            said = ": ".join(text.decode() if isinstance(text, bytes) else str(text) for text in texts)
            raise DeviceError(f"{name} failed in CUDA ({said})")
        return values[0] if values else None


class PyCuda(Cuda):
    """`pycuda`, which has no graphs."""

    def __init__(self, driver: Any) -> None:
        """Args: driver: the module `pycuda.driver`."""
        self._driver = driver
        self._held: dict[int, Any] = {}  # what pycuda would free as soon as nobody refers to it
        with self._errors("cuInit"):
            driver.init()
            if driver.Device.count() < 1:
                raise DeviceError("CUDA shows no GPU")
            device = driver.Device(0)
            self._context = device.retain_primary_context()  # the one that TensorRT uses
        self.gpu = Gpu(device.name(), "{}.{}".format(*device.compute_capability()))

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def stream(self) -> int:
        with self._errors("cuStreamCreate"):
            stream = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        return self._hold(stream.handle, stream)

    def free_stream(self, stream: int) -> None:
        del self._held[stream]

    def synchronise(self, stream: int) -> None:
        with self._errors("cuStreamSynchronize"):
            self._held[stream].synchronize()

    def device_memory(self, size: int) -> int:
        with self._errors("cuMemAlloc"):
            memory = self._driver.mem_alloc(size)
        return self._hold(int(memory), memory)

    def free_device_memory(self, address: int) -> None:
        self._held.pop(address).free()

    def pinned(self, size: int) -> np.ndarray:
        with self._errors("cuMemHostAlloc"):
            array: np.ndarray = self._driver.pagelocked_empty(size, np.uint8)
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        array.base.free()  # type: ignore[union-attr]

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        with self._errors("cuMemcpyHtoDAsync"):
            self._driver.memcpy_htod_async(address, array, self._held[stream])

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        with self._errors("cuMemcpyDtoHAsync"):
            self._driver.memcpy_dtoh_async(array, address, self._held[stream])

    def graph(self, stream: int, work: Callable[[], None]) -> int | None:
        return None

    def launch(self, graph: int, stream: int) -> None:
        raise DeviceError("pycuda has no graphs")

    def free_graph(self, graph: int) -> None:
        raise DeviceError("pycuda has no graphs")

    def milliseconds(self, stream: int, work: Callable[[], None]) -> float:
        with self._errors("cuEvent"):
            began, ended = self._driver.Event(), self._driver.Event()
            began.record(self._held[stream])
            work()
            ended.record(self._held[stream])
            ended.synchronize()
            return float(ended.time_since(began))

    def _hold(self, handle: int, thing: Any) -> int:
        self._held[handle] = thing
        return handle

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise DeviceError(f"{what} failed in CUDA ({error})") from error


@functools.cache
def open_cuda() -> Cuda:
    """CUDA on this machine's first GPU.

    Raises:
        DeviceError: no package for it is installed, or no GPU answers.
    """
    try:
        return _any_cuda()
    except DeviceError as error:
        raise DeviceError(f"no CUDA device answers: {error}; look at `nvidia-smi`") from error


def _any_cuda() -> Cuda:
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError:
            runtime = None
    if runtime is not None:
        try:
            return CudaPython(runtime)
        except RuntimeError as error:  # the package is there, the driver's library is not
            raise DeviceError(str(error)) from error
    try:
        import pycuda.driver
    except ImportError:
        raise DeviceError("neither cuda-python nor pycuda is installed; pip install cuda-python") from None
    return PyCuda(pycuda.driver)
