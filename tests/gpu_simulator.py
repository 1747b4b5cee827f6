"""A GPU that is not here: CUDA and TensorRT in plain Python, stricter than the real ones.

Device memory lies in an address space of its own whose addresses are never used twice; streams run when somebody waits
for them (or at once, `eager`); graphs replay the addresses they were recorded with; what CUDA calls undefined is noted
as `misuse`. Each call passes `SimulatedGpu.enter`, which counts it and makes it fail where the test says so. Types and
enum members are those of the real `cuda-bindings`. The network of every plan is the mean of the three channels.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from cuda.bindings import runtime as real

__all__ = ["SimulatedGpu", "cuda_python", "install", "plan_bytes", "pycuda_driver", "tensorrt"]

_POISON = 0xDD
_ERROR = real.cudaError_t
# Types, enum members and error texts are the real ones.
_REAL = {
    name: thing
    for name, thing in vars(real).items()
    if not callable(thing) or isinstance(thing, type) or name in ("cudaGetErrorName", "cudaGetErrorString")
}
# What CUDA refuses while the calling thread records a stream in thread-local mode.
_UNSAFE = {"cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaFreeHost", "cudaStreamSynchronize", "cudaEventSynchronize"}


@dataclass
class _Block:
    """Memory on the host or the GPU; `alias` is what the GPU calls mapped host memory."""

    address: int
    data: np.ndarray
    host: bool
    alias: int = 0
    freed: bool = False


@dataclass
class _Stream:
    handle: int
    queue: list[Callable[[], None]] = field(default_factory=list)
    recording: list[Callable[[], None]] | None = None
    spoiled: bool = False
    thread: int = 0


@dataclass
class _Fault:
    at: int  # number of the call, from 0
    for_good: bool


class SimulatedGpu:
    """Memory, streams, graphs and events of one GPU, and a record of what was done to it.

    Attributes:
        calls: how often each function was called.
        copied: bytes in either direction.
        misuse: what real CUDA or TensorRT would answer with wrong results or a crash.
    """

    def __init__(self, *, eager: bool = False, integrated: bool = False, count: int = 1, memory: int = 1 << 30) -> None:
        self.eager, self.integrated, self.count, self.memory = eager, integrated, count, memory
        self.calls: Counter[str] = Counter()
        self.order: list[str] = []
        self.copied = 0
        self.misuse: list[str] = []
        self.fault: _Fault | None = None
        self.interrupt_in: str | None = None  # Ctrl-C arrives as this call returns
        self.blocks: list[_Block] = []
        self.streams: dict[int, _Stream] = {}
        self.graphs: dict[int, tuple[str, list[Callable[[], None]]]] = {}
        self.events: dict[int, float | None] = {}
        self.objects: Counter[str] = Counter()  # TensorRT's, alive
        self.clock = 0.0
        self.threads = threading.local()
        self._next = 0x7000_0000_0000
        self._last_error = 0

    # -- faults and counts --------------------------------------------------------------------------------------------

    def enter(self, name: str) -> bool:
        """Count a call; False where it is to fail."""
        number = len(self.order)
        self.order.append(name)
        self.calls[name] += 1
        if self.fault is None:
            return True
        return not (number == self.fault.at or (self.fault.for_good and number > self.fault.at))

    def fail(self, at: int, for_good: bool = False) -> None:
        self.fault = _Fault(at, for_good)

    def leave(self, name: str) -> None:
        if name == self.interrupt_in:
            self.interrupt_in = None
            raise KeyboardInterrupt

    def wrong(self, text: str) -> None:
        self.misuse.append(text)

    def left(self) -> dict[str, int]:
        """What is still allocated, garbage excepted; looks for writes into freed host memory."""
        counts = self._left()
        if counts:
            gc.collect()
            counts = self._left()
        for block in self.blocks:
            if block.freed and block.host and (block.data != _POISON).any():
                self.wrong(f"host memory at {block.address:#x} was written after it was freed")
        return counts

    def _left(self) -> dict[str, int]:
        counts = Counter("memory" for block in self.blocks if not block.freed)
        counts["streams"] = len(self.streams)
        counts["events"] = len(self.events)
        counts.update(kind for kind, _ in self.graphs.values())
        counts.update(self.objects)
        return {name: count for name, count in counts.items() if count}

    # -- memory -------------------------------------------------------------------------------------------------------

    def address(self, size: int) -> int:
        """A new one, 256 bytes aligned, with a gap behind it."""
        self._next += (size + 511) // 256 * 256
        return self._next - (size + 511) // 256 * 256

    def allocate(self, size: int, *, host: bool, mapped: bool = False) -> _Block | None:
        if sum(len(block.data) for block in self.blocks if not block.freed) + size > self.memory:
            return None
        data = np.full(size, 0xA5, np.uint8)  # never zero by chance
        block = _Block(data.ctypes.data if host else self.address(size), data, host)
        if host and mapped:
            block.alias = self.address(size)
        self.blocks.append(block)
        return block

    def free(self, address: int, *, host: bool) -> bool:
        for block in self.blocks:
            if block.address == address and block.host == host and not block.freed:
                block.freed = True
                block.data[:] = _POISON
                return True
        self.wrong(f"free of {address:#x}, which is not allocated")
        return False

    def view(self, address: int, size: int, *, host: bool) -> np.ndarray:
        """Bytes at an address, as the host or the GPU sees it."""
        for block in self.blocks:
            begin = block.address if block.host == host else block.alias if not host else 0
            if begin and begin <= address < begin + len(block.data):
                if block.freed:
                    self.wrong(f"freed memory at {address:#x} was used")
                if address + size > begin + len(block.data):
                    self.wrong(f"{size} bytes at {address:#x} reach over the end of an allocation")
                return block.data[address - begin :][:size]
        self.wrong(f"{address:#x} is no {'pinned host' if host else 'device'} memory")
        return np.zeros(size, np.uint8)

    # -- streams ------------------------------------------------------------------------------------------------------

    def put(self, handle: int, work: Callable[[], None]) -> bool:
        stream = self.streams.get(handle)
        if stream is None:
            self.wrong(f"work was put into {handle:#x}, which is no stream")
            return False
        if stream.recording is not None:
            stream.recording.append(work)
        elif self.eager:
            work()
            self.clock += 0.25
        else:
            stream.queue.append(work)
        return True

    def wait(self, handle: int | None = None) -> None:
        for stream in list(self.streams.values()) if handle is None else [self.streams[handle]]:
            while stream.queue:
                stream.queue.pop(0)()
                self.clock += 0.25

    def recording(self) -> _Stream | None:
        """The stream that the calling thread records."""
        mine = threading.get_ident()
        return next((s for s in self.streams.values() if s.recording is not None and s.thread == mine), None)

    def copy(self, target: int, source: int, size: int, *, up: bool) -> Callable[[], None]:
        def work() -> None:
            self.view(target, size, host=not up)[:] = self.view(source, size, host=up)
            self.copied += size

        return work


# -- CUDA's runtime interface, as `cuda-python` has it ----------------------------------------------------------------


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
        self.gpu.streams[handle] = _Stream(handle)
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


# -- CUDA's driver interface, as `pycuda` has it -----------------------------------------------------------------------


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
            gpu.streams[self.handle] = _Stream(self.handle)

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
        def __init__(self, block: _Block) -> None:
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


# -- TensorRT ---------------------------------------------------------------------------------------------------------


def plan_bytes(
    magic: bytes,
    version: str,
    least: tuple[int, int, int],
    greatest: tuple[int, int, int],
    *,
    planar: bool = False,
    dla: bool = False,
) -> bytes:
    """A plan of the simulated libraries: the header of the real ones, then its shapes (frames, height, width)."""
    body = json.dumps({"least": least, "greatest": greatest, "planar": planar, "dla": dla}).encode()
    numbers = bytes(int(part) for part in version.split("."))
    head = magic.ljust(16, b"\0") + (32 + len(body)).to_bytes(8, "little") + numbers.ljust(8, b"\0")
    return head + body


class _Alive:
    """What one of TensorRT's objects is to work that was queued or recorded with it."""

    def __init__(self, gpu: SimulatedGpu, kind: str) -> None:
        self.gpu, self.kind, self.there, self.state = gpu, kind, True, 0
        gpu.objects[kind] += 1

    def end(self) -> None:
        self.there = False
        self.gpu.objects[self.kind] -= 1


