"""CUDA's own answers on a machine without a GPU: every call is made as the package wants it, and its error is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.engine.cuda import CudaPython, Gpu, open_cuda
from sdi.runtime.engine.cuda_python import call_cuda

cudart = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")


@pytest.fixture
def cuda() -> CudaPython:
    """Without the look for a GPU, so that the other calls are reached."""
    with suppress(DeviceError):
        open_cuda()
        pytest.skip("a GPU answers here: tests/gpu makes the same calls")
    return CudaPython(cudart, Gpu("none", "0.0"))


def _enter(cuda: CudaPython) -> None:
    with cuda.current():
        pass


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (_enter, "cudaSetDevice"),
        (lambda cuda: cuda.stream(), "cudaStreamCreateWithFlags"),
        (lambda cuda: cuda.synchronise(1), "cudaStreamSynchronize"),
        (lambda cuda: cuda.free_stream(1), "cudaStreamDestroy"),
        (lambda cuda: cuda.device_memory(64), "cudaMalloc"),
        (lambda cuda: cuda.free_device_memory(64), "cudaFree"),
        (lambda cuda: cuda.pinned(64), "cudaHostAlloc"),
        (lambda cuda: cuda.free_pinned(np.zeros(64, np.uint8)), "cudaFreeHost"),
        (lambda cuda: cuda.upload(64, np.zeros(64, np.uint8), 1), "cudaMemcpyAsync"),
        (lambda cuda: cuda.download(np.zeros(64, np.uint8), 64, 1), "cudaMemcpyAsync"),
        (lambda cuda: cuda.graph(1, lambda: None), "cudaStreamBeginCapture"),
        (lambda cuda: cuda.launch(1, 1), "cudaGraphLaunch"),
        (lambda cuda: cuda.free_graph(1), "cudaGraphExecDestroy"),
        (lambda cuda: cuda.milliseconds(1, lambda: None), "cudaEventCreate"),
        (lambda _: call_cuda(cudart, "cudaEventRecord", 1, 1), "cudaEventRecord"),
        (lambda _: call_cuda(cudart, "cudaEventSynchronize", 1), "cudaEventSynchronize"),
        (lambda _: call_cuda(cudart, "cudaEventElapsedTime", 1, 1), "cudaEventElapsedTime"),
        (lambda _: call_cuda(cudart, "cudaEventDestroy", 1), "cudaEventDestroy"),
    ],
)
def test_every_call_reaches_cuda(call: Callable[[CudaPython], object], name: str, cuda: CudaPython) -> None:
    with pytest.raises(DeviceError, match=rf"{name} failed in CUDA \(cudaError\w+: .+\)"):
        call(cuda)


def test_the_calls_that_are_not_reached_without_a_gpu_exist() -> None:
    for name in ("cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy", "cudaGetDeviceProperties"):
        assert callable(getattr(cudart, name))


def test_no_gpu_is_one_clear_error(cuda: CudaPython) -> None:
    with pytest.raises(DeviceError, match=r"no CUDA device answers: cudaGetDeviceCount failed .*nvidia-smi"):
        open_cuda()
