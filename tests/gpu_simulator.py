"""A GPU that is not here: CUDA and TensorRT in plain Python, stricter than the real ones.

Device memory lies in an address space of its own whose addresses are never used twice; streams run when somebody waits
for them (or at once, `eager`); graphs replay the addresses they were recorded with; what CUDA calls undefined is noted
as `misuse`. Each call passes `SimulatedGpu.enter`, which counts it and makes it fail where the test says so. Types and
enum members are those of the real `cuda-bindings`. The network of every plan is the mean of the three channels.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Block", "Fault", "SimulatedGpu", "Stream", "install"]

_POISON = 0xDD


@dataclass
class Block:
    """Memory on the host or the GPU; `alias` is what the GPU calls mapped host memory."""

    address: int
    data: np.ndarray
    host: bool
    alias: int = 0
    freed: bool = False


@dataclass
class Stream:
    handle: int
    queue: list[Callable[[], None]] = field(default_factory=list)
    recording: list[Callable[[], None]] | None = None
    spoiled: bool = False
    thread: int = 0


@dataclass
class Fault:
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
        self.fault: Fault | None = None
        self.silent = False  # TensorRT gives no reason
        self.interrupt_in: str | None = None  # Ctrl-C arrives as this call returns
        self.blocks: list[Block] = []
        self.streams: dict[int, Stream] = {}
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
        self.fault = Fault(at, for_good)

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

    def allocate(self, size: int, *, host: bool, mapped: bool = False) -> Block | None:
        if sum(len(block.data) for block in self.blocks if not block.freed) + size > self.memory:
            return None
        data = np.full(size, 0xA5, np.uint8)  # never zero by chance
        block = Block(data.ctypes.data if host else self.address(size), data, host)
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

    def recording(self) -> Stream | None:
        """The stream that the calling thread records."""
        mine = threading.get_ident()
        return next((s for s in self.streams.values() if s.recording is not None and s.thread == mine), None)

    def copy(self, target: int, source: int, size: int, *, up: bool) -> Callable[[], None]:
        def work() -> None:
            self.view(target, size, host=not up)[:] = self.view(source, size, host=up)
            self.copied += size

        return work


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