def tensorrt(gpu: SimulatedGpu, version: str = "10.3.0", *, rtx: bool = False, capturable: bool = True) -> ModuleType:
    """TensorRT, or TensorRT-RTX where `rtx`, on a simulated GPU; what a version lacks is not there.

    Args:
        capturable: what RTX answers when asked whether its work can be recorded.
    """
    trt: Any = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    trt.__version__ = version
    numbers = tuple(int(part) for part in version.split("."))
    trt.float32, trt.uint8 = "DataType.FLOAT", "DataType.UINT8"

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __init__(self) -> None:
            pass

    class Thing:
        kind = ""

        def __init__(self, logger: Any) -> None:
            self._logger = logger
            self._alive = _Alive(gpu, self.kind)

        def __del__(self) -> None:
            if hasattr(self, "_alive"):
                self._alive.end()

        def _enter(self, name: str) -> bool:
            done = gpu.enter(f"{type(self).__name__}.{name}")
            if not done:
                self._logger.log(ILogger.ERROR, f"{name} was made to fail")
            return done

        def _say(self, text: str) -> None:
            self._logger.log(ILogger.ERROR, text)

    class Runtime(Thing):
        kind = "runtimes"
        engine_host_code_allowed = False
        DLA_core = -1

        def __init__(self, logger: Any) -> None:
            if not gpu.enter("Runtime"):
                logger.log(ILogger.ERROR, "Runtime was made to fail")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            super().__init__(logger)

        def deserialize_cuda_engine(self, plan: Any) -> Any:
            if not self._enter("deserialize_cuda_engine"):
                return None
            return ICudaEngine(self, json.loads(bytes(plan)[32:]))

        if rtx:

            def get_engine_validity(self, plan: Any) -> Any:
                if not self._enter("get_engine_validity"):
                    return EngineValidity.INVALID, 1
                return EngineValidity.VALID, 0

    class EngineValidity:
        VALID, SUBOPTIMAL, INVALID = range(3)

    class EngineInvalidityDiagnostics:
        __members__ = {"CUDA_ERROR": 1}  # noqa: RUF012

    class ExecutionContextAllocationStrategy:
        STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)

    class CudaGraphStrategy:
        DISABLED, WHOLE_GRAPH_CAPTURE = range(2)

    class ICudaEngine(Thing):
        kind = "engines"
        num_io_tensors = 2
        device_memory_size_v2 = 4096

        def __init__(self, runtime: Any, plan: dict[str, Any]) -> None:
            super().__init__(runtime._logger)
            self._runtime, self._plan = runtime, plan  # pybind keeps a parent alive

        def _shape(self, name: str, size: list[int]) -> tuple[int, ...]:
            count, height, width = size
            if self._plan["planar"]:
                return count, 3 if name == "frame" else 1, height, width
            return (count, height, width, 3) if name == "frame" else (count, height, width)

        def get_tensor_name(self, number: int) -> Any:
            return ("frame", "saliency")[number] if self._enter("get_tensor_name") else None

        def get_tensor_dtype(self, name: str) -> Any:
            if not self._enter("get_tensor_dtype"):
                raise RuntimeError("get_tensor_dtype was made to fail")
            return trt.float32 if self._plan["planar"] else trt.uint8

        def get_tensor_shape(self, name: str) -> Any:
            if not self._enter("get_tensor_shape"):
                raise RuntimeError("get_tensor_shape was made to fail")
            least, greatest = self._plan["least"], self._plan["greatest"]
            size = [few if few == most else -1 for few, most in zip(least, greatest, strict=True)]
            return self._shape(name, size)

        def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
            if not self._enter("get_tensor_profile_shape"):
                return []
            sizes = (self._plan["least"], self._plan["greatest"], self._plan["greatest"])
            return [self._shape(name, size) for size in sizes]

        def create_runtime_config(self) -> Any:
            return IRuntimeConfig(self._logger) if self._enter("create_runtime_config") else None

        def create_execution_context(self, how: Any = None) -> Any:
            if gpu.recording() is not None:
                gpu.wrong("a context was made during capture")
            if not self._enter("create_execution_context"):
                return None
            if rtx and not isinstance(how, IRuntimeConfig):
                gpu.wrong("TensorRT-RTX without its configuration compiles at each start")
            return IExecutionContext(self, how)

    class IRuntimeCache(Thing):
        kind = "runtime caches"

        def __init__(self, logger: Any) -> None:
            super().__init__(logger)
            self._kernels: set[str] = set()

        def deserialize(self, data: Any) -> bool:
            if not self._enter("deserialize") or not bytes(data).startswith(b"kernels"):
                return False
            self._kernels |= set(json.loads(bytes(data)[7:]))
            return True

        def serialize(self) -> Any:
            return b"kernels" + json.dumps(sorted(self._kernels)).encode() if self._enter("serialize") else None

    class IRuntimeConfig(Thing):
        kind = "runtime configurations"
        _cache: Any = None
        _strategy = ExecutionContextAllocationStrategy.STATIC
        if rtx and numbers >= (1, 2):
            cuda_graph_strategy = CudaGraphStrategy.DISABLED

        def create_runtime_cache(self) -> Any:
            return IRuntimeCache(self._logger) if self._enter("create_runtime_cache") else None

        def set_runtime_cache(self, cache: Any) -> bool:
            self._cache = cache
            return self._enter("set_runtime_cache")

        def set_execution_context_allocation_strategy(self, strategy: int) -> None:
            self._strategy = strategy

    class IExecutionContext(Thing):
        kind = "contexts"

        def __init__(self, engine: Any, how: Any) -> None:
            super().__init__(engine._logger)
            self._engine = engine
            config = isinstance(how, IRuntimeConfig)
            self._cache = how._cache if config else None
            strategy = how._strategy if config else how
            self._own_memory = strategy != ExecutionContextAllocationStrategy.USER_MANAGED
            self._scratch = 0
            fixed = engine._plan["least"] == engine._plan["greatest"]
            self._size: list[int] | None = list(engine._plan["least"]) if fixed else None
            self._enqueued: list[int] | None = None  # shape of the last enqueue, after which work can be recorded
            self._addresses: dict[str, int] = {}

        def set_device_memory(self, address: int, size: int) -> None:
            self._enter("set_device_memory")
            if address % 256 or size < self._engine.device_memory_size_v2:
                gpu.wrong("device memory that is too small or not aligned")
            self._alive.state += 1
            self._scratch = address

        def set_tensor_address(self, name: str, address: int) -> bool:
            if not self._enter("set_tensor_address") or name not in ("frame", "saliency") or address % 256:
                return False
            self._alive.state += 1
            self._addresses[name] = address
            return True

        def set_input_shape(self, name: str, shape: Any) -> bool:
            self._alive.state += 1
            if not self._enter("set_input_shape"):
                return False
            shape = [int(n) for n in shape]
            size = [shape[0], *(shape[2:] if self._engine._plan["planar"] else shape[1:3])]
            least, greatest = self._engine._plan["least"], self._engine._plan["greatest"]
            if not all(few <= n <= most for few, n, most in zip(least, size, greatest, strict=True)):
                self._say(f"shape {shape} is outside the profile")
                return False
            self._size = size
            return True

        def execute_async_v3(self, stream: int) -> bool:
            if not self._enter("execute_async_v3"):
                return False
            if self._size is None or len(self._addresses) < 2:
                self._say("shapes or addresses are missing")
                return False
            recording = gpu.streams[int(stream)].recording is not None
            if recording:
                if gc.isenabled():
                    gc.collect()  # as it may come at any allocation
                if self._engine._plan["dla"] or self._enqueued != self._size or not capturable:
                    gpu.streams[int(stream)].spoiled = True
                    self._say("operation not permitted when stream is capturing")
                    return False
            if self._cache is not None:
                self._cache._kernels.add(str(self._size))
            self._enqueued = list(self._size)
            work = self._work(recording)
            answer = gpu.put(int(stream), work)
            gpu.leave("execute_async_v3")
            return answer

        def _work(self, recorded: bool) -> Callable[[], None]:
            alive, state, plan = self._alive, self._alive.state, self._engine._plan
            shape = self._engine._shape("frame", self._size)
            source, target = self._addresses["frame"], self._addresses["saliency"]
            scratch, need = self._scratch, 0 if self._own_memory else self._engine.device_memory_size_v2

            def work() -> None:
                if not alive.there:
                    gpu.wrong("work of a context that was destroyed")
                if recorded and alive.state != state:
                    gpu.wrong("a graph of a context that was changed since")
                if need:
                    gpu.view(scratch, need, host=False)[:] = 0x5C
                width = 4 if plan["planar"] else 1
                pixels = int(np.prod(shape)) // 3
                raw = gpu.view(source, 3 * pixels * width, host=False)
                out = gpu.view(target, pixels * width, host=False)
                if plan["planar"]:
                    out.view(np.float32)[:] = raw.view(np.float32).reshape(shape).mean(1).ravel() / 255
                else:
                    out[:] = np.rint(raw.reshape(shape).mean(-1)).astype(np.uint8).ravel()

            return work

        if rtx and numbers >= (1, 2):

            def is_stream_capturable(self, stream: int) -> bool:
                return capturable if self._enter("is_stream_capturable") else False

    things: list[Any] = [ILogger, Runtime, ICudaEngine, IExecutionContext, ExecutionContextAllocationStrategy]
    if rtx:
        things += [IRuntimeConfig, IRuntimeCache, EngineValidity, EngineInvalidityDiagnostics]
        trt.ComputeCapability = SimpleNamespace(__members__={"SM89": 1})
        if numbers >= (1, 2):
            things.append(CudaGraphStrategy)
    for thing in things:
        setattr(trt, thing.__name__, thing)
    return trt


