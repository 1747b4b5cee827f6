"""Plans from ONNX files, by TensorRT or TensorRT-RTX: one builder, given the library.

What differs between TensorRT 10, 11 and TensorRT-RTX is asked of the library itself (does it have this flag?), never
guessed from a number, and enum members are taken by name: their numbers differ between versions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdi.export.engines.base import BuildJob, BuildOptions, BuiltPlan, EngineBuilder
from sdi.export.engines.network import check_contract, check_opset, edge_layers, half_tensor
from sdi.export.engines.progress import BuildProgress
from sdi.runtime.common.errors import DeviceError, InputError, some_of
from sdi.runtime.common.files import write_bytes
from sdi.runtime.engine.cuda import Gpu, open_cuda
from sdi.runtime.engine.tensorrt_library import (
    TENSORRT,
    TENSORRT_RTX,
    Library,
    LibraryLog,
    bytes_of,
    log_of,
    version_of,
)

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as trt_types

__all__ = ["RTX_CAPABILITIES", "TensorRTBuilder"]

# What a TensorRT-RTX plan is for unless told otherwise.
# Source: TensorRT-RTX documentation, "CPU-Only AOT and TensorRT-RTX Engines".
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0+")
_STRONG_TYPING_SINCE = (10, 12)  # complete from there on
_FLOAT32_FORM = {
    "fp32": "export the float32 form",
    "fp16": "build the float32 form, sdi-export --onnx NAME-fp32.onnx --fp16 --target tensorrt",
    "int8": "export it again with --int8 --rest fp32",
}


class TensorRTBuilder(EngineBuilder):
    """Builds with the library it is given."""

    suffix = ".plan"

    def __init__(self, library: Library) -> None:
        self.name = library.target
        self._library = library
        self._portable = library is TENSORRT_RTX  # needs no GPU, and is told which to build for

    def unavailable(self) -> str | None:
        reason = self._library.unavailable()
        if reason is None and not self._portable:
            try:
                open_cuda()
            except DeviceError as error:
                reason = f"it builds on the GPU that will run the plan, and {error}"
        return reason

    def check(self, options: BuildOptions, precision: str, planar: bool, dynamic: bool) -> None:
        refused = {
            "--compute-capability": bool(options.compute_capabilities) and not self._portable,
            "--version-compatible": options.version_compatible and self._portable,
            "--hardware-compatible": options.hardware_compatible and self._portable,
            "--dla": options.dla_core is not None and self._portable,
        }
        reasons = {
            "--compute-capability": "tensorrt builds for the GPU it runs on; see --hardware-compatible",
            "--version-compatible": "a TensorRT-RTX plan runs in the version it was built by alone",
            "--hardware-compatible": "a tensorrt-rtx plan is for all GPUs that --compute-capability names",
            "--dla": "a DLA is on a Jetson, where target tensorrt builds",
        }
        for flag, given in refused.items():
            if given:
                raise InputError(f"{flag} is not for target {self.name}: {reasons[flag]}")
        if options.dla_core is not None and (precision != "fp16" or not planar or dynamic):
            raise InputError(
                "--dla takes FP16, one fixed shape and planar frames: a DLA has no Q/DQ, no dynamic shapes and no "
                "uint8; give it with --fp16 --io planar, without --dynamic and a range of --batch"
            )
        if options.workspace_gib is not None and options.workspace_gib <= 0:
            raise InputError(f"--workspace must be over 0 GiB, got {options.workspace_gib}")
        if self._portable:
            _capabilities(self._library.load(), options.compute_capabilities)

    def needs_float32(self, precision: str) -> bool:
        return precision != "fp32" and not strongly_typed(self._library.load())

    def build(self, job: BuildJob, options: BuildOptions) -> BuiltPlan:
        trt = self._library.load()
        gpu = None if self._portable else open_cuda().gpu
        log = log_of(trt)
        mark = log.mark()
        log.listener = options.listener
        try:
            with BuildProgress(trt, f"building with {self._library.title}") as progress:
                try:
                    builder: trt_types.Builder = log.ask(trt.Builder, log.logger)
                except DeviceError as error:
                    raise DeviceError(f"{self._library.title} could not start: {error}") from error
                network = _parse(trt, builder, job, options, log)
                progress.check()
                config = _configure(trt, builder, network, job, options, log)
                if progress.monitor is not None:
                    config.progress_monitor = progress.monitor
                data = self._serialise(trt, builder, network, config, job, log, progress)
        finally:
            log.listener = None
        capabilities = RTX_CAPABILITIES if self._portable else (_built_for(gpu, options),)
        return BuiltPlan(
            data=data,
            version=trt.__version__,
            compute_capabilities=options.compute_capabilities or capabilities,
            gpu=gpu.name if gpu else None,
            layers=network.num_layers,
            notes=self._notes(job.precision, log.warnings_since(mark), config, network, options),
        )

    def _serialise(
        self,
        trt: Any,
        builder: trt_types.Builder,
        network: trt_types.INetworkDefinition,
        config: trt_types.IBuilderConfig,
        job: BuildJob,
        log: LibraryLog,
        progress: BuildProgress,
    ) -> memoryview:
        # TensorRT-RTX has a timing cache in name only, and it wants a GPU.
        cache = job.timing_cache if self._library is TENSORRT else None
        if cache is not None:
            timings: trt_types.ITimingCache = log.ask(config.create_timing_cache, _timings(cache))
            config.set_timing_cache(timings, ignore_mismatch=False)
        mark = log.mark()
        data = builder.build_serialized_network(network, config)
        progress.check()
        if data is None:
            hint = "; --refit needs a GPU here" if config.get_flag(trt.BuilderFlag.REFIT) and self._portable else ""
            raise DeviceError(f"{self._library.title} could not build {job.onnx.name}: {log.reason(mark)}{hint}")
        if cache is not None:
            write_bytes(cache, bytes(bytes_of(log.ask(config.get_timing_cache().serialize))))
        return bytes_of(data)

    def _notes(
        self, precision: str, warnings: list[str], config: Any, network: Any, options: BuildOptions
    ) -> tuple[str, ...]:
        notes = [f"builder: {text}" for text in dict.fromkeys(warnings)]
        if self._portable and precision == "int8":
            notes.append(
                "TensorRT-RTX documents INT8 for weights only: this build proves that the file parses, not INT8 "
                "arithmetic"
            )
        if options.dla_core is not None:
            layers = [network.get_layer(i) for i in range(network.num_layers)]
            back = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
            notes.append(f"{len(back)} of {len(layers)} layers fall back to the GPU: {some_of(back)}")
        return tuple(notes)


def strongly_typed(trt: Any) -> bool:
    """Whether precision is the ONNX file's alone; otherwise the builder chooses, as its flags allow."""
    weak = hasattr(trt.BuilderFlag, "FP16")
    return not weak or version_of(trt)[:2] >= _STRONG_TYPING_SINCE


