"""CUDA as `cuda-python` and `pycuda` show it, on the simulated GPU of `gpu_simulator`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from cuda.bindings import runtime as real

from gpu_simulator import Block, SimulatedGpu
from gpu_simulator import Stream as Queue

__all__ = ["cuda_python", "pycuda_driver"]

_ERROR = real.cudaError_t
# Types, enum members and error texts are the real ones.
_REAL = {
    name: thing
    for name, thing in vars(real).items()
    if not callable(thing) or isinstance(thing, type) or name in ("cudaGetErrorName", "cudaGetErrorString")
}
# What CUDA refuses while the calling thread records a stream in thread-local mode.
_UNSAFE = {"cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaFreeHost", "cudaStreamSynchronize", "cudaEventSynchronize"}


def cuda_python(gpu: SimulatedGpu) -> ModuleType:
    """The module `cuda.bindings.runtime` (or `cuda.cudart`) of a simulated GPU."""
    module = ModuleType("cuda.bindings.runtime")
    module.__dict__.update(_REAL)
    functions = _CudaFunctions(gpu)
    for name in dir(functions):
        if name.startswith("cuda"):
            setattr(module, name, functions.guarded(name))
    return module


class _CudaFunctions:
    """Each answers an error or the values of a success."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self.gpu = gpu

    def guarded(self, name: str) -> Callable[..., tuple[Any, ...]]:
        gpu, function = self.gpu, getattr(self, name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            empty = (None,) if name in _VALUED else ()
            if not gpu.enter(name):
                gpu._last_error = int(_ERROR.cudaErrorUnknown)
                return (_ERROR.cudaErrorUnknown, *empty)
            stream = gpu.recording()
            if stream is not None and name in _UNSAFE:
                stream.spoiled = True
                return (_ERROR.cudaErrorStreamCaptureUnsupported, *empty)
            if name not in _ANY_THREAD and not getattr(gpu.threads, "device", False):
                gpu.wrong(f"{name} in a thread that chose no device")
            answer = function(*arguments)
            gpu.leave(name)
            if isinstance(answer, _ERROR):
                gpu._last_error = int(answer)
                return (answer, *empty)
            return (_ERROR.cudaSuccess,) if answer is None else (_ERROR.cudaSuccess, answer)

        return call

    def cudaGetDeviceCount(self) -> Any:
        return self.gpu.count if self.gpu.count else _ERROR.cudaErrorNoDevice

    def cudaGetDeviceProperties(self, device: int) -> Any:
        found = SimpleNamespace(name=b"Simulated GPU", major=8, minor=9, integrated=int(self.gpu.integrated))
        found.canMapHostMemory = 1
        assert all(hasattr(real.cudaDeviceProp, name) for name in vars(found))
        return found

    def cudaGetLastError(self) -> Any:
        self.gpu._last_error = 0

    def cudaSetDevice(self, device: int) -> Any:
        if not 0 <= device < self.gpu.count:
            return _ERROR.cudaErrorInvalidDevice
        self.gpu.threads.device = True

    def cudaMalloc(self, size: int) -> Any:
        block = self.gpu.allocate(size, host=False)
        return _ERROR.cudaErrorMemoryAllocation if block is None else block.address

    def cudaFree(self, address: int) -> Any:
        return None if self.gpu.free(int(address), host=False) else _ERROR.cudaErrorInvalidValue

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        block = self.gpu.allocate(size, host=True, mapped=bool(int(flags) & int(real.cudaHostAllocMapped)))
        return _ERROR.cudaErrorMemoryAllocation if block is None else block.address

    def cudaFreeHost(self, address: int) -> Any:
        return None if self.gpu.free(int(address), host=True) else _ERROR.cudaErrorInvalidValue

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> Any:
        found = next((b.alias for b in self.gpu.blocks if b.address == address and b.alias and not b.freed), None)
        return _ERROR.cudaErrorInvalidValue if found is None or flags else found

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        if flags != real.cudaStreamNonBlocking:
            self.gpu.wrong("a stream that waits for the default one")
        handle = self.gpu.address(1)
        self.gpu.streams[handle] = Queue(handle)
        return real.cudaStream_t(handle)

    def cudaStreamDestroy(self, stream: Any) -> Any:
        found = self.gpu.streams.pop(int(stream), None)
        if found is None:
            return _ERROR.cudaErrorInvalidResourceHandle
        if found.queue:
            self.gpu.wrong("a stream was destroyed while work was queued")

    def cudaStreamSynchronize(self, stream: Any) -> Any:
        found = self.gpu.streams.get(int(stream))
        if found is None:
            return _ERROR.cudaErrorInvalidResourceHandle
        if found.recording is not None:
            found.spoiled = True
            return _ERROR.cudaErrorStreamCaptureUnsupported
        self.gpu.wait(int(stream))

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: Any) -> Any:
        up = kind is real.cudaMemcpyKind.cudaMemcpyHostToDevice
        if not up and kind is not real.cudaMemcpyKind.cudaMemcpyDeviceToHost:
            return _ERROR.cudaErrorInvalidMemcpyDirection
        if not self.gpu.put(int(stream), self.gpu.copy(int(target), int(source), size, up=up)):
            return _ERROR.cudaErrorInvalidResourceHandle

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> Any:
        found = self.gpu.streams.get(int(stream))
        if found is None or found.recording is not None:
            return _ERROR.cudaErrorIllegalState
        if mode is not real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal:
            self.gpu.wrong("a capture that other threads can spoil")
        found.recording, found.spoiled, found.thread = [], False, threading.get_ident()

    def cudaStreamEndCapture(self, stream: Any) -> Any:
        found = self.gpu.streams.get(int(stream))
        if found is None or found.recording is None:
            return _ERROR.cudaErrorIllegalState
        recorded, found.recording = found.recording, None
        if found.spoiled:
            return _ERROR.cudaErrorStreamCaptureInvalidated
        handle = self.gpu.address(1)
        self.gpu.graphs[handle] = ("graphs", recorded)
        return real.cudaGraph_t(handle)

    def _graph(self, handle: Any, kind: str) -> list[Callable[[], None]] | None:
        found = self.gpu.graphs.get(int(handle))
        return found[1] if found is not None and found[0] == kind else None

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        recorded = self._graph(graph, "graphs")
        if recorded is None:
            return _ERROR.cudaErrorInvalidValue
        handle = self.gpu.address(1)
        self.gpu.graphs[handle] = ("executable graphs", list(recorded))
        return real.cudaGraphExec_t(handle)

    def cudaGraphDestroy(self, graph: Any) -> Any:
        if self._graph(graph, "graphs") is None:
            return _ERROR.cudaErrorInvalidValue
        del self.gpu.graphs[int(graph)]

    def cudaGraphExecDestroy(self, graph: Any) -> Any:
        if self._graph(graph, "executable graphs") is None:
            self.gpu.wrong("an executable graph was destroyed twice")
            return _ERROR.cudaErrorInvalidValue
        del self.gpu.graphs[int(graph)]

    def cudaGraphLaunch(self, graph: Any, stream: Any) -> Any:
        recorded = self._graph(graph, "executable graphs")
        if recorded is None:
            return _ERROR.cudaErrorInvalidValue
        for work in recorded:
            self.gpu.put(int(stream), work)

    def cudaEventCreate(self) -> Any:
        handle = self.gpu.address(1)
        self.gpu.events[handle] = None
        return real.cudaEvent_t(handle)

    def cudaEventRecord(self, event: Any, stream: Any) -> Any:
        def work(handle: int = int(event)) -> None:
            if handle in self.gpu.events:  # CUDA keeps an event for work that is queued
                self.gpu.events[handle] = self.gpu.clock

        self.gpu.put(int(stream), work)

    def cudaEventSynchronize(self, event: Any) -> Any:
        self.gpu.wait()

    def cudaEventElapsedTime(self, began: Any, ended: Any) -> Any:
        times = [self.gpu.events.get(int(event)) for event in (began, ended)]
        return _ERROR.cudaErrorInvalidResourceHandle if None in times else times[1] - times[0]  # type: ignore[operator]

    def cudaEventDestroy(self, event: Any) -> Any:
        if self.gpu.events.pop(int(event), "none") == "none":
            return _ERROR.cudaErrorInvalidResourceHandle


