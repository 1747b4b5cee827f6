"""ONNX files in ONNX Runtime."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from sdi.runtime.common.console import warn
from sdi.runtime.common.errors import DeviceError, InputError, first_line
from sdi.runtime.common.images import check_frames
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.manifest import Manifest

__all__ = ["CUDA_PROVIDER", "SKIPPED_OPTIMIZERS", "OnnxRuntimeEngine", "load_cuda_libraries"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
CUDA_PROVIDER = (_CUDA, {"use_tf32": "0"})  # precision is the file's alone
# It rounds the biases of INT8 convolutions to int32, in steps that half cannot hold: wherever all but INT8 is half, the
# answers are wrong. Biases are float in TensorRT too.
SKIPPED_OPTIMIZERS = ("WeightBiasQuantization",)


class OnnxRuntimeEngine(Engine):
    """An ONNX file with uint8 frames and maps, on the CPU or a CUDA GPU. See `open_engine` for arguments and errors."""

    def __init__(self, path: Path, manifest: Manifest | None, device: str, threads: int | None) -> None:
        self.path = path
        self.manifest = manifest
        try:
            import onnxruntime
        except ImportError as error:
            raise DeviceError(
                "ONNX Runtime is not installed; pip install 'sdi[cpu]' (or 'sdi[gpu]' for NVIDIA)"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _cores()
        # Its workers spin between two operators, which pays, and for long after the last one, which does not: at 25
        # frames a second that would keep a core busy for nothing.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors; its warnings about constant folding help no user
        providers = _providers(device, onnxruntime.get_available_providers())
        if CUDA_PROVIDER in providers:
            load_cuda_libraries(onnxruntime)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=providers, disabled_optimizers=list(SKIPPED_OPTIMIZERS)
            )
        except Exception as error:  # it raises a dozen kinds, none of them public
            raise InputError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {first_line(error)}; "
                "the file is damaged or needs a newer ONNX Runtime"
            ) from error
        provider = self._session.get_providers()[0]
        if device == "auto" and provider != _CUDA and CUDA_PROVIDER in providers:
            warn(
                f"{path.name} runs on the CPU: CUDA is installed but did not start; look at ONNX Runtime's messages "
                "above and at sdi-doctor, or say --device cpu"
            )
        if device == "cuda" and provider != _CUDA:
            raise DeviceError("ONNX Runtime could not start CUDA; look at its messages above, or use --device cpu")
        self.device = f"ONNX Runtime {onnxruntime.__version__}, {provider.removesuffix('ExecutionProvider')}"
        self.on_gpu = provider == _CUDA
        self.batch, self.frame_hw = self._face()

    def execute(self, frames: np.ndarray) -> np.ndarray:
        check_frames(frames, self.path.name)
        with self._guard.inside(self.path.name):
            try:
                saliency = np.asarray(self._session.run(["saliency"], {"frame": frames})[0])
            except Exception as error:
                raise DeviceError(f"{self.path.name} failed in ONNX Runtime: {first_line(error)}") from error
            return saliency

    def _release(self) -> None:
        del self._session  # and with it the memory of its arena

    def _face(self) -> tuple[int | None, tuple[int, int] | None]:
        """Batch and frame size, after a check of the I/O contract."""
        inputs = [(node.name, node.type, node.shape) for node in self._session.get_inputs()]
        outputs = [(node.name, node.type, node.shape) for node in self._session.get_outputs()]
        expected = "expected input frame uint8 [N, H, W, 3] and output saliency uint8 [N, H, W]"
        if (
            len(inputs) != 1
            or inputs[0][:2] != ("frame", "tensor(uint8)")
            or len(inputs[0][2]) != 4
            or inputs[0][2][3] != 3
            or len(outputs) != 1
            or outputs[0][:2] != ("saliency", "tensor(uint8)")
            or len(outputs[0][2]) != 3
            or any(isinstance(size, int) and size < 1 for size in inputs[0][2])
        ):
            raise InputError(
                f"{self.path} breaks the I/O contract of an sdi engine: {expected}; it has inputs {inputs} and outputs "
                f"{outputs}. Export with sdi-export, without --raw"
            )
        batch, height, width, _ = inputs[0][2]
        static = isinstance(height, int) and isinstance(width, int)
        frame_hw = (height, width) if static else None
        if self.manifest is not None and self.manifest.frame_hw != frame_hw:
            raise InputError(f"{self.path} takes frames of {frame_hw}, its manifest says {self.manifest.frame_hw}")
        return batch if isinstance(batch, int) else None, frame_hw


def load_cuda_libraries(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN from pip's wheels, which lie where the system's loader does not look.

    Source: ONNX Runtime documentation, "CUDA Execution Provider", `preload_dlls`, from 1.21 on.
    """
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        with redirect_stdout(sys.stderr):  # it prints what it misses, and stdout is for results
            preload()


def _providers(device: str, available: list[str]) -> list[Any]:
    if device == "cpu" or (device == "auto" and _CUDA not in available):
        return [_CPU]
    if device not in ("auto", "cuda"):
        raise InputError(f"unknown device '{device}'; use auto, cpu or cuda")
    if _CUDA not in available:
        raise DeviceError(
            f"this ONNX Runtime has no CUDA (it has {', '.join(available)}); "
            "pip uninstall onnxruntime && pip install 'sdi[gpu]', or use --device cpu"
        )
    return [CUDA_PROVIDER, _CPU]


def _cores() -> int:
    """Cores that this process may use: a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
