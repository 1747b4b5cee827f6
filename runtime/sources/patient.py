"""A capture that gives up on a backend which does not answer.

OpenCV bounds GStreamer's reads from 4.7 on alone (by 30 s); Debian's 4.6 and Ubuntu 22.04's 4.5 wait for ever, and
refuse a pipeline that is given with time-outs. So a thread of its own asks the backend, and the caller stops waiting.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import cv2
import numpy as np

from sdi.runtime.common.errors import DeviceError

__all__ = ["PatientCapture"]


class PatientCapture:
    """A cv2.VideoCapture that one thread opens, reads and releases; no other one ever touches it.

    Args:
        open_: opens the capture.
        open_s, read_s: how long opening it, and each call from then on, may take.
    Raises:
        DeviceError: it did not open in time, or too many earlier ones still hang.
    """

    MOST_HUNG = 50  # each holds a pipeline, which only the end of the process frees
    _hung: ClassVar[list[threading.Thread]] = []

    def __init__(self, open_: Callable[[], cv2.VideoCapture], open_s: float, read_s: float) -> None:
        PatientCapture._hung = [thread for thread in self._hung if thread.is_alive()]
        if len(self._hung) >= self.MOST_HUNG:
            raise DeviceError(
                f"{len(self._hung)} earlier attempts hang in OpenCV {cv2.__version__} and cannot be ended; start "
                "sdi-run again, with OpenCV 4.7 or newer they end by themselves"
            )
        self._read_s = read_s
        self._given_up = False
        self._calls: queue.SimpleQueue[Callable[[cv2.VideoCapture], Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A daemon: it must not keep the process from ending while it hangs.
        self._thread = threading.Thread(target=self._serve, args=(open_,), name="sdi-capture", daemon=True)
        self._thread.start()
        self._answer(open_s)

    def isOpened(self) -> bool:
        return bool(self._ask(lambda capture: capture.isOpened()))

    def get(self, prop: int, /) -> float:
        return float(self._ask(lambda capture: capture.get(prop)))

    def read(self, image: np.ndarray | None = None, /) -> tuple[bool, np.ndarray | None]:
        """The next picture, as cv2.VideoCapture.read has it.

        Raises:
            DeviceError: it did not come in time. `image` belongs to the hanging read from then on.
        """
        there, found = self._ask(lambda capture: capture.read() if image is None else capture.read(image))
        return there, found

    def release(self) -> None:
        """Close it; where the backend hangs, once it answers, if ever."""
        self._calls.put(None)
        if not self._given_up:
            self._thread.join(self._read_s)

    def _ask(self, call: Callable[[cv2.VideoCapture], Any]) -> Any:
        self._calls.put(call)
        return self._answer(self._read_s)

    def _answer(self, seconds: float) -> Any:
        try:
            answer = self._answers.get(timeout=0 if self._given_up else seconds)
        except queue.Empty:
            self._given_up = True
            self._hung.append(self._thread)
            self._calls.put(None)
            raise DeviceError(f"nothing came for {seconds:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _serve(self, open_: Callable[[], cv2.VideoCapture]) -> None:
        try:
            capture = open_()
        except Exception as error:
            self._answers.put(error)
            return
        self._answers.put(None)
        while (call := self._calls.get()) is not None:
            try:
                self._answers.put(call(capture))
            except Exception as error:
                self._answers.put(error)
        capture.release()
