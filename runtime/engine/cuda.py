"""CUDA from `cuda-python` or `pycuda`, whichever is installed."""

from __future__ import annotations

import functools

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.engine.cuda_api import Cuda, Gpu
from sdi.runtime.engine.cuda_pycuda import PyCuda
from sdi.runtime.engine.cuda_python import CudaPython

__all__ = ["Cuda", "CudaPython", "Gpu", "PyCuda", "open_cuda"]


@functools.cache
def open_cuda() -> Cuda:
    """CUDA on this machine's first GPU.

    Raises:
        DeviceError: no package for it is installed, or no GPU answers.
    """
    try:
        return _any_cuda()
    except DeviceError as error:
        raise DeviceError(f"no CUDA device answers: {error}; look at `nvidia-smi`") from error


def _any_cuda() -> Cuda:
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError:
            runtime = None
    if runtime is not None:
        return CudaPython(runtime)
    try:
        import pycuda.driver
    except ImportError:
        raise DeviceError("neither cuda-python nor pycuda is installed; pip install cuda-python") from None
    return PyCuda(pycuda.driver)
