"""`sdi-train`."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdi.runtime.console import log, out, print_json, run_app, single_command, warn
from sdi.runtime.errors import InputError
from sdi.runtime.files import ensure_folder

if TYPE_CHECKING:
    from sdi.train.checkpoint import Checkpoint
    from sdi.train.models import SaliencyNetwork
    from sdi.train.recipe import Recipe
    from sdi.train.splits import Place, Splits
    from sdi.train.trainer import Trainer

__all__ = ["main"]

_DATA = "Data"
_RECIPE = "Recipe (each model has its own defaults)"
_RUN = "Run"


def train_command(
    model: Annotated[str | None, typer.Option(help="Network to train, e.g. minet, tsernet, tsernet-xs.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="SDI_DATA",
            help="Folder in the SD-saliency-900 layout: 'Source Images', 'Ground truth', train.txt, test.txt.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Instead of --data: folder of pictures.", rich_help_panel=_DATA)
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of masks (0 and 255) with the pictures' stems.", rich_help_panel=_DATA),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            help="What chooses best.pt: a share of the training pictures held out of training (default 0.1); "
            "'none' trains on all and keeps the last epoch; 'test' scores the test split, whose scores are then "
            "no fair measure any more.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures.", rich_help_panel=_RECIPE)] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures a step.", rich_help_panel=_RECIPE)] = None,
    lr: Annotated[float | None, typer.Option(help="Greatest learning rate.", rich_help_panel=_RECIPE)] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the square input, a multiple of 32.", rich_help_panel=_RECIPE)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", rich_help_panel=_RECIPE)] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--no-pretrained",
            help="Start from torchvision's ImageNet weights of the backbone, or from random ones.",
            rich_help_panel=_RECIPE,
        ),
    ] = True,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run folder (or its last.pt) to take up exactly where it stopped.", rich_help_panel=_RUN),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Run folder; default runs/MODEL/DATE-TIME.", rich_help_panel=_RUN),
    ] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="Evaluate each N epochs (default 5).", rich_help_panel=_RECIPE)
    ] = None,
    limit_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after N steps; --resume goes on.", rich_help_panel=_RUN)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=_RUN)] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default all.", rich_help_panel=_RUN)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train a saliency network on pictures and masks.

    Writes last.pt (for --resume), best.pt (for sdi-export) and log.csv into the run folder. Ctrl-C saves and
    leaves; `sdi-train --resume RUN` goes on from the very step.

    Examples:

      sdi-train --model minet --data SD-saliency-900

      sdi-train --model tsernet-xs --images steel/images --masks steel/masks --epochs 100
    """
    import torch

    from sdi.train.checkpoint import load_checkpoint, load_network
    from sdi.train.models import model_names
    from sdi.train.recipe import Recipe
    from sdi.train.splits import Place, choose_splits

    if threads:
        torch.set_num_threads(threads)
    given: dict[str, Any] = {
        "val": val,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "size": size,
        "seed": seed,
        "evaluate-every": evaluate_every,
    }
    given = {name: value for name, value in given.items() if value is not None}
    place = Place(images=images, masks=masks) if images or masks else Place(data=data)  # SDI_DATA may be set as well
    before: Checkpoint | None = None
    if resume is not None:
        fixed = [f"--{name}" for name in given] + ["--model"] * bool(model) + ["--output"] * bool(output)
        if fixed:
            raise InputError(f"--resume takes network, recipe and folder from the run; leave out {', '.join(fixed)}")
        before = load_checkpoint(resume / "last.pt" if resume.is_dir() else resume)
        if "recipe" not in before.training:
            raise InputError("the checkpoint to resume was not trained by sdi-train; resume from a run's last.pt")
        run = resume if resume.is_dir() else resume.parent
        model, recipe = before.model, Recipe.from_dict(before.training["recipe"])
        known = before.training.get("state", {}).get("data", {})
        if not (images or masks) and known and all(Path(folder).is_dir() for folder in known.values()):
            place = Place.from_dict(known)  # else it was moved, and the command line says where to
    elif model is None:
        raise InputError(f"choose a network with --model: {', '.join(model_names())}")
    else:
        recipe = _recipe(model, given)
        run = output or Path("runs") / model / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        if any((run / name).exists() for name in ("last.pt", "best.pt")):
            raise InputError(f"{run} holds a run already; go on with --resume {run} or choose another -o")
    splits = choose_splits(place, recipe.validation, recipe.seed)
    if before is None:
        trainer = _trainer(model, _fresh_network(model, recipe.seed, pretrained), recipe, splits, run, device, place)
    else:
        trainer = _trainer(model, load_network(before), recipe, splits, run, device, place)
        trainer.resume(before)
    _announce(trainer, splits)
    finished, interrupted = _fit(trainer, limit_steps)
    _report(trainer, finished, json)
    if interrupted:
        raise typer.Exit(130)