def install(trt: ModuleType, cuda: ModuleType, put: Callable[[Any, str, Any], None], *, old_name: bool = False) -> None:
    """Make `import` find the simulated modules.

    Args:
        put: `setitem` of pytest's monkeypatch, or of `dict`.
        old_name: `cuda.cudart`, as before `cuda.bindings`.
    """
    from sdi.runtime.engine.cuda import open_cuda

    open_cuda.cache_clear()
    put(sys.modules, trt.__name__, trt)
    if cuda.__name__ == "pycuda.driver":
        put(sys.modules, "cuda.bindings", None)
        put(sys.modules, "cuda.cudart", None)
        pycuda = ModuleType("pycuda")
        pycuda.driver = cuda  # type: ignore[attr-defined]
        put(sys.modules, "pycuda", pycuda)
        put(sys.modules, "pycuda.driver", cuda)
    elif old_name:
        put(sys.modules, "cuda.bindings", None)
        put(sys.modules, "cuda.cudart", cuda)
        put(sys.modules["cuda"].__dict__, "cudart", cuda)
    else:
        put(sys.modules, "cuda.bindings.runtime", cuda)
        put(sys.modules["cuda.bindings"].__dict__, "runtime", cuda)


assert ctypes.sizeof(ctypes.c_void_p) == 8  # addresses of the host and the GPU do not meet