def _parse(
    trt: Any, builder: trt_types.Builder, job: BuildJob, options: BuildOptions, log: LibraryLog
) -> trt_types.INetworkDefinition:
    check_opset(job.onnx)
    strong = strongly_typed(trt) and not _weak_dla(trt, options)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network: trt_types.INetworkDefinition = log.ask(
        builder.create_network, 1 << int(flag) if strong and flag is not None else 0
    )
    mark = log.mark()
    parser: trt_types.OnnxParser = log.ask(trt.OnnxParser, network, log.logger)
    if options.dla_core is not None and hasattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA"):
        parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
    if not parser.parse_from_file(str(job.onnx)):
        errors = _parser_errors(parser) or [log.reason(mark)]
        raise InputError(f"{job.onnx} cannot be built with this library: {'; '.join(errors)}")
    check_contract(trt, network, job.onnx, planar=job.planar)
    half = None if strong else half_tensor(trt, network)
    if half is not None:
        raise InputError(
            f"{job.onnx} computes in half (first at '{half}'), and TensorRT {trt.__version__} chooses precisions "
            f"itself: {_FLOAT32_FORM[job.precision]}"
        )
    network.name = job.tag  # parsing names it after the graph
    return network


def _parser_errors(parser: trt_types.OnnxParser) -> list[str]:
    """Every error of the parser with the node it is about."""
    found = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        where = f"node {error.node()}" if error.node() >= 0 else "file"
        named = " ".join(getattr(error, part)() for part in ("node_operator", "node_name") if hasattr(error, part))
        kind = str(error.code()).rpartition(".")[2].replace("_", " ").lower()
        found.append(f"{where} {named.strip()}".strip() + f": {kind} ({error.desc()})")
    return found


