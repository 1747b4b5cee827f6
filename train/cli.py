"""`sdi-train`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdi.runtime.common.console import log, out, print_json, run_app, single_command
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import ensure_folder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from sdi.train.checkpoint import Checkpoint
    from sdi.train.splits import Splits
    from sdi.train.trainer import Trainer

__all__ = ["main"]

_DATA = "Data"
_RECIPE = "Recipe (what is not given comes from --recipe)"
_RUN = "Run"


def train_command(
    model: Annotated[str | None, typer.Option(help="Network to train, e.g. minet, tsernet, tsernet-xs.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="SDI_DATA",
            help="Folder in the layout of SD-saliency-900 ('Source Images', 'Ground truth', train.txt, test.txt) or "
            "of ORSSD and EORSSD (train-images, train-labels, test-images, test-labels).",
            rich_help_panel=_DATA,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="sd-saliency-900 or orssd; by default the one that --data fits.", rich_help_panel=_DATA),
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
    recipe: Annotated[
        str | None,
        typer.Option(
            help="'paper' trains as the network's authors did, for a GPU (default where there is a paper); 'quick' is "
            "AdamW over 60 epochs, most of them on small pictures, for a CPU and for small networks.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures.", rich_help_panel=_RECIPE)] = None,
    steps: Annotated[
        int | None, typer.Option(help="Length in steps of the optimiser, instead of --epochs.", rich_help_panel=_RECIPE)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Pictures a step, over all devices.", rich_help_panel=_RECIPE)
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Compute each batch in N parts, one after the other, to save memory (default 1).",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Greatest learning rate.", rich_help_panel=_RECIPE)] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the square input, a multiple of 16; a recipe's crop is scaled with it.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="32, 16-mixed or bf16-mixed; losses stay in 32.", rich_help_panel=_RECIPE)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", rich_help_panel=_RECIPE)] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="Evaluate each N epochs.", rich_help_panel=_RECIPE)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Any other field, e.g. ema=0.999, optimiser=sgd, augmentation.rotation=10; can be repeated. A wrong "
            "name lists them all.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--no-pretrained",
            help="Start from torchvision's ImageNet weights of the backbone, or from random ones.",
            rich_help_panel=_RECIPE,
        ),
    ] = True,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from the weights of this checkpoint of the same network, or of the one that comes with sdi: "
            "'default'.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Distil: the maps of this checkpoint (or of a network that comes with sdi, e.g. tsernet-lite) stand "
            "beside the masks; may be repeated, for their mean. How much they count: --set distil=0.5.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    qat: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Train this checkpoint (or 'default') for INT8: a few epochs at a low rate, in which the network "
            "computes as sdi-export --int8 makes it. For networks that lose too much in INT8 otherwise.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    qat_keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER",
            help="With --qat: a convolution, as sdi-export names it, that stays in high precision; can be repeated.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run folder (or its last.pt) to take up exactly where it stopped.", rich_help_panel=_RUN),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Run folder; default runs/MODEL/DATE-TIME.", rich_help_panel=_RUN),
    ] = None,
    limit_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after N steps; --resume goes on.", rich_help_panel=_RUN)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=_RUN)] = "auto",
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="GPUs, or processes on a CPU, that share each batch between them.", rich_help_panel=_RUN
        ),
    ] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the training step (torch.compile).", rich_help_panel=_RUN)
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads a process; default all.", rich_help_panel=_RUN)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train a saliency network on pictures and masks.

    Writes last.pt (for --resume), best.pt (for sdi-export) and log.csv into the run folder. Ctrl-C saves and
    leaves; `sdi-train --resume RUN` goes on from the very step.

    Examples:

      sdi-train --model minet --recipe quick --data SD-saliency-900

      sdi-train --model tsernet --data SD-saliency-900 --devices 4 --precision bf16-mixed

      sdi-train --model minet --recipe quick --init default --images own/images --masks own/masks --lr 1e-3

      sdi-train --model tsernet-xs --recipe quick --images steel/images --masks steel/masks --set ema=0.999

      sdi-train --model minet --recipe quick --data SD-saliency-900 --teacher tsernet-lite

      sdi-train --qat runs/minet/first/best.pt --data SD-saliency-900
    """
    from sdi.train.allocator import keep_freed_memory
    from sdi.train.checkpoint import load_checkpoint
    from sdi.train.data import load_samples
    from sdi.train.devices import one_voice, open_fabric
    from sdi.train.face import Face
    from sdi.train.models import known_models, model_spec
    from sdi.train.recipe import Recipe, parse_settings
    from sdi.train.splits import Place, choose_splits, refuse_leaks
    from sdi.train.start import (
        make_int8,
        network_to_train,
        recipe_for_int8,
        recipe_of_model,
        starting_point,
        teachers_of,
    )
    from sdi.train.trainer import Trainer
    from sdi.train.watch import watch

    flags: dict[str, tuple[str, Any]] = {
        "validation": ("--val", val),
        "epochs": ("--epochs", epochs),
        "steps": ("--steps", steps),
        "batch_size": ("--batch", batch),
        "accumulate": ("--accumulate", accumulate),
        "learning_rate": ("--lr", lr),
        "input_hw": ("--size", None if size is None else (size, size)),
        "precision": ("--precision", precision),
        "seed": ("--seed", seed),
        "evaluate_every": ("--evaluate-every", evaluate_every),
    }
    given = {field: flag for field, (flag, value) in flags.items() if value is not None}
    changes = {field: flags[field][1] for field in given}
    for field, value in parse_settings(settings or []).items():
        if field in given:
            raise InputError(f"--set {field} and {given[field]} say the same; give one of them")
        changes[field] = value
    # SDI_DATA may be set as well.
    place = Place(images=images, masks=masks, layout=layout) if images or masks else Place(data=data, layout=layout)
    before: Checkpoint | None = None
    start: Checkpoint | None = None
    if qat_keep and qat is None:
        raise InputError("--qat-keep needs --qat CHECKPOINT")
    if resume is not None:
        others = {
            "--set": settings,
            "--recipe": recipe,
            "--output": output,
            "--init": init,
            "--qat": qat,
            "--teacher": teacher,
        }
        if fixed := [*given.values(), *(flag for flag, value in others.items() if value)]:
            raise InputError(f"--resume takes recipe and folder from the run; leave out {', '.join(fixed)}")
        before = load_checkpoint(resume / "last.pt" if resume.is_dir() else resume, model)
        if "recipe" not in before.training:
            raise InputError("the checkpoint to resume was not trained by sdi-train; resume from a run's last.pt")
        run = resume if resume.is_dir() else resume.parent
        model, chosen = before.model, Recipe.from_dict(before.training["recipe"])
        known = Place.from_dict(before.training.get("state", {}).get("data", {}))
        if not (images or masks) and known.folders() and all(folder.is_dir() for folder in known.folders()):
            place = known  # else it was moved, and the command line says where to
    elif model is None and qat in (None, "default"):
        raise InputError(f"choose a network with --model: {known_models()}")
    else:
        if init and qat:
            raise InputError("--init and --qat both say what to start from; give one of them")
        if init or qat:
            start = starting_point(model, init or qat or "", "--qat" if qat else "--init")
            model = start.model
        assert model is not None
        chosen = recipe_for_int8(start, recipe, changes) if start and qat else recipe_of_model(model, recipe, changes)
        run = output or Path("runs") / model / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        if any((run / name).exists() for name in ("last.pt", "best.pt")):
            raise InputError(f"{run} holds a run already; go on with --resume {run} or choose another -o")
    for_int8 = qat is not None or (before is not None and "qat" in before.training)
    if for_int8 and compiled:
        raise InputError("--compile cannot be had in training for INT8, which runs the network operator by operator")
    splits = choose_splits(place, chosen.validation, chosen.seed)
    fabric = open_fabric(device, devices, chosen.precision)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    spec = model_spec(model)
    if fabric.device.type == "cpu" and not (before or qat or recipe or spec.trains_on_cpu):
        log.print("training as the paper did, which is meant for a GPU; on a CPU choose --recipe quick")
    _launch(fabric, threads)
    with one_voice(fabric):
        run = fabric.broadcast(run)  # its name may hold the time
        source = before or start
        network = network_to_train(model, source, chosen.seed, fabric, pretrained)
        samples, validation = load_samples(splits.train), load_samples(splits.validation)
        refuse_leaks(samples, validation)
        teachers = teachers_of(teacher, before)
        places, preprocessing = None, spec.preprocessing
        if source is not None and for_int8:
            preprocessing = source.preprocessing  # an author's may be another than we train with
            face = Face(network, preprocessing, chosen.input_hw).to(fabric.device)
            places = make_int8(network, before, samples, validation, face, qat_keep or ())
        ensure_folder(run)
        trainer = Trainer(
            model,
            network,
            chosen,
            samples,
            validation,
            run,
            fabric=fabric,
            compiled=compiled,
            place=place,
            int8=places,
            preprocessing=preprocessing,
            teachers=teachers,
        )
        if before is not None:
            trainer.resume(before)
        _announce(trainer, splits, started=start is not None)
        if for_int8 and validation and not trainer.step:
            log.print(f"in INT8 before training: S {trainer.keep_start()['S']:.4f}; kept as best.pt until it is beaten")
        finished, interrupted = watch(trainer, limit_steps)
    if fabric.is_global_zero:
        _report(trainer, finished, json)
        if interrupted:
            raise typer.Exit(130)


