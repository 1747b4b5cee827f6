"""Who follows a training while it runs: a display, a plot, a picture of the first batches, TensorBoard."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sdi.runtime.common.console import log
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import write_bytes
from sdi.train.outlines import TRUTH_BGR, outlined
from sdi.train.trainer import StepReport, Trainer

__all__ = ["Board", "Display", "FirstBatches", "Observer", "Plot"]

_REFRESHED_S = 30.0  # between two pictures of the plot
_PICTURES = 16  # of the first batches
_COLUMNS = 4


class Observer:
    """Follows one training. The first process alone has observers."""

    def started(self, trainer: Trainer) -> None:
        """Training is about to begin, or to go on."""

    def reported(self, report: StepReport) -> None:
        """A step is done, or an evaluation."""

    def ended(self) -> None:
        """Training has ended or was stopped, without an error; it is saved."""

    def closed(self) -> None:
        """Free what is held; after an error too, which is reported only then: do not be long."""


class Display(Observer):
    """A progress bar on the terminal, and a line for each evaluation; without a terminal a line for each epoch."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.1f} images/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=log,
        )

    def started(self, trainer: Trainer) -> None:
        self._per_epoch = trainer.steps_per_epoch
        start: dict[str, Any] = {"epoch": 1, "loss": 0.0, "rate": 0.0}
        self._task = self._bar.add_task("train", total=trainer.steps, completed=trainer.step, **start)
        self._bar.start()

    def reported(self, report: StepReport) -> None:
        now: dict[str, Any] = {"epoch": report.epoch, "loss": report.loss, "rate": report.images_per_second}
        self._bar.update(self._task, completed=report.step, **now)
        if report.metrics or (not log.is_terminal and report.step % self._per_epoch == 0):
            scores = "  ".join(f"{name} {value:.4f}" for name, value in report.metrics.items())
            log.print(
                f"epoch {report.epoch}: loss {report.loss:.4f}, {report.images_per_second:.1f} images/s  {scores}"
            )

    def closed(self) -> None:
        self._bar.stop()


class Plot(Observer):
    """`curves.png` in the run's folder: loss, scores and learning rate so far, drawn anew every half a minute.

    Args:
        clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def started(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._present: StepReport | None = None
        self._drawn_at = self._clock()

    def reported(self, report: StepReport) -> None:
        self._present = report
        if self._clock() - self._drawn_at >= _REFRESHED_S:
            self._draw()

    def ended(self) -> None:
        if self._present is not None:
            self._draw()

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        _write(self._trainer.run / "curves.png", curves_png(self._trainer, self._present))


class FirstBatches(Observer):
    """`first-batches.png` in the run's folder: what the network is shown, with the outline of each mask in cyan."""

    def started(self, trainer: Trainer) -> None:
        _, png = cv2.imencode(".png", first_batches(trainer))
        _write(trainer.run / "first-batches.png", png.tobytes())


class Board(Observer):
    """TensorBoard's files in `tensorboard` of the run's folder: loss, learning rate, speed, scores, first batches.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("--tensorboard needs TensorBoard: pip install 'sdi[board]'") from error
        self._open = SummaryWriter

    def started(self, trainer: Trainer) -> None:
        self._trainer = trainer
        # What an interrupted run wrote after the step that it is resumed at is hidden.
        self._writer: Any = self._open(str(trainer.run / "tensorboard"), purge_step=trainer.step + 1)
        image = cv2.cvtColor(first_batches(trainer), cv2.COLOR_BGR2RGB)
        self._writer.add_image("first batches", image, trainer.step + 1, dataformats="HWC")

    def reported(self, report: StepReport) -> None:
        for name, value in report.metrics.items():
            self._writer.add_scalar(f"validation/{name}", value, report.step)
        if not report.metrics:
            self._writer.add_scalar("train/loss", report.step_loss, report.step)
            self._writer.add_scalar("train/learning rate", self._trainer.learning_rate, report.step)
            self._writer.add_scalar("train/images per second", report.images_per_second, report.step)

    def closed(self) -> None:
        self._writer.close()


def curves_png(trainer: Trainer, present: StepReport | None) -> bytes:
    """Loss of each epoch, scores and learning rate, as a PNG; the epoch under way is the last point of the loss."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history = trainer.history
    steps, losses = [row["step"] for row in history], [row["loss"] for row in history]
    if present is not None and present.step > (steps[-1] if steps else 0):
        steps, losses = [*steps, present.step], [*losses, present.loss]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, score, rate = figure.subplots(1, 3)
    loss.plot(steps, losses, color="#c2410c", marker=".")
    loss.set(
        title="Loss, mean of each epoch", yscale="log" if losses and 0 < 10 * min(losses) < max(losses) else "linear"
    )
    scored = [row for row in history if "S" in row]
    for name, colour in (("S", "#1d4ed8"), ("maxF", "#15803d"), ("MAE", "#7e22ce")):
        values = [row[name] for row in scored]
        last = f"{name} {values[-1]:.4f}" if values else name
        score.plot([row["step"] for row in scored], values, color=colour, marker=".", label=last)
    best = "" if trainer.best == -math.inf else f", best S {trainer.best:.4f}"
    score.set(title=f"Validation{best}", ylim=(0, 1))
    score.legend(frameon=False, loc="center right")
    rate.plot([row["step"] for row in history], [row["learning_rate"] for row in history], color="#475569", marker=".")
    rate.set(title="Learning rate")
    for axes in (loss, score, rate):
        axes.set(xlabel="step", xlim=(0, trainer.steps))
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{trainer.spec.name}: step {trainer.step} of {trainer.steps}", x=0.01, ha="left")
    page = io.BytesIO()
    figure.savefig(page, format="png", dpi=110)
    return page.getvalue()


def first_batches(trainer: Trainer) -> np.ndarray:
    """The next pictures that the network is trained on, as it gets them, with the outlines of their masks.

    Batches are a function of seed and step, so looking at them changes nothing.

    Returns:
        (h, w, 3) uint8 BGR: rows of four pictures, at most sixteen, each at twice its size.
    """
    epoch, done = divmod(trainer.step, trainer.steps_per_epoch)
    tiles: list[np.ndarray] = []
    wanted = -(-_PICTURES // trainer.batches.size)
    for shares in islice(trainer.batches.epoch(epoch, done), wanted):
        for share in shares:
            for frame, mask in zip(share.frames.numpy(), share.masks.numpy()[:, 0] > 0.5, strict=True):
                tiles.append(outlined(frame, [(mask, TRUTH_BGR)]))
    tiles = tiles[:_PICTURES]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % min(_COLUMNS, len(tiles)))
    columns = min(_COLUMNS, len(tiles))
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def _write(path: Path, data: bytes) -> None:
    with suppress(OSError, InputError):  # a full disk must not end a training over a picture of it
        write_bytes(path, data, durable=False)
