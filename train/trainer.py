"""The training loop."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from sdi.runtime.errors import GateError, InputError
from sdi.runtime.files import atomic_path, write_text
from sdi.train.augment import augment
from sdi.train.checkpoint import Checkpoint, load_network, save_checkpoint
from sdi.train.data import Sample
from sdi.train.face import Face
from sdi.train.models import SaliencyNetwork, model_spec
from sdi.train.recipe import Recipe
from sdi.train.scores import predict, score_maps
from sdi.train.splits import Place

__all__ = ["Progress", "Trainer"]


@dataclass(frozen=True)
class Progress:
    """One step's report to whoever watches."""

    step: int  # steps done
    steps: int  # steps in all
    epoch: int  # from 1
    loss: float  # mean of this epoch so far
    images_per_second: float
    metrics: dict[str, float] = field(default_factory=dict)  # after an evaluation


class Trainer:
    """Trains one network on samples held in memory.

    Everything random in the data follows from (seed, epoch, index), so resuming needs no state of it; what
    dropout draws comes from torch's generators, which `last.pt` carries.

    Args:
        network: random or pretrained; trained in place.
        validation: scored every `recipe.evaluate_every` epochs to choose `best.pt`; where empty, `best.pt` is the
            latest epoch.
        run: an existing folder that gets `last.pt`, `best.pt` and `log.csv`.
        accelerator: as Lightning Fabric names it: auto, cpu, cuda, mps.
        place: where the pictures lie, for checkpoints to say.
    """

    def __init__(
        self,
        model: str,
        network: SaliencyNetwork,
        recipe: Recipe,
        samples: list[Sample],
        validation: list[Sample],
        run: Path,
        *,
        accelerator: str = "auto",
        place: Place | None = None,
    ) -> None:
        self.spec = model_spec(model)
        self.recipe = recipe
        self.samples = samples
        self.validation = validation
        self.run = run
        self.place = place or Place()
        if not samples:
            raise InputError("no picture to train on")
        self.steps_per_epoch = max(1, len(samples) // recipe.batch_size)
        self.steps = recipe.epochs * self.steps_per_epoch
        self.step = 0
        self.best = -math.inf
        self.history: list[dict[str, float]] = []
        try:
            self.fabric = Fabric(accelerator=accelerator, devices=1)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"--device {accelerator} cannot be used here: {error}") from error
        torch.manual_seed(recipe.seed)
        # What GPUs prefer. On a CPU faster (docs/benchmarks.md), but there PyTorch 2.14's backward pass corrupts the
        # heap for some networks: only those that were found sound use it.
        sound = self.spec.channels_last_on_cpu or self.fabric.device.type == "cuda"
        self.layout = torch.channels_last if sound else torch.contiguous_format
        self.network = network.to(memory_format=self.layout)
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.model, self.optimiser = self.fabric.setup(network, optimiser)
        # The training-time face shares the network's weights; it scores what would be exported.
        self.face = Face(network, self.spec.preprocessing, recipe.input_hw).to(self.fabric.device)

    def fit(
        self,
        *,
        limit_steps: int | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the recipe's end, or `limit_steps` more steps, or until `stop()`; then save `last.pt`.

        Returns:
            True when the recipe's end was reached.
        Raises:
            GateError: the loss is not finite; the batch is saved as `bad-batch.npz`.
        """
        last = self.steps if limit_steps is None else min(self.steps, self.step + limit_steps)
        while self.step < last and not stop():
            self._epoch(last, report, stop)
        if self.step % self.steps_per_epoch or not (self.run / "last.pt").exists():
            self._save("last.pt", resumable=True)
        if not (self.run / "best.pt").exists():
            self._save("best.pt")
        return self.step >= self.steps

    def _epoch(self, last: int, report: Callable[[Progress], None], stop: Callable[[], bool]) -> None:
        """Train from the present step to the epoch's end, or to where it must stop."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        total, started = 0.0, time.monotonic()
        self.model.train()
        for n, (frames, masks) in enumerate(self._batches(epoch, done), start=1):
            total += self._train_step(frames, masks)
            rate = n * len(frames) / (time.monotonic() - started)
            progress = Progress(self.step, self.steps, epoch + 1, total / n, rate)
            report(progress)
            if self.step >= last or stop():
                break
        if self.step % self.steps_per_epoch:
            return  # stopped within the epoch
        metrics = {}
        if self.validation and ((epoch + 1) % self.recipe.evaluate_every == 0 or epoch + 1 == self.recipe.epochs):
            metrics = self.evaluate(self.validation)
        row = {"epoch": epoch + 1, "step": self.step, "loss": progress.loss, "images_per_second": rate}
        self.history.append({**row, "learning_rate": self._learning_rate(), **metrics})
        self._write_log()
        if not self.validation or metrics.get("S", -math.inf) > self.best:
            self.best = metrics.get("S", self.best)
            self._save("best.pt", metrics=metrics)
        self._save("last.pt", resumable=True, metrics=metrics)
        if metrics:
            report(Progress(self.step, self.steps, epoch + 1, progress.loss, rate, metrics))

    def _train_step(self, frames: Tensor, masks: Tensor) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        maps = self.model(self.face.normalise(frames).contiguous(memory_format=self.layout))
        value = math.nan
        # Binary cross entropy aborts on NaN, on a GPU with the whole process: look first.
        if torch.stack([p.isfinite().all() for p in maps.values()]).all():
            loss = self.spec.loss(maps, masks)
            value = float(loss.detach())
        if not math.isfinite(value):
            path = self.run / "bad-batch.npz"
            with atomic_path(path) as beside, beside.open("wb") as file:
                np.savez_compressed(file, frames=frames.cpu().numpy(), masks=masks.cpu().numpy())
            raise GateError(
                f"the loss is {value} at step {self.step}: training stopped; the batch is in {path}; "
                f"lower the learning rate (--lr {self.recipe.learning_rate / 4:g}) or look at these pictures"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.optimiser.step()
        self.step += 1
        return value

    def evaluate(self, samples: list[Sample]) -> dict[str, float]:
        """Scores of the present weights on `samples`."""
        was_training = self.network.training
        self.network.eval()
        maps = predict(self.face, samples)
        scores = score_maps((saliency, sample.mask) for saliency, sample in zip(maps, samples, strict=True))
        self.network.train(was_training)
        return scores

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
        if checkpoint.preprocessing != self.spec.preprocessing:
            raise InputError(
                f"{self.spec.name} preprocesses otherwise in this sdi; resume with the one that began the run"
            )
        self.network.load_state_dict(load_network(checkpoint).state_dict())
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best, self.history = state["step"], state["best"], state["history"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _batches(self, epoch: int, done: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's batches after the first `done`: frames (N, h, w, 3) uint8, masks (N, 1, h, w) float32 0..1."""
        recipe = self.recipe
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(self.samples))
        for start in range(done * recipe.batch_size, self.steps_per_epoch * recipe.batch_size, recipe.batch_size):
            drawn = []
            for i in order[start : start + recipe.batch_size]:
                rng = np.random.default_rng([recipe.seed, epoch, int(i)])
                sample = self.samples[i]
                drawn.append(augment(sample.image, sample.mask, recipe.input_hw, recipe.augmentation, rng))
            frames = torch.from_numpy(np.stack([image for image, _ in drawn]))
            masks = torch.from_numpy(np.stack([mask for _, mask in drawn]))[:, None].float() / 255
            yield frames.to(self.fabric.device), masks.to(self.fabric.device)

    def _learning_rate(self) -> float:
        """Of the present step: a pure function, so resuming cannot shift it."""
        recipe = self.recipe
        warmup = max(1, round(recipe.warmup * self.steps))
        if self.step < warmup:
            return recipe.learning_rate * (self.step + 1) / warmup
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (self.step - warmup) / (self.steps - warmup + 1)))

    def _save(self, name: str, *, resumable: bool = False, metrics: dict[str, float] | None = None) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            raise GateError(
                f"the weights are no numbers any more at step {self.step}: {name} was not written; start again with a "
                f"lower learning rate (--lr {self.recipe.learning_rate / 4:g})"
            )
        training: dict[str, Any] = {
            "recipe": self.recipe.to_dict(),
            "epoch": self.step / self.steps_per_epoch,
            "pictures": len(self.samples),
        }
        if resumable:
            training["state"] = {
                "step": self.step,
                "best": self.best,
                "history": self.history,
                "optimiser": self.optimiser.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "pictures": self._pictures,
                "data": self.place.to_dict(),  # of this machine, so in last.pt alone
            }
        save_checkpoint(
            self.run / name,
            Checkpoint(
                model=self.spec.name,
                input_hw=self.recipe.input_hw,
                preprocessing=self.spec.preprocessing,
                weights=self.network.state_dict(),
                metrics=metrics or {},
                training=training,
            ),
        )

    @cached_property
    def _pictures(self) -> str:
        """A fingerprint of the pictures for training and validation, by name and content."""
        digest = hashlib.sha256()
        for sample in (*self.samples, *self.validation):
            digest.update(sample.name.encode() + sample.image.tobytes() + sample.mask.tobytes())
        return digest.hexdigest()

    def _write_log(self) -> None:
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        with suppress(OSError):  # a full disk must not end a training run over its log
            write_text(self.run / "log.csv", text.getvalue())
