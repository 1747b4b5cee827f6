"""`sdi-train`."""

from __future__ import annotations

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
    from sdi.train.data import Pair
    from sdi.train.models import SaliencyNetwork
    from sdi.train.recipe import Recipe
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

    from sdi.train.checkpoint import load_checkpoint

    if threads:
        torch.set_num_threads(threads)
    before: Checkpoint | None = None
    if resume is not None:
        fixed: dict[str, Any] = {
            "model": model,
            "val": val,
            "epochs": epochs,
            "batch": batch,
            "lr": lr,
            "size": size,
            "seed": seed,
        }
        fixed |= {"evaluate-every": evaluate_every, "output": output}
        if given := [f"--{name}" for name, value in fixed.items() if value is not None]:
            named = ", ".join(given)
            raise InputError(f"--resume takes the recipe and the folder from the run; leave out {named}")
        run = resume if resume.is_dir() else resume.parent
        before = load_checkpoint(run / "last.pt" if resume.is_dir() else resume)
        model = before.model
    elif model is None:
        from sdi.train.models import model_names

        raise InputError(f"choose a network with --model: {', '.join(model_names())}")
    else:
        run = output or Path("runs") / model / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        if (run / "last.pt").exists():
            raise InputError(f"{run} holds a run already; go on with --resume {run} or choose another -o")
    given_recipe = {
        "epochs": epochs,
        "batch_size": batch,
        "learning_rate": lr,
        "seed": seed,
        "validation": val,
        "evaluate_every": evaluate_every,
    }
    recipe = _recipe(model, before, (size, size) if size else None, given_recipe)
    train_pairs, val_pairs, test_pairs = _choose_pairs(data, images, masks, recipe)
    trainer = _build(model, recipe, before, train_pairs, val_pairs, test_pairs, run, pretrained, device)
    _announce(trainer, bool(test_pairs))
    finished, interrupted = _fit(trainer, limit_steps)
    _report(trainer, finished, json)
    if interrupted:
        raise typer.Exit(130)


def _recipe(model: str, before: Checkpoint | None, size_hw: tuple[int, int] | None, given: dict[str, Any]) -> Recipe:
    """The recipe of the run to resume, or the model's own with what was given on the command line (not None)."""
    from sdi.train.models import model_spec
    from sdi.train.recipe import Recipe

    if before is not None:
        if "recipe" not in before.training:
            raise InputError("the checkpoint to resume was not trained by sdi-train; resume from a run's last.pt")
        return Recipe.from_dict(before.training["recipe"])
    spec = model_spec(model)
    recipe = Recipe(learning_rate=spec.learning_rate, input_hw=size_hw or spec.input_hw)
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def _choose_pairs(
    data: Path | None, images: Path | None, masks: Path | None, recipe: Recipe
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Pairs to train on, to validate on, and the untouched test pairs (to check that none leaks)."""
    from sdi.train.data import find_pairs, hold_out

    if images is not None or masks is not None:
        data = None  # SDI_DATA may be set; folders given by hand win
    has_splits = data is not None and (data / "train.txt").is_file()
    pairs = find_pairs(data, "train" if has_splits else None, images=images, masks=masks)
    test = find_pairs(data, "test") if has_splits and data is not None and (data / "test.txt").is_file() else []
    if recipe.validation == "none":
        return pairs, [], test
    if recipe.validation == "test":
        if not test:
            raise InputError("--val test needs --data with a test.txt; use a share, e.g. --val 0.1")
        return pairs, test, []
    kept, held = hold_out(pairs, float(recipe.validation), recipe.seed)
    return kept, held, test


def _build(
    model: str,
    recipe: Recipe,
    before: Checkpoint | None,
    train_pairs: list[Pair],
    val_pairs: list[Pair],
    test_pairs: list[Pair],
    run: Path,
    pretrained: bool,
    device: str,
) -> Trainer:
    import torch

    from sdi.train.backbone import load_pretrained
    from sdi.train.data import load_samples
    from sdi.train.models import build_model, model_spec
    from sdi.train.trainer import Trainer

    leaked = {p.name for p in train_pairs} & ({p.name for p in test_pairs} | {p.name for p in val_pairs})
    if leaked:
        raise InputError(f"{len(leaked)} pictures are both trained and evaluated on: {', '.join(sorted(leaked)[:8])}")
    samples, validation = load_samples(train_pairs), load_samples(val_pairs)
    torch.manual_seed(recipe.seed)
    network: SaliencyNetwork = build_model(model)
    backbone = model_spec(model).backbone
    if before is None and backbone and pretrained:
        load_pretrained(network, backbone)
    elif before is None and backbone:
        warn(f"{model} starts from random weights (--no-pretrained)")
    ensure_folder(run)
    trainer = Trainer(model, network, recipe, samples, validation, run, accelerator=device)
    if before is not None:
        trainer.resume(before)
    return trainer


def _announce(trainer: Trainer, untouched: bool) -> None:
    recipe = trainer.recipe
    log.print(
        f"{trainer.spec.name} {recipe.input_hw[0]}x{recipe.input_hw[1]} on {trainer.fabric.device}: "
        f"{len(trainer.samples)} pictures, {len(trainer.validation)} to validate (--val {recipe.validation})"
        f"{', test split untouched' if untouched else ''}; "
        f"{recipe.epochs} epochs of {trainer.steps_per_epoch} steps, batch {recipe.batch_size}; run {trainer.run}"
    )
    if trainer.step:
        log.print(f"resumed at step {trainer.step} of {trainer.steps}")


def _fit(trainer: Trainer, limit_steps: int | None) -> tuple[bool, bool]:
    """Train under a progress display. Returns (recipe finished, interrupted by a signal)."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from sdi.train.trainer import Progress

    signals: list[int] = []
    handlers = {s: signal.signal(s, lambda number, _: signals.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
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