def _launch(fabric: Fabric, threads: int | None) -> None:
    """Start the other processes; all but the first are silent from here on."""
    import logging

    import torch

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric.launch()
    if threads:
        torch.set_num_threads(threads)
    log.quiet = out.quiet = not fabric.is_global_zero


def _announce(trainer: Trainer, splits: Splits, *, started: bool) -> None:
    recipe = trainer.recipe
    devices = trainer.fabric.world_size
    where = f"{devices} x {trainer.fabric.device.type}" if devices > 1 else str(trainer.fabric.device)
    each = trainer.steps_per_epoch
    length = f"{recipe.epochs} epochs of {each} steps" if recipe.epochs else f"{recipe.steps} steps, {each} an epoch"
    test = "test split untouched" if splits.test else "no test split besides"
    log.print(
        f"{trainer.spec.name} {recipe.input_hw[0]}x{recipe.input_hw[1]} on {where}: "
        f"{len(trainer.samples)} pictures, {len(trainer.validation)} to validate (--val {recipe.validation}), {test}; "
        f"{length}, batch {trainer.batches.size}; run {trainer.run}"
    )
    if not trainer.step and not trainer.spec.backbone and not started:
        log.print("it starts from random weights: there are no ImageNet weights for it")
    if trainer.step:
        log.print(f"resumed at step {trainer.step} of {trainer.steps}")


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
