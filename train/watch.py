"""A training run under the eyes of observers, and signals that save before they end it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from sdi.train.observers import Observer
from sdi.train.trainer import StepReport, Trainer

__all__ = ["watch"]


def watch(trainer: Trainer, limit_steps: int | None, observers: Sequence[Observer] = ()) -> tuple[bool, bool]:
    """Train until the end, `limit_steps` or a signal to any of the processes.

    Returns:
        Whether the recipe is finished, and whether a signal interrupted this process.
    """
    signals: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _: Any) -> None:
        signals.append(number)
        if trainer.fabric.is_global_zero:
            os.write(2, b"\nfinishing the step, then saving; once more leaves at once\n")
        signal.signal(number, handlers[signal.Signals(number)])  # asked twice, it ends at once

    def report(step: StepReport) -> None:
        for observer in observers:
            observer.reported(step)

    for number in handlers:
        signal.signal(number, on_signal)
    try:
        with ExitStack() as stack:
            for observer in observers:
                observer.started(trainer)
                stack.callback(observer.closed)
            finished = trainer.fit(limit_steps=limit_steps, report=report, stop=lambda: bool(signals))
            for observer in observers:
                observer.ended()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return finished, bool(signals)
