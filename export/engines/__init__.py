"""Engine builders: one file a kind, listed whether they can build here or not. Needs neither torch nor onnx."""

from __future__ import annotations

from sdi.export.engines.base import BuildJob, BuildOptions, BuiltPlan, EngineBuilder, Exported
from sdi.export.engines.onnx import OnnxBuilder
from sdi.export.engines.tensorrt import TensorRTBuilder
from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.engine.tensorrt_library import TENSORRT, TENSORRT_RTX

__all__ = ["BUILDERS", "BuildJob", "BuildOptions", "BuiltPlan", "EngineBuilder", "Exported", "choose_builder"]

BUILDERS: dict[str, EngineBuilder] = {
    builder.name: builder for builder in (OnnxBuilder(), TensorRTBuilder(TENSORRT), TensorRTBuilder(TENSORRT_RTX))
}


def choose_builder(target: str, precision: str, *, raw: bool = False) -> tuple[EngineBuilder, str]:
    """The builder of a target and why this one.

    "auto" takes `tensorrt` where a GPU answers, else `tensorrt-rtx`, but not for INT8, else `onnx`.

    Raises:
        InputError: no such target, or one that a raw file has no use for.
        DeviceError: the target that was named cannot build here.
    """
    if target == "auto":
        name, why = _best(precision, raw)
        return BUILDERS[name], why
    if target not in BUILDERS:
        known = [f"{name} ({builder.unavailable() or 'available'})" for name, builder in BUILDERS.items()]
        raise InputError(f"unknown target '{target}'; known: auto, {', '.join(known)}")
    if raw and target != "onnx":
        raise InputError("--raw is for other tools and no engine; leave it out, or use --target onnx")
    reason = BUILDERS[target].unavailable()
    if reason is not None:
        raise DeviceError(f"target {target} cannot build here: {reason}")
    return BUILDERS[target], "named on the command line"


def _best(precision: str, raw: bool) -> tuple[str, str]:
    if raw:
        return "onnx", "a raw file is for other tools"
    reasons = {name: BUILDERS[name].unavailable() for name in (TENSORRT.target, TENSORRT_RTX.target)}
    if reasons[TENSORRT.target] is None:
        return TENSORRT.target, "a GPU answers"
    if reasons[TENSORRT_RTX.target] is not None:
        return "onnx", f"tensorrt: {reasons[TENSORRT.target]}; tensorrt-rtx: {reasons[TENSORRT_RTX.target]}"
    if precision == "int8":
        return "onnx", (
            "TensorRT-RTX documents INT8 for weights only, so it is not chosen in silence. Build on the device that "
            "will run it: sdi-export --onnx FILE --target tensorrt"
        )
    return TENSORRT_RTX.target, f"it needs no GPU; tensorrt: {reasons[TENSORRT.target]}"
