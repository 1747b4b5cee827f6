"""CUDA from `cuda-python`, of CUDA 12 and 13."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.engine.cuda_api import Cuda, Gpu
from sdi.runtime.engine.releases import Releases

__all__ = ["CudaPython", "call_cuda"]


class CudaPython(Cuda):
    """The runtime interface, where each call answers (error, values...)."""

    has_graphs = True

    def __init__(self, api: Any, gpu: Gpu, *, alone: bool = False) -> None:
        """Calls nothing yet.

        Args:
            api: the module `cuda.bindings.runtime`, or `cuda.cudart` before it had that name.
            alone: whether `gpu` is the only one that CUDA shows.
        """
        self._api = api
        self.gpu = gpu
        self._alone = alone
        self._threads = threading.local()

    @classmethod
    def of_first_gpu(cls, api: Any) -> CudaPython:
        """Look for the first GPU.

        Raises:
            DeviceError: CUDA fails, or shows no GPU.
        """
        count = call_cuda(api, "cudaGetDeviceCount")
        if count < 1:
            raise DeviceError("CUDA shows no GPU")
        properties = call_cuda(api, "cudaGetDeviceProperties", 0)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        capability = f"{properties.major}.{properties.minor}"
        return cls(api, Gpu(name, capability, bool(getattr(properties, "integrated", 0))), alone=count == 1)

    @contextmanager
    def current(self) -> Iterator[None]:
        # Where there is one GPU, nobody can have made another the thread's: one call less a frame.
        if not getattr(self._threads, "chosen", False):
            self._call("cudaSetDevice", 0)
            self._threads.chosen = self._alone
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

    def pinned(self, size: int, *, mapped: bool = False) -> np.ndarray:
        flags = self._api.cudaHostAllocMapped if mapped else self._api.cudaHostAllocDefault
        address = int(self._call("cudaHostAlloc", size, int(flags)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, array: np.ndarray) -> None:
        self._call("cudaFreeHost", array.ctypes.data)

    def mapped(self, array: np.ndarray) -> int:
        return int(self._call("cudaHostGetDevicePointer", array.ctypes.data, 0))

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def graph(self, stream: int, work: Callable[[], None]) -> int:
        # Thread-local: what other threads do on the GPU meanwhile neither enters the graph nor spoils it.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with _no_garbage_collection():
            try:
                self._call("cudaStreamBeginCapture", stream, mode)
                work()
                recorded = self._call("cudaStreamEndCapture", stream)
            except BaseException:
                self._abandon_capture(stream)
                raise
        try:
            graph = int(self._call("cudaGraphInstantiate", recorded, 0))
        except BaseException:
            with suppress(DeviceError):
                self._call("cudaGraphDestroy", recorded)
            raise
        try:
            self._call("cudaGraphDestroy", recorded)
        except BaseException:
            with suppress(DeviceError):
                self.free_graph(graph)
            raise
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def milliseconds(self, stream: int, work: Callable[[], None]) -> float:
        def event() -> Any:
            return undo.keep(self._call("cudaEventCreate"), lambda made: self._call("cudaEventDestroy", made))

        with Releases() as undo:
            began, ended = event(), event()
            self._call("cudaEventRecord", began, stream)
            work()
            self._call("cudaEventRecord", ended, stream)
            self._call("cudaEventSynchronize", ended)
            return float(self._call("cudaEventElapsedTime", began, ended))

    def _abandon_capture(self, stream: int) -> None:
        """End it whatever happened, or the stream stays unusable. Where none is under way, CUDA says so: no harm."""
        with suppress(DeviceError):
            self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", stream))

    def _call(self, name: str, *arguments: Any) -> Any:
        return call_cuda(self._api, name, *arguments)


def call_cuda(api: Any, name: str, *arguments: Any) -> Any:
    """One call of the runtime interface: the first value that it answers beside the error; None without one.

    Raises:
        DeviceError: CUDA answered with an error, or does not have the call.
    """
    try:
        error, *values = getattr(api, name)(*arguments)
    except RuntimeError as missing:  # the driver's library is too old for this call, or is not there at all
        raise DeviceError(f"{name} failed in CUDA ({missing})") from missing
    if int(error) == 0:
        return values[0] if values else None
    # CUDA keeps an error for whoever asks next in this thread, which would be TensorRT, for another call's.
    api.cudaGetLastError()
    texts = (ask(error)[-1] for ask in (api.cudaGetErrorName, api.cudaGetErrorString))
    reason = ": ".join(text.decode() if isinstance(text, bytes) else str(text) for text in texts if text)
    raise DeviceError(f"{name} failed in CUDA ({reason or error})")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What is collected may free memory of the GPU, and that ends a capture in this thread."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
