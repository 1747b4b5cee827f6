"""TensorRT and TensorRT-RTX on the simulated GPU of `gpu_simulator`."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from gpu_simulator import SimulatedGpu
from sdi.runtime.engine.onnx_runtime import SKIPPED_OPTIMIZERS

__all__ = ["Element", "plan_bytes", "tensorrt"]


def plan_bytes(
    magic: bytes,
    version: str,
    least: tuple[int, int, int],
    greatest: tuple[int, int, int],
    *,
    planar: bool = False,
    dla: bool = False,
    name: str = "",
    model: bytes = b"",
) -> bytes:
    """A plan of the simulated libraries: the header of the real ones, then its shapes (frames, height, width).

    Args:
        model: an ONNX file to be executed; empty: the mean of the three channels.
    """
    facts = {"least": least, "greatest": greatest, "planar": planar, "dla": dla, "name": name}
    body = json.dumps(facts).encode() + b"\0" + model
    numbers = bytes(int(part) for part in version.split("."))
    head = magic.ljust(16, b"\0") + (32 + len(body)).to_bytes(8, "little") + numbers.ljust(8, b"\0")
    return head + body


Network = Callable[[np.ndarray], np.ndarray]


class Element(str):
    """A member of `DataType`."""

    @property
    def name(self) -> str:
        return self.rpartition(".")[2]


def _network(model: bytes) -> Network:
    """`frame` -> `saliency`, as the plan has them."""
    if not model:
        return _mean
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(SKIPPED_OPTIMIZERS)
    )
    return lambda frames: np.asarray(session.run(["saliency"], {"frame": frames})[0])


def _mean(frames: np.ndarray) -> np.ndarray:
    if frames.dtype == np.float32:
        return frames.mean(1) / 255
    return np.rint(frames.mean(-1)).astype(np.uint8)


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
    trt.__spec__ = ModuleSpec(trt.__name__, None)
    trt.__version__ = version
    numbers = tuple(int(part) for part in version.split("."))
    trt.float32, trt.uint8 = Element("DataType.FLOAT"), Element("DataType.UINT8")

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
            if not done and not gpu.silent:
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
            facts, _, model = bytes(plan)[32:].partition(b"\0")
            return ICudaEngine(self, json.loads(facts), _network(model))

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

        def __init__(self, runtime: Any, plan: dict[str, Any], network: Network) -> None:
            super().__init__(runtime._logger)
            self._runtime, self._plan, self._network = runtime, plan, network  # pybind keeps a parent alive

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
            alive, state, plan, network = self._alive, self._alive.state, self._engine._plan, self._engine._network
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
                kind = np.float32 if plan["planar"] else np.uint8
                out.view(kind)[:] = network(raw.view(kind).reshape(shape)).ravel()

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
