"""A place for one call: a stream and all the memory it needs, so that calls of two slots overlap on the GPU."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.engine.base import Token
from sdi.runtime.engine.cuda_api import Cuda
from sdi.runtime.engine.loaded_plan import LoadedPlan
from sdi.runtime.engine.plan_io import Size
from sdi.runtime.engine.releases import Releases

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as trt_types

__all__ = ["Slot"]

_GRAPHS = 4  # of a plan that takes several shapes
_TRIES = 3  # to record one: what spoils a recording may pass


@dataclass(frozen=True)
class _Recorded:
    """A graph, and the context it was recorded from, which must not be changed as long as it is used.

    Source: TensorRT documentation, "CUDA Graphs": one execution context for each captured graph, their memory shared.
    """

    graph: int
    context: trt_types.IExecutionContext


class Slot:
    """Runs a plan, one call at a time, in the thread that `Cuda.current` was entered in.

    Attributes:
        token: of the call under way, as a weak reference: who drops the token gives the slot back.
    """

    def __init__(self, plan: LoadedPlan, cuda: Cuda, zero_copy: bool) -> None:
        """Allocate for the largest shape, once: nothing grows while frames come.

        Args:
            zero_copy: let the network read and write the host's memory itself: no copies, where both share it.
        Raises:
            DeviceError: memory is short, or CUDA or the library fails.
        """
        self._plan, self._cuda, self._io = plan, cuda, plan.io
        self._zero_copy = zero_copy
        self.token: weakref.ref[Token] | None = None
        self._running: tuple[Size, int] | None = None
        self._queued = False  # there may be work in the stream
        self._size: Size | None = None  # that the common context is set to
        self._last: Size | None = None
        self._failed = 0  # recordings, in a row
        self._graphs: OrderedDict[Size, _Recorded] = OrderedDict()
        self._context: trt_types.IExecutionContext | None = None
        with Releases() as undo:
            self._stream = undo.keep(cuda.stream(), cuda.free_stream)
            largest = plan.io.max_size
            sizes = (plan.io.input_bytes(largest), plan.io.output_bytes(largest))
            self._host_in, self._host_out = (
                undo.keep(cuda.pinned(size, mapped=zero_copy), cuda.free_pinned) for size in sizes
            )
            if zero_copy:
                self._addresses = (cuda.mapped(self._host_in), cuda.mapped(self._host_out))
            else:
                first, second = (undo.keep(cuda.device_memory(size), cuda.free_device_memory) for size in sizes)
                self._addresses = (first, second)
            if plan.scratch_bytes is not None:
                self._scratch = undo.keep(cuda.device_memory(plan.scratch_bytes), cuda.free_device_memory)
            undo.add(self._drop_contexts)
            self._context = self._new_context()
            undo.add(self._drain)
            self._releases = undo.handed_over()

    @property
    def free(self) -> bool:
        return self.token is None or self.token() is None

    def close(self) -> None:
        """Wait for work under way and free everything.

        Raises:
            DeviceError: the first that could not be freed; all else was.
        """
        self._releases.close()

    def begin(self, frames: np.ndarray) -> None:
        """Put frames into the stream: upload, network and download.

        Raises:
            InputError: the plan does not take them.
            DeviceError: CUDA or the library failed.
        """
        size = self._io.fitted(frames, "the plan")
        self._settle()
        self._io.write(frames, size, self._host_in)
        self._running = (size, len(frames))
        self._put(size)

    def end(self) -> np.ndarray:
        """Wait for what `begin` put into the stream; (N, H, W) uint8, a copy."""
        assert self._running is not None
        (size, count), self._running = self._running, None
        self._settle()
        answer = self._io.read(self._host_out, size, count)
        if self._worth_recording(size):
            try:
                self._graphs[size] = self._record(size)
                self._failed = 0
            except DeviceError:  # then call by call, as before
                self._failed += 1
        self._last = size
        return answer

    def milliseconds(self, frames: np.ndarray) -> float:
        """What the GPU takes for `frames`, by its own clock."""
        self.begin(frames)
        self.end()  # shapes are set and the graph is recorded, as in every later call
        size = self._io.fitted(frames, "the plan")
        taken = self._cuda.milliseconds(self._stream, lambda: self._put(size))
        self._queued = False
        return taken

    # -- one call -----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Wait until the stream is empty: an interrupted or failed call may have left something in it."""
        if self._queued:
            self._cuda.synchronise(self._stream)
            self._queued = False

    def _put(self, size: Size) -> None:
        self._queued = True
        recorded = self._graphs.get(size)
        if recorded is not None:
            self._graphs.move_to_end(size)
            try:
                self._cuda.launch(recorded.graph, self._stream)
            except DeviceError:
                with suppress(DeviceError):  # the next call does without it
                    self._drain()
                    self._forget(size)
                raise
            return
        assert self._context is not None
        if size != self._size:
            self._size = None
            self._set_shape(self._context, size)
            self._size = size
        self._enqueue(self._context, size)

    def _enqueue(self, context: trt_types.IExecutionContext, size: Size) -> None:
        if not self._zero_copy:
            uploaded = self._host_in[: self._io.input_bytes(size)]
            self._cuda.upload(self._addresses[0], uploaded, self._stream)
        self._plan.log.ask(context.execute_async_v3, self._stream)
        if not self._zero_copy:
            downloaded = self._host_out[: self._io.output_bytes(size)]
            self._cuda.download(downloaded, self._addresses[1], self._stream)

    # -- contexts and graphs ------------------------------------------------------------------------------------------

    def _new_context(self) -> trt_types.IExecutionContext:
        context = self._plan.new_context()
        ask = self._plan.log.ask
        if self._plan.scratch_bytes is not None:
            with self._plan.log.errors("its working memory was refused"):
                context.set_device_memory(self._scratch, self._plan.scratch_bytes)
        for name, address in zip(("frame", "saliency"), self._addresses, strict=True):
            ask(context.set_tensor_address, name, address)
        return context

    def _set_shape(self, context: trt_types.IExecutionContext, size: Size) -> None:
        if not self._io.fixed:
            self._plan.log.ask(context.set_input_shape, "frame", self._io.shape(size))

    def _worth_recording(self, size: Size) -> bool:
        """Where there is room, at once; else a shape must come twice in a row, or recording would never end."""
        if not (self._plan.recordable and self._cuda.has_graphs) or self._failed >= _TRIES or size in self._graphs:
            return False
        return len(self._graphs) < _GRAPHS or size == self._last

    def _record(self, size: Size) -> _Recorded:
        assert self._context is not None
        while len(self._graphs) >= _GRAPHS:
            self._forget(next(iter(self._graphs)))
        context = self._context if self._io.fixed else self._new_context()
        try:
            if context is not self._context:
                self._set_shape(context, size)
                self._queued = True
                self._enqueue(context, size)  # what a first run sets up cannot be recorded
                self._settle()
            if not self._plan.is_capturable(context, self._stream):
                raise DeviceError("the library cannot record this plan")
            return _Recorded(self._cuda.graph(self._stream, lambda: self._enqueue(context, size)), context)
        except BaseException:
            with suppress(DeviceError):
                self._drain()  # before the context goes
            raise

    def _forget(self, size: Size) -> None:
        self._cuda.free_graph(self._graphs.pop(size).graph)

    def _drop_contexts(self) -> None:
        with Releases() as each:
            for recorded in self._graphs.values():
                each.add(self._cuda.free_graph, recorded.graph)
            self._graphs = OrderedDict()
            self._context = None

    def _drain(self) -> None:
        """Wait, and once more where that failed: to free what the GPU still uses is worse."""
        try:
            self._settle()
        except DeviceError:
            with suppress(DeviceError):
                self._settle()
            raise
