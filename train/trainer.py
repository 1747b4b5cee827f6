"""The training loop."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sdi.runtime.common.errors import GateError, InputError
from sdi.runtime.common.files import atomic_path, write_text
from sdi.train.batches import Batches, Share
from sdi.train.checkpoint import Checkpoint, load_network, save_checkpoint
from sdi.train.data import Sample
from sdi.train.devices import open_fabric
from sdi.train.engine_module import EngineModule
from sdi.train.losses import saliency_iou_loss
from sdi.train.models import SaliencyNetwork, model_spec
from sdi.train.optimisation import averaged_network, build_optimiser, learning_rate
from sdi.train.preprocess import Preprocessing
from sdi.train.qat import Int8Places
from sdi.train.recipe import Recipe
from sdi.train.running_statistics import RunningStatistics, average_statistics
from sdi.train.scores import score_module
from sdi.train.splits import DataLocation
from sdi.train.teacher import Teachers

__all__ = ["Setup", "StepReport", "Trainer"]


@dataclass(frozen=True)
class StepReport:
    """How far a training has come, after a step and after an evaluation."""

    step: int  # steps done
    steps: int  # steps in all
    epoch: int  # from 1
    loss: float  # mean of this epoch so far
    step_loss: float  # of this step alone
    images_per_second: float
    metrics: dict[str, float] = field(default_factory=dict)  # after an evaluation


@dataclass(frozen=True)
class Setup:
    """Where a training computes, and what its checkpoints record besides recipe and weights.

    Attributes:
        fabric: launched; None: one device of the recipe's precision.
        compiled: run the training step through torch.compile.
        data: where the pictures lie.
        int8: where the network quantises, after `train_for_int8`.
        preprocessing: None: the model's own.
        teachers: their maps count `recipe.distil` of the truth.
    """

    fabric: Fabric | None = None
    compiled: bool = False
    data: DataLocation = field(default_factory=DataLocation)
    int8: Int8Places | None = None
    preprocessing: Preprocessing | None = None
    teachers: Teachers | None = None


class Trainer:
    """Trains one network on samples held in memory.

    Everything random, dropout included, follows from the seed and the step, so resuming needs no state of it. With
    several processes each computes its share of every batch, and their mean gradient is what one process would have
    computed with as many parts (`recipe.accumulate`). On GPUs batch norm is synchronised over all shares. PyTorch has
    no such layer for a CPU: there each share is normalised by itself, and the running statistics are the shares' mean.
    The first process alone writes files.

    Args:
        network: random or pretrained; trained in place.
        validation: scored every `recipe.evaluate_every` epochs to choose `best.pt`; where empty, `best.pt` is the
            latest epoch.
        run: an existing folder that gets `last.pt`, `best.pt` and `log.csv`.
    """

    def __init__(
        self,
        model: str,
        network: SaliencyNetwork,
        recipe: Recipe,
        samples: list[Sample],
        validation: list[Sample],
        run: Path,
        setup: Setup | None = None,
    ) -> None:
        self.spec = model_spec(model)
        self.recipe = recipe
        self.samples = samples
        self.validation = validation
        self.run = run
        self.setup = setup or Setup()
        self.preprocessing = self.setup.preprocessing or self.spec.preprocessing
        self.fabric = self.setup.fabric or open_fabric(precision=recipe.precision)
        self.batches = Batches(samples, recipe, rank=self.fabric.global_rank, processes=self.fabric.world_size)
        self.steps_per_epoch = self.batches.per_epoch
        self.steps = self.batches.steps
        self.step = 0
        self._saved_step = -1  # of last.pt
        self.best = -math.inf
        self.history: list[dict[str, float]] = []
        # What GPUs prefer. On a CPU faster (docs/benchmarks.md), but there PyTorch 2.14's backward pass corrupts the
        # heap for some networks: only those that were found sound use it. In bfloat16 none is: with one thread the
        # gradients of depthwise convolutions' weights are no numbers there, in the default layout they are.
        on_gpu = self.fabric.device.type == "cuda"
        sound_on_cpu = self.spec.channels_last_on_cpu and recipe.precision != "bf16-mixed"
        self.layout = torch.channels_last if sound_on_cpu or on_gpu else torch.contiguous_format
        if on_gpu and self.fabric.world_size > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.to(self.fabric.device, memory_format=self.layout)  # type: ignore[call-overload]
        self._statistics = RunningStatistics(network, recipe.accumulate)
        optimiser, self._rate_factors = build_optimiser(network, recipe)
        trained: Any = torch.compile(network) if self.setup.compiled else network
        self.model, self.optimiser = self.fabric.setup(trained, optimiser)
        self.averaged = averaged_network(network, recipe.ema) if recipe.ema else None
        # The training-time module shares the network's weights; it scores what would be exported.
        self.engine_module = EngineModule(self.product, self.preprocessing, recipe.input_hw).to(self.fabric.device)
        if self.setup.teachers is not None:
            self.setup.teachers.to(self.fabric.device, memory_format=self.layout)  # type: ignore[call-overload]

    @property
    def product(self) -> SaliencyNetwork:
        """What is validated and kept: the averaged network where there is one, else the one being trained."""
        return self.network if self.averaged is None else self.averaged.module  # type: ignore[return-value]

    def fit(
        self,
        *,
        limit_steps: int | None = None,
        report: Callable[[StepReport], None] = lambda step: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the recipe's end, or `limit_steps` more steps, or until `stop()` in any process; save `last.pt`.

        Returns:
            True when the recipe's end was reached.
        Raises:
            GateError: the loss is not finite; the batch is saved as `bad-batch.npz`.
        """
        last = self.steps if limit_steps is None else min(self.steps, self.step + limit_steps)
        while self.step < last and not self._any(stop()):
            self._epoch(last, report, stop)
        if self._saved_step != self.step:
            self._save("last.pt", resumable=True)
        if not self.fabric.broadcast((self.run / "best.pt").exists()):
            self._save("best.pt")
        return self.step >= self.steps

    def _epoch(self, last: int, report: Callable[[StepReport], None], stop: Callable[[], bool]) -> None:
        """Train from the present step to the epoch's end, or to where it must stop."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        total, started = 0.0, time.monotonic()
        self.network.train()
        for n, shares in enumerate(self.batches.epoch(epoch, done), start=1):
            step_loss = self._train_step(shares)
            total += step_loss
            rate = n * self.batches.size / (time.monotonic() - started)
            progress = StepReport(self.step, self.steps, epoch + 1, total / n, step_loss, rate)
            report(progress)
            if self.step >= last or self._any(stop()):
                break
        ended = self.step >= self.steps
        if self.step % self.steps_per_epoch and not ended:
            return  # stopped within the epoch
        metrics = {}
        if self.validation and ((epoch + 1) % self.recipe.evaluate_every == 0 or ended):
            metrics = self.evaluate(self.validation)
        row = {"epoch": epoch + 1, "step": self.step, "loss": progress.loss, "images_per_second": rate}
        self.history.append({**row, "learning_rate": self.learning_rate, **metrics})
        if not self.validation or metrics.get("S", -math.inf) > self.best:
            self.best = metrics.get("S", self.best)
            self._save("best.pt", metrics=metrics)
        self._save("last.pt", resumable=True, metrics=metrics)
        self._write_log()
        if metrics:
            report(replace(progress, metrics=metrics))

    def _train_step(self, shares: list[Share]) -> float:
        """One step of the optimiser. Returns the batch's loss."""
        for group, factor in zip(self.optimiser.param_groups, self._rate_factors, strict=True):
            group["lr"] = self.learning_rate * factor
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for n, share in enumerate(shares):
            self._statistics.begin_part(n)
            waits = n + 1 < len(shares)  # gradients travel between processes once a step
            with self.fabric.no_backward_sync(self.model) if waits else nullcontext():
                loss = self._loss(share)
                value = self._mean(float(loss.detach()))
                if not math.isfinite(value):
                    self._refuse(share, value)
                self.fabric.backward(loss / len(shares))
            total += value / len(shares)
        self.optimiser.step()
        self.step += 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        return total

    def _loss(self, share: Share) -> Tensor:
        """Of one share, in float32; NaN where a map is."""
        frames, masks = share.frames.to(self.fabric.device), share.masks.to(self.fabric.device)
        torch.manual_seed(share.seed)
        maps = self.model(self.engine_module.normalise(frames).contiguous(memory_format=self.layout))
        # Binary cross entropy aborts on NaN, on a GPU with the whole process: look first.
        if not torch.stack([p.isfinite().all() for p in maps.values()]).all():
            return torch.tensor(math.nan, device=self.fabric.device)
        if self.setup.teachers is not None:
            masks = masks.lerp(self.setup.teachers(frames), self.recipe.distil)
        loss = self.spec.loss(maps, masks)
        return loss + self.recipe.iou * saliency_iou_loss(maps, masks) if self.recipe.iou else loss

    def _refuse(self, share: Share, value: float) -> None:
        """Save the batch whose loss is not finite, and raise."""
        batch: dict[str, Any] = {"frames": share.frames, "masks": share.masks}
        if self.fabric.world_size > 1:
            gathered: Any = self.fabric.all_gather(batch)  # an axis of processes in front
            batch = {name: parts.flatten(0, 1).cpu() for name, parts in gathered.items()}
        path = self.run / "bad-batch.npz"
        if self.fabric.is_global_zero:
            with atomic_path(path) as beside, beside.open("wb") as file:
                np.savez_compressed(file, **{name: part.numpy() for name, part in batch.items()})
        self.fabric.barrier()
        raise GateError(
            f"the loss is {value} at step {self.step}: training stopped; the batch is in {path}; "
            f"lower the learning rate (--lr {self.recipe.learning_rate / 4:g}) or look at these pictures"
        )

    def evaluate(self, samples: list[Sample]) -> dict[str, float]:
        """Scores of the present weights (the averaged ones where there are) on `samples`, computed in one process."""
        self._average_statistics()
        scores: dict[str, float] = {}
        if self.fabric.is_global_zero:
            was_training = self.product.training
            self.product.eval()
            scores = score_module(self.engine_module, samples)
            self.product.train(was_training)
        return self.fabric.broadcast(scores)

    def keep_start(self) -> dict[str, float]:
        """Score the weights as they are before the first step, and keep them as `best.pt` until they are beaten."""
        metrics = self.evaluate(self.validation)
        self.best = metrics["S"]
        self._save("best.pt", metrics=metrics)
        return metrics

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up where `last.pt` left off.

        Raises:
            InputError: the checkpoint has no training state, or was trained on other pictures.
        """
        state = checkpoint.training.get("state")
        if state is None:
            raise InputError("this checkpoint holds no training state (best.pt does not); resume from last.pt")
        if state["pictures"] != self._pictures:
            raise InputError(
                "the pictures are not those that the checkpoint was trained and chosen on; give the same data to resume"
            )
        if checkpoint.preprocessing != self.preprocessing:
            raise InputError(
                f"{self.spec.name} preprocesses otherwise in this sdi; resume with the one that began the run"
            )
        self.product.load_state_dict(load_network(checkpoint).state_dict())
        if self.averaged is not None:
            self.network.load_state_dict(state["network"])
            self.averaged.n_averaged.fill_(state["step"])
        self.optimiser.load_state_dict(state["optimiser"])
        if scaler := state.get("precision"):
            self.fabric.strategy.precision.load_state_dict(scaler)
        self.step, self.best, self.history = state["step"], state["best"], state["history"]
        self._saved_step = self.step

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return learning_rate(self.recipe, self.step, self.steps)

    def _average_statistics(self) -> None:
        networks = [self.network] if self.averaged is None else [self.network, self.averaged]
        average_statistics(self.fabric, *networks)

    def _mean(self, value: float) -> float:
        """Over all processes."""
        if self.fabric.world_size == 1:
            return value
        mean: Any = self.fabric.all_reduce(torch.tensor(value, device=self.fabric.device), reduce_op="mean")
        return float(mean)

    def _any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return self._mean(float(flag)) > 0

    def _save(self, name: str, *, resumable: bool = False, metrics: dict[str, float] | None = None) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            raise GateError(
                f"weights are not finite at step {self.step}: {name} was not written; start again with a "
                f"lower learning rate (--lr {self.recipe.learning_rate / 4:g})"
            )
        self._average_statistics()
        training: dict[str, Any] = {
            "recipe": self.recipe.to_dict(),
            "epoch": self.step / self.steps_per_epoch,
            "pictures": len(self.samples),
        }
        if self.setup.int8 is not None:
            training["qat"] = self.setup.int8.to_dict()
        if self.setup.teachers is not None:
            training["teachers"] = list(self.setup.teachers.files.values())  # SHA-256
        if resumable:
            self._saved_step = self.step
            training["state"] = {
                "step": self.step,
                "best": self.best,
                "history": self.history,
                "optimiser": self.optimiser.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "pictures": self._pictures,
                "data": self.setup.data.to_dict(),  # of this machine, so in last.pt alone
            }
            if self.setup.teachers is not None:
                training["state"]["teachers"] = self.setup.teachers.files
            if self.averaged is not None:
                training["state"]["network"] = self.network.state_dict()
        if self.fabric.is_global_zero:
            save_checkpoint(
                self.run / name,
                Checkpoint(
                    model=self.spec.name,
                    input_hw=self.recipe.input_hw,
                    preprocessing=self.preprocessing,
                    weights=self.product.state_dict(),
                    metrics=metrics or {},
                    training=training,
                    native_hw=self._native_hw,
                    mm_per_pixel=self.setup.data.mm_per_pixel,
                ),
            )
        self.fabric.barrier()

    @cached_property
    def _native_hw(self) -> tuple[int, int]:
        """The size of a training picture, the median of each side."""
        height, width = np.median([sample.image.shape[:2] for sample in self.samples], axis=0).round().astype(int)
        return int(height), int(width)

    @cached_property
    def _pictures(self) -> str:
        """A fingerprint of the pictures for training and validation, by name and content."""
        digest = hashlib.sha256()
        for sample in (*self.samples, *self.validation):
            digest.update(sample.name.encode() + sample.image.tobytes() + sample.mask.tobytes())
        return digest.hexdigest()

    def _write_log(self) -> None:
        if not self.fabric.is_global_zero:
            return
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        with suppress(OSError):  # a full disk must not end a training run over its log
            write_text(self.run / "log.csv", text.getvalue())
