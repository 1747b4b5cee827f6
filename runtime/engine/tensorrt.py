"""Plans in TensorRT or TensorRT-RTX, on a CUDA GPU.

Frames go through pinned memory, in a stream of the engine's own. Where shapes are fixed, upload, network and download
are one CUDA graph.
"""

from __future__ import annotations

import mmap
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.files import write_bytes
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.cuda import open_cuda
from sdi.runtime.engine.manifest import Manifest
from sdi.runtime.engine.plan import PlanHeader, check_gpu, check_version, rebuild_command
from sdi.runtime.engine.tensorrt_library import bytes_of, log_of

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as trt_types

__all__ = ["TensorRTEngine", "runtime_cache_path"]


class TensorRTEngine(Engine):
    """A plan with uint8 or planar frames. See `open_engine` for arguments and errors."""

    def __init__(self, path: Path, manifest: Manifest | None, header: PlanHeader, device: str) -> None:
        if device not in ("auto", "cuda"):
            raise InputError(f"{path} is a plan and runs on a GPU; for device {device} use {path.with_suffix('.onnx')}")
        self.path = path
        self.manifest = manifest
        self._header = header
        title = header.made_by.title
        try:
            self._trt = header.made_by.load()
        except DeviceError as error:
            raise DeviceError(f"{path} is a {title} plan: {error}; or run {path.with_suffix('.onnx')}") from error
        check_version(path, header, manifest, self._trt)
        try:
            self._cuda = open_cuda()
        except DeviceError as error:
            raise DeviceError(f"{path} is a {title} plan: {error}; or run {path.with_suffix('.onnx')}") from error
        gpu = self._cuda.gpu
        check_gpu(path, header, manifest, gpu.name, gpu.compute_capability, self._trt)
        self.device = f"{title} {self._trt.__version__}, {gpu.name}"
        self.on_gpu = True
        self._log = log_of(self._trt)
        self._log.clear()
        self._graph: int | None = None
        self._shape: tuple[int, ...] | None = None
        self._runs = 0
        with self._cuda.current(), ExitStack() as undo:
            self._engine = self._deserialise()
            self._planar = self._face()
            self._context = self._new_context()
            self._stream = self._cuda.stream()
            undo.callback(self._cuda.free_stream, self._stream)
            self._allocate(undo)
            self._undo: ExitStack | None = undo.pop_all()

    def execute(self, frames: np.ndarray) -> np.ndarray:
        count = len(frames)
        frames = self._fit(frames)
        try:
            with self._cuda.current():
                self._run(frames)
        except DeviceError as error:
            raise DeviceError(f"{self.path.name} failed on {self.device}: {error}") from error
        shape = frames.shape[:3]
        answer = self._host_out[: int(np.prod(shape)) * (4 if self._planar else 1)]
        if self._planar:
            probability = answer.view(np.float32).reshape(shape)
            return np.rint(probability[:count] * 255).clip(0, 255).astype(np.uint8)
        return answer.reshape(shape)[:count].copy()

    def device_ms(self, frames: np.ndarray) -> float:
        frames = self._fit(frames)
        try:
            with self._cuda.current():
                size = self._run(frames)  # shapes are set and the graph is recorded, as in every later call
                return self._cuda.milliseconds(self._stream, lambda: self._enqueue(size))
        except DeviceError as error:
            raise DeviceError(f"{self.path.name} failed on {self.device}: {error}") from error

    def close(self) -> None:
        if self._undo is None:
            return
        undo, self._undo = self._undo, None
        with self._cuda.current():
            self._keep_runtime_cache()
            if self._graph is not None:
                self._cuda.free_graph(self._graph)
            del self._context, self._engine
            undo.close()

    # -- once ---------------------------------------------------------------------------------------------------------

    def _deserialise(self) -> trt_types.ICudaEngine:
        trt, title = self._trt, self._header.made_by.title
        runtime: trt_types.Runtime = trt.Runtime(self._log.logger)
        built = self.manifest.build if self.manifest is not None else {}
        if built.get("version_compatible"):
            runtime.engine_host_code_allowed = True  # such a plan brings its own runtime
        if built.get("dla_core") is not None:
            runtime.DLA_core = built["dla_core"]
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if hasattr(runtime, "get_engine_validity"):
                validity, diagnostics = runtime.get_engine_validity(data)
                if validity == trt.EngineValidity.INVALID:
                    reasons = [
                        name.lower().replace("_", " ")
                        for name, member in trt.EngineInvalidityDiagnostics.__members__.items()
                        if int(diagnostics) & int(member)
                    ]
                    raise DeviceError(
                        f"{title} refuses {self.path}: {', '.join(reasons) or self._log.last_error()}; build it "
                        f"again: {rebuild_command(self.path, self._header.made_by)}"
                    )
            engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise DeviceError(
                f"{title} cannot load {self.path}: {self._log.last_error()}; build it again: "
                f"{rebuild_command(self.path, self._header.made_by)}"
            )
        return engine

    def _face(self) -> bool:
        """Shapes of the engine, after a check of the I/O contract; answers whether frames are planar."""
        engine, trt = self._engine, self._trt
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        tensors = {name: (engine.get_tensor_dtype(name), _dims(engine.get_tensor_shape(name))) for name in names}
        kinds = {name: (kind, len(shape)) for name, (kind, shape) in tensors.items()}
        planar = kinds == {"frame": (trt.float32, 4), "saliency": (trt.float32, 4)}
        if not planar and kinds != {"frame": (trt.uint8, 4), "saliency": (trt.uint8, 3)}:
            raise InputError(
                f"{self.path} breaks the I/O contract of an sdi engine: expected frame uint8 [N, H, W, 3] and "
                f"saliency uint8 [N, H, W]; it has {tensors}. Export with sdi-export"
            )
        fixed = tensors["frame"][1]
        shapes = [_dims(shape) for shape in engine.get_tensor_profile_shape("frame", 0)] if -1 in fixed else [fixed] * 3
        self._min_shape, _, self._max_shape = ([s[0], *(s[2:] if planar else s[1:3])] for s in shapes)
        self._fixed = self._min_shape == self._max_shape
        min_hw, max_hw = tuple(self._min_shape[1:]), tuple(self._max_shape[1:])
        self.batch = self._min_shape[0] if self._min_shape[0] == self._max_shape[0] else None
        self.frame_hw = (min_hw[0], min_hw[1]) if min_hw == max_hw else None
        if self.manifest is not None and self.manifest.frame_hw != self.frame_hw:
            raise InputError(
                f"{self.path} takes frames of {self.frame_hw}, its manifest says {self.manifest.frame_hw}; build it "
                f"again: {rebuild_command(self.path, self._header.made_by)}"
            )
        return planar

    def _new_context(self) -> trt_types.IExecutionContext:
        self._cache: trt_types.IRuntimeCache | None = None
        config: trt_types.IRuntimeConfig | None = None
        if hasattr(self._trt, "IRuntimeCache"):  # TensorRT-RTX compiles for the GPU when a plan is first used
            config = self._engine.create_runtime_config()
            self._cache = config.create_runtime_cache()
            with suppress(OSError):
                self._cache.deserialize(runtime_cache_path(self.path).read_bytes())  # refused if it is of another GPU
            config.set_runtime_cache(self._cache)
        if config is not None:
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(f"{self.path.name} cannot start on {self.device}: {self._log.last_error()}")
        return context

    def _allocate(self, undo: ExitStack) -> None:
        """Memory for the largest shape, once: nothing grows while frames come."""
        pixels = int(np.prod(self._max_shape))
        width = 4 if self._planar else 1
        hosts, addresses = [], []
        for name, size in (("frame", 3 * pixels * width), ("saliency", pixels * width)):
            hosts.append(self._cuda.pinned(size))
            undo.callback(self._cuda.free_pinned, hosts[-1])
            addresses.append(self._cuda.device_memory(size))
            undo.callback(self._cuda.free_device_memory, addresses[-1])
            if not self._context.set_tensor_address(name, addresses[-1]):
                raise DeviceError(f"{self.path.name}: {name} cannot be bound: {self._log.last_error()}")
        (self._host_in, self._host_out), (self._device_in, self._device_out) = hosts, addresses

    def _keep_runtime_cache(self) -> None:
        if self._cache is None or not self._runs:
            return
        kept = self._cache.serialize()
        if kept is not None:
            data = bytes(bytes_of(kept))
            with suppress(InputError, OSError):  # a folder that cannot be written costs time at the next start
                path = runtime_cache_path(self.path)
                if not path.exists() or path.read_bytes() != data:
                    write_bytes(path, data)

    # -- each frame ---------------------------------------------------------------------------------------------------

    def _fit(self, frames: np.ndarray) -> np.ndarray:
        """Frames that the plan takes: within its range, and as many as it wants at least."""
        size = [len(frames), *frames.shape[1:3]]
        smallest, largest = self._min_shape, self._max_shape
        if any(n > most for n, most in zip(size, largest, strict=True)) or any(
            n < few for n, few in zip(size[1:], smallest[1:], strict=True)
        ):
            raise InputError(
                f"{self.path.name} takes {_words(smallest)} to {_words(largest)}, got {_words(size)}; build it with "
                "--dynamic --frame and --batch that include this"
            )
        if len(frames) < smallest[0]:
            frames = np.concatenate([frames, np.repeat(frames[-1:], smallest[0] - len(frames), axis=0)])
        return frames

    def _run(self, frames: np.ndarray) -> int:
        """Execute, and answer how many bytes went to the GPU."""
        if self._planar:
            frames = frames.transpose(0, 3, 1, 2).astype(np.float32)
        self._host_in[: frames.nbytes].view(frames.dtype).reshape(frames.shape)[...] = frames
        if frames.shape != self._shape:
            if not self._fixed and not self._context.set_input_shape("frame", frames.shape):
                raise DeviceError(f"frames of {frames.shape} were refused: {self._log.last_error()}")
            self._shape = frames.shape
        self._enqueue(frames.nbytes)
        self._cuda.synchronise(self._stream)
        self._runs += 1
        # Only after a first run: what is set up lazily cannot be recorded.
        if self._runs == 1 and self._fixed and self._capturable():
            with suppress(DeviceError):  # then frame by frame, as before
                self._graph = self._cuda.graph(self._stream, lambda: self._enqueue(frames.nbytes))
        return frames.nbytes

    def _enqueue(self, size: int) -> None:
        """Put upload of `size` bytes, network and download of the answer into the stream."""
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
            return
        self._cuda.upload(self._device_in, self._host_in[:size], self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise DeviceError(self._log.last_error())
        self._cuda.download(self._host_out[: size // 3], self._device_out, self._stream)

    def _capturable(self) -> bool:
        asks: Any = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX alone
        return asks is None or bool(asks(self._stream))


def runtime_cache_path(plan: Path) -> Path:
    """Where the kernels that TensorRT-RTX compiled for this GPU are kept: as executable as the plan itself."""
    return plan.with_name(plan.name + ".cache")


def _dims(shape: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in shape)


def _words(size: list[int]) -> str:
    return f"{size[0]} x {size[1]}x{size[2]}"
