"""Runners answer raw probabilities to frames, in PyTorch or in ONNX Runtime; an `InputSpec` says which frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from sdi.export.onnx_model import PROBABILITY, rounding_part, with_probability_output
from sdi.runtime.common.errors import DeviceError, InputError, first_line
from sdi.runtime.common.images import resize_image
from sdi.runtime.engine.onnx_runtime import CUDA_PROVIDER, SKIPPED_OPTIMIZERS, load_cuda_libraries
from sdi.runtime.engine.tiled import run_in_windows
from sdi.runtime.engine.windows import WindowGrid
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.engine_module import EngineModule

__all__ = [
    "InputSpec",
    "Runner",
    "rounder_from_onnx",
    "runner_from_checkpoint",
    "runner_from_module",
    "runner_from_onnx",
    "runner_in_windows",
]

_WINDOWS = 4  # a call, of a frame in windows

Runner = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, 3) uint8 BGR at the engine's frame size -> (N, H, W) float32 probabilities."""


@dataclass(frozen=True)
class InputSpec:
    """What a model's input `frame` is: its size, its batch, its layout."""

    frame_hw: tuple[int, int] | None  # None: any
    batch: int | None = 1  # None: any
    planar: bool = False  # float32 [N, 3, H, W] instead of uint8 [N, H, W, 3]
    fills: bool = False  # pictures keep their scale and lie beside each other until they fill a frame

    def frame(self, image: np.ndarray) -> np.ndarray:
        """A picture, (H, W, 3) uint8 BGR, fitted as the runtime does: (H', W', 3) uint8."""
        if self.fills and self.frame_hw is not None:
            times = (-(-self.frame_hw[0] // image.shape[0]), -(-self.frame_hw[1] // image.shape[1]), 1)
            return np.ascontiguousarray(np.tile(image, times)[: self.frame_hw[0], : self.frame_hw[1]])
        return np.ascontiguousarray(resize_image(image, self.frame_hw or image.shape[:2]))

    def frames(self, images: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        """Named pictures, each fitted."""
        return ((name, self.frame(image)) for name, image in images)

    def tensor(self, frames: np.ndarray) -> np.ndarray:
        """The input tensor of frames, (N, H, W, 3) uint8; a fixed batch is filled by repeating."""
        filled = np.repeat(frames, self.batch or 1, axis=0)
        return np.ascontiguousarray(filled.transpose(0, 3, 1, 2), np.float32) if self.planar else filled

    def runner(self, model: onnx.ModelProto, device: str = "cpu") -> Runner:
        """A model in ONNX Runtime, on "cpu" or "cuda"; `model` is left as it was."""
        if self.planar:
            run = runner_from_onnx(model, None, device)
            return lambda frames: run(self.tensor(frames))[: len(frames), 0]
        probing = onnx.ModelProto()
        probing.CopyFrom(model)
        return runner_from_onnx(with_probability_output(probing), self.batch, device)


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


def runner_in_windows(run: Runner, grid: WindowGrid) -> Runner:
    """What a runner of pictures answers to frames that are cut into windows, one by one."""

    def answers(calls: Iterable[list[np.ndarray]]) -> Iterator[np.ndarray]:
        return (answer for windows in calls for answer in run(np.stack(windows)))

    return lambda frames: np.stack([run_in_windows(frame, grid, answers, _WINDOWS) for frame in frames])


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
        providers.insert(0, CUDA_PROVIDER)
        load_cuda_libraries(onnxruntime)
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