# Those that answer a value beside the error, also when they fail.
_VALUED = {
    *("cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaMalloc", "cudaHostAlloc", "cudaHostGetDevicePointer"),
    *("cudaStreamCreateWithFlags", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaEventCreate"),
    "cudaEventElapsedTime",
}
_ANY_THREAD = {"cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaSetDevice", "cudaGetLastError"}


def pycuda_driver(gpu: SimulatedGpu) -> ModuleType:
    """The module `pycuda.driver` of a simulated GPU."""
    driver: Any = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError(Error):
        pass

    def enter(name: str, *, context: bool = True) -> None:
        if not gpu.enter(name):
            raise LogicError(f"{name} failed: unknown error")
        if context and not getattr(gpu.threads, "contexts", 0):
            raise LogicError(f"{name} failed: invalid device context")

    class Device:
        def __init__(self, number: int) -> None:
            enter("cuDeviceGet", context=False)

        @staticmethod
        def count() -> int:
            enter("cuDeviceGetCount", context=False)
            return gpu.count

        def name(self) -> str:
            enter("cuDeviceGetName", context=False)
            return "Simulated GPU"

        def compute_capability(self) -> tuple[int, int]:
            enter("cuDeviceComputeCapability", context=False)
            return 8, 9

        def get_attribute(self, attribute: str) -> int:
            enter("cuDeviceGetAttribute", context=False)
            return {"integrated": int(gpu.integrated), "can map": 1}[attribute]

        def retain_primary_context(self) -> Any:
            enter("cuDevicePrimaryCtxRetain", context=False)
            return Context()

    class Context:
        def push(self) -> None:
            enter("cuCtxPushCurrent", context=False)
            gpu.threads.contexts = getattr(gpu.threads, "contexts", 0) + 1
            gpu.leave("cuCtxPushCurrent")

        @staticmethod
        def pop() -> None:
            enter("cuCtxPopCurrent")
            gpu.threads.contexts -= 1

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            enter("cuStreamCreate")
            self.handle = gpu.address(1)
            gpu.streams[self.handle] = Queue(self.handle)

        def synchronize(self) -> None:
            enter("cuStreamSynchronize")
            gpu.wait(self.handle)

        def __del__(self) -> None:
            lost = gpu.fault is not None and gpu.fault.for_good  # then nobody can wait for it
            if hasattr(self, "handle") and gpu.streams.pop(self.handle).queue and not lost:
                gpu.wrong("a stream was destroyed while work was queued")

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            enter("cuMemAlloc")
            block = gpu.allocate(size, host=False)
            if block is None:
                raise MemoryError("cuMemAlloc failed: out of memory")
            self.address = block.address

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            enter("cuMemFree", context=False)  # makes its own context the current one
            gpu.free(self.address, host=False)

    class PagelockedHostAllocation:
        def __init__(self, block: Block) -> None:
            self.block = block
            self.__array_interface__ = {"data": (block.address, False), "shape": block.data.shape, "typestr": "|u1"}

        def free(self) -> None:
            enter("cuMemFreeHost", context=False)
            gpu.free(self.block.address, host=True)

        def get_device_pointer(self) -> int:
            enter("cuMemHostGetDevicePointer")
            if not self.block.alias:
                raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
            return self.block.alias

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        enter("cuMemHostAlloc")
        block = gpu.allocate(shape * np.dtype(dtype).itemsize, host=True, mapped=bool(mem_flags & 2))
        if block is None:
            raise MemoryError("cuMemHostAlloc failed: out of memory")
        return np.asarray(PagelockedHostAllocation(block)).view(dtype)

    def memcpy_htod_async(target: int, source: np.ndarray, stream: Any) -> None:
        enter("cuMemcpyHtoDAsync")
        gpu.put(stream.handle, gpu.copy(int(target), source.ctypes.data, source.nbytes, up=True))

    def memcpy_dtoh_async(target: np.ndarray, source: int, stream: Any) -> None:
        enter("cuMemcpyDtoHAsync")
        gpu.put(stream.handle, gpu.copy(target.ctypes.data, int(source), target.nbytes, up=False))

    class Event:
        def __init__(self, flags: int = 0) -> None:
            enter("cuEventCreate")
            self.handle = gpu.address(1)
            gpu.events[self.handle] = None

        def record(self, stream: Any) -> Any:
            enter("cuEventRecord")
            handle = self.handle
            gpu.put(stream.handle, lambda: gpu.events.update({handle: gpu.clock} if handle in gpu.events else {}))
            return self

        def synchronize(self) -> Any:
            enter("cuEventSynchronize")
            gpu.wait()
            return self

        def time_since(self, earlier: Any) -> float:
            enter("cuEventElapsedTime")
            return gpu.events[self.handle] - gpu.events[earlier.handle]  # type: ignore[operator]

        def __del__(self) -> None:
            gpu.events.pop(getattr(self, "handle", 0), None)

    def init() -> None:
        enter("cuInit", context=False)

    driver.host_alloc_flags = SimpleNamespace(PORTABLE=1, DEVICEMAP=2)
    driver.device_attribute = SimpleNamespace(INTEGRATED="integrated", CAN_MAP_HOST_MEMORY="can map")
    driver.mem_alloc = DeviceAllocation
    for thing in (Error, LogicError, MemoryError, Device, Context, Stream, Event):
        setattr(driver, thing.__name__, thing)
    for function in (init, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async):
        setattr(driver, function.__name__, function)
    return driver
