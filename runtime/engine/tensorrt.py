"""Plans in TensorRT or TensorRT-RTX, on a CUDA GPU.

Frames go through pinned memory, in a stream of a slot's own; two slots, so that copies of one call overlap with the
network of another. Where it can be recorded, a call is one CUDA graph.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.engine.base import Engine, Token
from sdi.runtime.engine.cuda import open_cuda
from sdi.runtime.engine.kernel_cache import runtime_cache_path
from sdi.runtime.engine.loaded_plan import LoadedPlan
from sdi.runtime.engine.manifest import Manifest
from sdi.runtime.engine.plan import PlanHeader, check_gpu, check_version
from sdi.runtime.engine.releases import Releases, forget_locals
from sdi.runtime.engine.slot import Slot

__all__ = ["TensorRTEngine", "runtime_cache_path"]

T = TypeVar("T")


class TensorRTEngine(Engine):
    """A plan with uint8 or planar frames. See `open_engine` for arguments and errors."""

    slots = 2
    zero_copy: bool

    def __init__(
        self,
        path: Path,
        manifest: Manifest | None,
        header: PlanHeader,
        device: str,
        zero_copy: bool | None = None,
    ) -> None:
        if device not in ("auto", "cuda"):
            raise InputError(f"{path} is a plan and runs on a GPU; for device {device} use {path.with_suffix('.onnx')}")
        self.path = path
        self.manifest = manifest
        title = header.made_by.title
        trt = self._needed(header.made_by.load, title)
        check_version(path, header, manifest, trt)
        self._cuda = self._needed(open_cuda, title)
        gpu = self._cuda.gpu
        check_gpu(path, header, manifest, gpu.name, gpu.compute_capability, trt)
        self.device = f"{title} {trt.__version__}, {gpu.name}"
        self.on_gpu = True
        self.zero_copy = gpu.integrated if zero_copy is None else zero_copy
        self._slots: list[Slot] = []
        self._ran = False
        with self._told("cannot start"), Releases() as undo:
            with self._cuda.current():
                self._plan = LoadedPlan(path, manifest, header, trt)
                undo.add(self._plan.close)
                self.batch, self.frame_hw = self._plan.io.batch, self._plan.io.frame_hw
                undo.add(self._close_slots)
                self._slots.append(Slot(self._plan, self._cuda, self.zero_copy))
            self._releases = undo.handed_over()

    def _needed(self, load: Callable[[], T], title: str) -> T:
        try:
            return load()
        except DeviceError as error:
            onnx = self.path.with_suffix(".onnx")
            raise DeviceError(f"{self.path} is a {title} plan: {error}; or run {onnx}") from error

    def execute(self, frames: np.ndarray) -> np.ndarray:
        with self._inside(frames):
            slot = self._free_slot()
            slot.begin(frames)
            return self._end(slot)

    def submit(self, frames: np.ndarray) -> Token:
        with self._inside(frames):
            slot = self._free_slot()
            slot.begin(frames)
            token = Token((slot, threading.get_ident()))
            slot.token = weakref.ref(token)
            return token

    def collect(self, token: Token) -> np.ndarray:
        with self._guard.inside(self.path.name), self._told("failed"), ExitStack() as stack:
            slot, thread = token.work if isinstance(token.work, tuple) else (None, 0)
            if slot not in self._slots or slot.token is None or slot.token() is not token:
                raise InputError(
                    f"{self.path.name} has no such call under way: it was collected before, was given up when another "
                    "failed, or is another engine's"
                )
            slot.token = None
            if not self._cuda.has_graphs or thread != threading.get_ident():
                stack.enter_context(self._cuda.current())
            return self._end(slot)

    def device_ms(self, frames: np.ndarray) -> float:
        with self._inside(frames):
            return self._free_slot().milliseconds(frames)

    def _release(self) -> None:
        with self._told("could not be closed"), Releases() as each, ExitStack() as stack:
            try:
                stack.enter_context(self._cuda.current())
            except DeviceError as error:  # what can be freed without it is freed all the same
                each.add(_raise, error)
            if self._ran:
                self._plan.keep_kernels()
            self._releases.close()

    @contextmanager
    def _inside(self, frames: np.ndarray) -> Iterator[None]:
        with self._guard.inside(self.path.name):
            self._plan.io.fitted(frames, self.path.name)
            with self._told("failed"), self._cuda.current():
                yield

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            forget_locals(error)  # who keeps the error would keep the device's objects beyond `close`
            if not isinstance(error, InputError):
                for slot in self._slots:
                    slot.token = None
            if isinstance(error, DeviceError):
                raise DeviceError(f"{self.path.name} {what} on {self.device}: {error}") from error
            raise

    def _free_slot(self) -> Slot:
        slot = next((slot for slot in self._slots if slot.free), None)
        if slot is None:
            if len(self._slots) == self.slots:
                raise InputError(f"{self.path.name} has {self.slots} calls under way, as many as it can; collect one")
            slot = Slot(self._plan, self._cuda, self.zero_copy)
            self._slots.append(slot)
        return slot

    def _end(self, slot: Slot) -> np.ndarray:
        answer = slot.end()
        if not self._ran:  # a process that is killed later has kept what took so long to compile
            self._ran = True
            self._plan.keep_kernels()
        return answer

    def _close_slots(self) -> None:
        with Releases() as each:
            for slot in self._slots:
                each.add(slot.close)
            self._slots = []


def _raise(error: DeviceError) -> None:
    raise error
