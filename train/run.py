"""A training plan carried out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from sdi.runtime.common.console import log, out
from sdi.runtime.common.files import ensure_folder
from sdi.runtime.common.progress import SILENT, Progress
from sdi.train.allocator import keep_freed_memory
from sdi.train.data import load_samples, refuse_doubtful_masks
from sdi.train.devices import Devices, one_voice, open_fabric
from sdi.train.models import model_spec
from sdi.train.observers import Observer
from sdi.train.plan import TrainingPlan
from sdi.train.splits import Splits, choose_splits, refuse_leaks
from sdi.train.start import make_int8, network_to_train, teachers_of
from sdi.train.trainer import Setup, Trainer
from sdi.train.watch import watch

__all__ = ["Outcome", "run_training"]


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    run: Path
    model: str
    finished: bool  # the recipe's end was reached
    interrupted: bool  # by a signal
    step: int  # steps done
    steps: int  # steps in all
    best: float | None  # S of best.pt; None where nothing was validated
    is_main: bool  # this is the process that reports; False in the others that share the batches

    @property
    def checkpoint(self) -> Path:
        """What to evaluate and to export."""
        return self.run / "best.pt"


def run_training(
    plan: TrainingPlan,
    devices: Devices,
    limit_steps: int | None = None,
    progress: Progress = SILENT,
    observers: Sequence[Observer] = (),
) -> Outcome:
    """Train, and leave `best.pt`, `last.pt` and `log.csv` in the run's folder. Observers may leave more.

    Raises:
        InputError: pictures, masks or devices are missing or do not fit.
        GateError: the loss or a weight is not finite.
        DeviceError: another process was lost.
    """
    splits = choose_splits(plan.data, plan.recipe.validation, plan.recipe.seed)
    fabric = open_fabric(devices.kind, devices.count, plan.recipe.precision)
    if fabric.device.type == "cpu":
        keep_freed_memory()
        if plan.default_recipe and not plan.resumed and not model_spec(plan.model).trains_on_cpu:
            progress.log("training as the paper did, which is meant for a GPU; on a CPU choose --recipe quick")
    _launch(fabric, devices.threads)
    with one_voice(fabric):
        plan = replace(plan, run=fabric.broadcast(plan.run))  # its name may hold the time
        trainer = _trainer(plan, splits, fabric, progress)
        _announce(trainer, splits, progress, started=plan.start is not None and not plan.resumed)
        if plan.for_int8 and trainer.validation and not trainer.step:
            s = trainer.keep_start()["S"]
            progress.log(f"in INT8 before training: S {s:.4f}; kept as best.pt until it is beaten")
        finished, interrupted = watch(trainer, limit_steps, observers if fabric.is_global_zero else ())
    best = None if trainer.best == -math.inf else trainer.best
    ended = (finished, interrupted, trainer.step, trainer.steps, best)
    return Outcome(plan.run, plan.model, *ended, is_main=fabric.is_global_zero)


def _launch(fabric: Fabric, threads: int | None) -> None:
    """Start the other processes; all but the first are silent from here on."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric.launch()
    if threads:
        torch.set_num_threads(threads)
    log.quiet = out.quiet = not fabric.is_global_zero


def _trainer(plan: TrainingPlan, splits: Splits, fabric: Fabric, progress: Progress) -> Trainer:
    """Network, pictures and teachers in memory, at the step where training goes on."""
    network = network_to_train(plan.model, plan.start, plan.recipe.seed, fabric, plan.pretrained)
    samples, validation = load_samples(splits.train), load_samples(splits.validation)
    refuse_leaks(samples, validation)
    if not plan.trust_masks:
        refuse_doubtful_masks(sample.mask for sample in (*samples, *validation))
    setup = Setup(fabric, plan.compiled, plan.data, teachers=teachers_of(plan.teachers, plan.before))
    if plan.start is not None and plan.for_int8:
        # An author's preprocessing may be another than we train with.
        setup = replace(setup, preprocessing=plan.start.preprocessing)
        int8 = make_int8(network, plan, samples, validation, fabric.device, progress)
        setup = replace(setup, int8=int8)
    ensure_folder(plan.run)
    trainer = Trainer(plan.model, network, plan.recipe, samples, validation, plan.run, setup)
    if plan.before is not None:
        trainer.resume(plan.before)
    return trainer


def _announce(trainer: Trainer, splits: Splits, progress: Progress, *, started: bool) -> None:
    recipe = trainer.recipe
    devices = trainer.fabric.world_size
    where = f"{devices} x {trainer.fabric.device.type}" if devices > 1 else str(trainer.fabric.device)
    each = trainer.steps_per_epoch
    length = f"{recipe.epochs} epochs of {each} steps" if recipe.epochs else f"{recipe.steps} steps, {each} an epoch"
    test = "test split untouched" if splits.test else "no test split besides"
    progress.log(
        f"{trainer.spec.name} {recipe.input_hw[0]}x{recipe.input_hw[1]} on {where}: "
        f"{len(trainer.samples)} pictures, {len(trainer.validation)} to validate (--val {recipe.validation}), {test}; "
        f"{length}, batch {trainer.batches.size}; run {trainer.run}"
    )
    if not trainer.step and not trainer.spec.backbone and not started:
        progress.log("it starts from random weights: there are no ImageNet weights for it")
    if trainer.step:
        progress.log(f"resumed at step {trainer.step} of {trainer.steps}")
