"""Runners: whatever answers raw probabilities to frames, in PyTorch or in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from sdi.export.onnx_model import PROBABILITY, rounding_part
from sdi.runtime.common.errors import DeviceError, InputError, first_line
from sdi.runtime.engine.onnx_runtime import SKIPPED_OPTIMIZERS
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.engine_module import EngineModule

__all__ = ["Runner", "rounder_from_onnx", "runner_from_checkpoint", "runner_from_module", "runner_from_onnx"]

Runner = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, 3) uint8 BGR at the engine's frame size -> (N, H, W) float32 probabilities."""


def runner_from_checkpoint(checkpoint: Checkpoint) -> Runner:
    """The reference: the checkpoint in PyTorch, float32, in its training form, at the size it was trained at."""
    return runner_from_module(
        EngineModule(load_network(checkpoint), checkpoint.preprocessing, checkpoint.input_hw, raw=True)
    )


def runner_from_module(module: EngineModule) -> Runner:
    """An engine module with raw output, on the CPU."""

    @torch.inference_mode()
    def run(frames: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(frames)).float().numpy()

    return run


def rounder_from_onnx(model: onnx.ModelProto) -> Runner:
    """What a model makes of its own probabilities, (N, H, W) float32 -> uint8, on the CPU.

    Raises:
        InputError: the graph has no such part, see `rounding_part`, or ONNX Runtime cannot load it.
    """
    session = _session(rounding_part(model), ["CPUExecutionProvider"])
    return lambda probabilities: session.run(None, {PROBABILITY: probabilities})[0]


def runner_from_onnx(model: onnx.ModelProto | Path, batch: int | None, device: str = "cpu") -> Runner:
    """A raw ONNX model in ONNX Runtime; a fixed batch is filled by repeating the frame.

    Args:
        device: "cpu", or "cuda", where float32 is computed without TF32.
    Raises:
        InputError: ONNX Runtime cannot load it.
        DeviceError: it has no CUDA here; or, from the runner, the execution failed.
    """
    providers: list = ["CPUExecutionProvider"]
    if device == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise DeviceError("this ONNX Runtime has no CUDA; pip install 'sdi[gpu]', or use --device cpu")
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    session = _session(model, providers)
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise DeviceError("ONNX Runtime could not start CUDA; look at its messages above, or use --device cpu")

    def run(frames: np.ndarray) -> np.ndarray:
        fitted = np.repeat(frames, batch, axis=0) if batch else frames
        try:
            return session.run(None, {"frame": fitted})[0][: len(frames)]
        except Exception as error:
            raise DeviceError(f"the graph failed in ONNX Runtime: {first_line(error)}") from error

    return run


def _session(model: onnx.ModelProto | Path, providers: list) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # the arena would keep gigabytes of what a wide network needs once
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(
            source, options, providers=providers, disabled_optimizers=list(SKIPPED_OPTIMIZERS)
        )
    except Exception as error:  # it raises a dozen kinds, none of them public
        raise InputError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {first_line(error)}"
        ) from error