def _recipe(model: str, given: dict[str, Any]) -> Recipe:
    """The model's own recipe with what was given on the command line."""
    from sdi.train.models import model_spec
    from sdi.train.recipe import Recipe

    spec = model_spec(model)
    fields = {"val": "validation", "batch": "batch_size", "lr": "learning_rate", "evaluate-every": "evaluate_every"}
    changed = {fields.get(name, name): value for name, value in given.items() if name != "size"}
    input_hw = (given["size"],) * 2 if "size" in given else spec.input_hw
    return replace(Recipe(learning_rate=spec.learning_rate, input_hw=input_hw), **changed)


def _fresh_network(model: str, seed: int, pretrained: bool) -> SaliencyNetwork:
    import torch

    from sdi.train.backbone import load_pretrained
    from sdi.train.models import build_model, model_spec

    torch.manual_seed(seed)
    network = build_model(model)
    backbone = model_spec(model).backbone
    if backbone and pretrained:
        load_pretrained(network, backbone)
    elif backbone:
        warn(f"{model} starts from random weights (--no-pretrained)")
    return network


def _trainer(
    model: str, network: SaliencyNetwork, recipe: Recipe, splits: Splits, run: Path, device: str, place: Place
) -> Trainer:
    from sdi.train.data import load_samples
    from sdi.train.splits import refuse_leaks
    from sdi.train.trainer import Trainer

    samples, validation = load_samples(splits.train), load_samples(splits.validation)
    refuse_leaks(samples, validation)
    ensure_folder(run)
    return Trainer(model, network, recipe, samples, validation, run, accelerator=device, place=place)


def _announce(trainer: Trainer, splits: Splits) -> None:
    recipe = trainer.recipe
    test = "test split untouched" if splits.test else "no test split besides"
    log.print(
        f"{trainer.spec.name} {recipe.input_hw[0]}x{recipe.input_hw[1]} on {trainer.fabric.device}: "
        f"{len(trainer.samples)} pictures, {len(trainer.validation)} to validate (--val {recipe.validation}), {test}; "
        f"{recipe.epochs} epochs of {trainer.steps_per_epoch} steps, batch {recipe.batch_size}; run {trainer.run}"
    )
    if not trainer.step and not trainer.spec.backbone:
        log.print("it starts from random weights: there are no ImageNet weights for it")
    if trainer.step:
        log.print(f"resumed at step {trainer.step} of {trainer.steps}")


def _fit(trainer: Trainer, limit_steps: int | None) -> tuple[bool, bool]:
    """Train under a progress display. Returns (recipe finished, interrupted by a signal)."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from sdi.train.trainer import Progress

    signals: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _: Any) -> None:
        signals.append(number)
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

            def report(progress: Progress) -> None:
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


def _report(trainer: Trainer, finished: bool, json: bool) -> None:
    if not finished:
        log.print(f"stopped at step {trainer.step} of {trainer.steps}; go on with: sdi-train --resume {trainer.run}")
    if json:
        best = None if trainer.best == float("-inf") else trainer.best
        print_json({"run": str(trainer.run), "finished": finished, "step": trainer.step, "best_S": best})
        return
    out.print(trainer.run / "best.pt")
    if finished:
        log.print(f"next: sdi-export --model {trainer.spec.name} --checkpoint {trainer.run / 'best.pt'}")


def main() -> None:
    """Entry point of `sdi-train`."""
    run_app(single_command(train_command))
