"""Target `onnx`: the exported file is the engine."""

from __future__ import annotations

import importlib.util

from sdi.export.engines.base import BuildJob, BuildOptions, BuiltPlan, EngineBuilder
from sdi.runtime.common.errors import InputError

__all__ = ["OnnxBuilder"]


class OnnxBuilder(EngineBuilder):
    """Nothing is left to build: ONNX Runtime takes the ONNX file itself."""

    name = "onnx"
    suffix = ".onnx"

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "ONNX Runtime, which the file is compared by, is not installed; pip install 'sdi[cpu]'"
        return None

    def check(self, options: BuildOptions, precision: str, planar: bool, dynamic: bool) -> None:
        asked = [*options.record(), *(["compute_capability"] if options.compute_capabilities else [])]
        if asked:
            flags = ", ".join("--" + name.replace("_gib", "").replace("_core", "").replace("_", "-") for name in asked)
            raise InputError(f"{flags} is for a TensorRT builder; the target is onnx. Choose one with --target")

    def build(self, job: BuildJob, options: BuildOptions) -> BuiltPlan:
        raise InputError(f"{job.onnx} is an engine of target onnx already; there is nothing to build")
