"""CUDA from `cuda-python` or `pycuda`, whichever is installed."""

from __future__ import annotations

import functools
import importlib
from contextlib import suppress
from typing import Any

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
    runtime = _first_module("cuda.bindings.runtime", "cuda.cudart")
    if runtime is not None:
        return CudaPython.of_first_gpu(runtime)
    driver = _first_module("pycuda.driver")
    if driver is None:
        raise DeviceError("neither cuda-python nor pycuda is installed; pip install cuda-python")
    return PyCuda(driver)


def _first_module(*names: str) -> Any:
    """The first of these modules that can be imported; None where there is none.

    As `from package import module`: what the package offers under that name goes first.
    """
    for name in names:
        package, _, module = name.rpartition(".")
        with suppress(ImportError):
            found = getattr(importlib.import_module(package), module, None)
            return importlib.import_module(name) if found is None else found
    return None
