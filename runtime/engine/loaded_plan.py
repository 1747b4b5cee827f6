"""A plan in its library: what is loaded once and shared by all that run it."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.engine.kernel_cache import read_kernels, write_kernels
from sdi.runtime.engine.manifest import Manifest
from sdi.runtime.engine.plan import PlanHeader, rebuild_command
from sdi.runtime.engine.plan_io import PlanIO
from sdi.runtime.engine.releases import Releases
from sdi.runtime.engine.tensorrt_library import bytes_of, log_of

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as trt_types

__all__ = ["LoadedPlan"]


class LoadedPlan:
    """A deserialised plan, and what execution contexts are made by.

    Attributes:
        io: its input and output.
        scratch_bytes: memory that a context works in and is given; None: it has its own.
        recordable: whether its work may be recorded as a CUDA graph.
    """

    def __init__(self, path: Path, manifest: Manifest | None, header: PlanHeader, trt: Any) -> None:
        """Load it.

        Raises:
            DeviceError: the library refuses it.
            InputError: it breaks the I/O contract, or contradicts its manifest.
        """
        self._path, self._manifest, self._header, self._trt = path, manifest, header, trt
        self.log = log_of(trt)
        self._runtime: trt_types.Runtime | None = None
        self._engine: trt_types.ICudaEngine | None = None
        self._config: trt_types.IRuntimeConfig | None = None
        self._cache: trt_types.IRuntimeCache | None = None
        with Releases() as undo:
            undo.add(self.close)
            self._runtime = self._new_runtime()
            self._engine = self._deserialise(self._runtime)
            with self.log.errors("its tensors cannot be read"):
                self.io = self._read_io()
                self.scratch_bytes = self._scratch_bytes()
            self._configure()
            built = manifest.build if manifest is not None else {}
            # TensorRT documentation, "Working with DLA": no graphs. TensorRT-RTX changes its kernels for a shape while
            # it runs, and records them itself.
            lazy = self._config is not None and not self.io.fixed
            self.recordable = built.get("dla_core") is None and not lazy
            undo.handed_over()

    def close(self) -> None:
        """Let go of the library's objects; all contexts must be gone."""
        self._config = self._cache = self._engine = self._runtime = None  # in this order: each needs the next

    def new_context(self) -> trt_types.IExecutionContext:
        """Raises: DeviceError: memory is short, or the library fails."""
        assert self._engine is not None
        make: Any = self._engine.create_execution_context
        if self._config is not None:
            context: trt_types.IExecutionContext = self.log.ask(make, self._config)
        elif self.scratch_bytes is not None:
            context = self.log.ask(make, self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            context = self.log.ask(make)
        return context

    def is_capturable(self, context: trt_types.IExecutionContext, stream: int) -> bool:
        """Whether the library can record what this context does; the older ones do not tell, and fail or not."""
        asks: Any = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX alone
        return asks is None or bool(asks(stream))

    def keep_kernels(self) -> None:
        """Write what was compiled since the start, for the next one. That it cannot be is no fault."""
        if self._cache is None:
            return
        with suppress(DeviceError, InputError, OSError):
            write_kernels(self._path, bytes(bytes_of(self.log.ask(self._cache.serialize))))

    def _new_runtime(self) -> trt_types.Runtime:
        runtime: trt_types.Runtime = self.log.ask(self._trt.Runtime, self.log.logger)
        built = self._manifest.build if self._manifest is not None else {}
        if built.get("version_compatible"):
            runtime.engine_host_code_allowed = True  # such a plan brings its own runtime
        if built.get("dla_core") is not None:
            runtime.DLA_core = built["dla_core"]
        return runtime

    def _deserialise(self, runtime: trt_types.Runtime) -> trt_types.ICudaEngine:
        path, title = self._path, self._header.made_by.title
        mend = f"build it again: {rebuild_command(path, self._header.made_by)}"
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if hasattr(runtime, "get_engine_validity"):
                mark = self.log.mark()
                validity, diagnostics = self.log.ask(runtime.get_engine_validity, data)
                if validity == self._trt.EngineValidity.INVALID:
                    reasons = [
                        name.lower().replace("_", " ")
                        for name, member in self._trt.EngineInvalidityDiagnostics.__members__.items()
                        if int(diagnostics) & int(member)
                    ]
                    said = [*reasons, *self.log.errors_since(mark)[:1]]
                    raise DeviceError(f"{title} refuses {path}: {', '.join(said) or 'it gave no reason'}; {mend}")
            try:
                engine: trt_types.ICudaEngine = self.log.ask(runtime.deserialize_cuda_engine, data)
            except DeviceError as error:
                raise DeviceError(f"{title} cannot load {path}: {error}; {mend}") from error
        return engine

    # The functions below reach the library's objects through `self` alone: a name in a comprehension would keep an
    # engine alive in the traceback of an error.

    def _read_io(self) -> PlanIO:
        """Shapes of the engine, after a check of the I/O contract."""
        assert self._engine is not None
        trt, path = self._trt, self._path
        tensors = dict(self._tensor(number) for number in range(self._engine.num_io_tensors))
        kinds = {name: (kind, len(shape)) for name, (kind, shape) in tensors.items()}
        planar = kinds == {"frame": (trt.float32, 4), "saliency": (trt.float32, 4)}
        if not planar and kinds != {"frame": (trt.uint8, 4), "saliency": (trt.uint8, 3)}:
            raise InputError(
                f"{path} breaks the I/O contract of an sdi engine: expected frame uint8 [N, H, W, 3] and "
                f"saliency uint8 [N, H, W]; it has {tensors}. Export with sdi-export"
            )
        fixed = tensors["frame"][1]
        shapes = [fixed] * 3
        if -1 in fixed:
            mark = self.log.mark()
            profile = self.log.ask(self._engine.get_tensor_profile_shape, "frame", 0)
            shapes = [_dims(shape) for shape in profile]
            if len(shapes) != 3:
                raise DeviceError(f"get_tensor_profile_shape failed: {self.log.reason(mark)}")
        smallest, _, largest = ((s[0], s[2], s[3]) if planar else (s[0], s[1], s[2]) for s in shapes)
        found = PlanIO(planar, smallest, largest)
        if self._manifest is not None and self._manifest.frame_hw != found.frame_hw:
            raise InputError(
                f"{path} takes frames of {found.frame_hw}, its manifest says {self._manifest.frame_hw}; build it "
                f"again: {rebuild_command(path, self._header.made_by)}"
            )
        return found

    def _tensor(self, number: int) -> tuple[str, tuple[Any, tuple[int, ...]]]:
        assert self._engine is not None
        ask = self.log.ask
        name = ask(self._engine.get_tensor_name, number)
        return name, (ask(self._engine.get_tensor_dtype, name), _dims(ask(self._engine.get_tensor_shape, name)))

    def _scratch_bytes(self) -> int | None:
        """Contexts that never run at the same time share one working memory, where the library lets us give it."""
        strategies: Any = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        context: Any = getattr(self._trt, "IExecutionContext", None)
        if not hasattr(strategies, "USER_MANAGED") or not hasattr(context, "set_device_memory"):
            return None
        size = getattr(self._engine, "device_memory_size_v2", None)
        return None if size is None else max(int(size), 1)

    def _configure(self) -> None:
        """TensorRT-RTX compiles for the GPU when a plan is first used; what it compiled before is given to it."""
        if not hasattr(self._trt, "IRuntimeCache"):
            return
        assert self._engine is not None
        ask = self.log.ask
        config: trt_types.IRuntimeConfig = ask(self._engine.create_runtime_config)
        self._config = config
        cache: trt_types.IRuntimeCache = ask(config.create_runtime_cache)
        self._cache = cache
        kernels = read_kernels(self._path)
        if kernels is not None:
            with suppress(DeviceError):  # refused if they are another GPU's
                ask(cache.deserialize, kernels)
        ask(config.set_runtime_cache, cache)
        choose: Any = getattr(config, "set_execution_context_allocation_strategy", None)
        if choose is None:
            self.scratch_bytes = None
        elif self.scratch_bytes is not None:
            choose(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if not self.io.fixed and hasattr(self._trt, "CudaGraphStrategy"):
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


def _dims(shape: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in shape)