def _configure(
    trt: Any,
    builder: trt_types.Builder,
    network: trt_types.INetworkDefinition,
    job: BuildJob,
    options: BuildOptions,
    log: LibraryLog,
) -> trt_types.IBuilderConfig:
    config: trt_types.IBuilderConfig = log.ask(builder.create_builder_config)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # or a CUDA graph cannot be recorded
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if job.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and not float32
    if not strongly_typed(trt) or _weak_dla(trt, options):
        _weaken(trt, network, config, job)
    if options.dla_core is not None:
        if options.dla_core >= builder.num_DLA_cores:
            raise DeviceError(f"--dla {options.dla_core}: this device has {builder.num_DLA_cores} DLA cores")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.detailed_profiling:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    members = _capabilities(trt, options.compute_capabilities)
    if members:
        config.num_compute_capabilities = len(members)
        for i, member in enumerate(members):
            config.set_compute_capability(member, i)
    if job.profile is not None:
        _add_profile(builder, network, config, job, log)
    return config


def _add_profile(
    builder: trt_types.Builder,
    network: trt_types.INetworkDefinition,
    config: trt_types.IBuilderConfig,
    job: BuildJob,
    log: LibraryLog,
) -> None:
    assert job.profile is not None
    profile: trt_types.IOptimizationProfile = log.ask(builder.create_optimization_profile)
    shapes: list[Any] = [(n, 3, *size) if job.planar else (n, *size, 3) for n, *size in job.profile]
    low, opt, high = shapes
    profile.set_shape(network.get_input(0).name, low, opt, high)
    if config.add_optimization_profile(profile) < 0:
        raise InputError(f"{job.onnx} cannot take frames of {low} to {high}; export it with --dynamic")


def _weaken(trt: Any, network: Any, config: Any, job: BuildJob) -> None:
    """Let the builder choose precisions, but for the ends of the graph and what is named: they stay in float32."""
    if job.precision == "fp32":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if job.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)  # where Q/DQ says so
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    named = set(job.keep_float32)
    for layer in edge_layers(trt, network) + [
        layer for layer in (network.get_layer(i) for i in range(network.num_layers)) if layer.name in named
    ]:
        if all(layer.get_output(i).dtype == trt.float32 for i in range(layer.num_outputs)):
            layer.precision = trt.float32
            for i in range(layer.num_outputs):
                layer.set_output_type(i, trt.float32)


def _weak_dla(trt: Any, options: BuildOptions) -> bool:
    """A DLA took no strongly typed networks as long as there were precision flags."""
    return options.dla_core is not None and hasattr(trt.BuilderFlag, "FP16")


def _capabilities(trt: Any, wanted: tuple[str, ...]) -> list[Any]:
    """Members of the library's `ComputeCapability` for "8.9" and the like."""
    if not wanted:
        return []
    known = {
        f"{name[2:-1]}.{name[-1]}": member
        for name, member in trt.ComputeCapability.__members__.items()
        if re.fullmatch(r"SM\d+", name)
    }
    unknown = [text for text in wanted if text not in known]
    if unknown or len(set(wanted)) < len(wanted):
        raise InputError(
            f"--compute-capability {', '.join(unknown or wanted)}: {trt.__name__} {trt.__version__} builds for each of "
            f"{', '.join(known)} once"
        )
    return [known[text] for text in wanted]


def _built_for(gpu: Gpu | None, options: BuildOptions) -> str:
    assert gpu is not None
    return "8.0+" if options.hardware_compatible else gpu.compute_capability


def _timings(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # the first build here, or not ours to read: timings are measured again
