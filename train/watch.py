"""A training run as its user sees it: a progress display, and signals that save before they end it."""

from __future__ import annotations

import os
import signal
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sdi.runtime.common.console import log
from sdi.train.trainer import StepReport, Trainer

__all__ = ["watch"]


def watch(trainer: Trainer, limit_steps: int | None) -> tuple[bool, bool]:
    """Train under a progress display, until the end, `limit_steps` or a signal to any of the processes.

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

    for number in handlers:
        signal.signal(number, on_signal)
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.1f} images/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    try:
        with Bar(*columns, console=log) as bar:
            task = bar.add_task("train", total=trainer.steps, completed=trainer.step, epoch=1, loss=0.0, rate=0.0)

            def report(progress: StepReport) -> None:
                bar.update(
                    task,
                    completed=progress.step,
                    epoch=progress.epoch,
                    loss=progress.loss,
                    rate=progress.images_per_second,
                )
                if progress.metrics or (not log.is_terminal and progress.step % trainer.steps_per_epoch == 0):
                    scores = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
                    log.print(
                        f"epoch {progress.epoch}: loss {progress.loss:.4f}, "
                        f"{progress.images_per_second:.1f} images/s  {scores}"
                    )

            finished = trainer.fit(limit_steps=limit_steps, report=report, stop=lambda: bool(signals))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return finished, bool(signals)
