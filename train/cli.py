"""`sdi-train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdi.runtime.common.console import log, out, print_json, run_app, single_command

if TYPE_CHECKING:
    from sdi.train.run import Outcome

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
    trust_masks: Annotated[
        bool,
        typer.Option(
            "--trust-masks",
            help="Take masks that mark more than half of all pixels, or none, which are refused otherwise.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    mm_per_pixel: Annotated[
        float | None,
        typer.Option(
            help="Scale of the pictures: with it, sdi-run --mm-per-pixel shows the network steel at this scale, "
            "whatever the camera's.",
            rich_help_panel=_DATA,
        ),
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
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate, after the warm-up.", rich_help_panel=_RECIPE)
    ] = None,
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
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write TensorBoard's files into the run's folder as well: tensorboard --logdir RUN.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train a saliency network on pictures and masks.

    Writes last.pt (for --resume), best.pt (for sdi-export) and log.csv into the run folder, and two pictures to watch:
    curves.png, drawn anew every half a minute, and first-batches.png, which shows whether the masks are right. Ctrl-C
    saves and leaves; `sdi-train --resume RUN` goes on from the very step.

    Examples:

      sdi-train --model minet --recipe quick --data SD-saliency-900

      sdi-train --model tsernet --data SD-saliency-900 --devices 4 --precision bf16-mixed

      sdi-train --model minet --recipe quick --init default --images own/images --masks own/masks --lr 1e-3

      sdi-train --model tsernet-xs --recipe quick --images steel/images --masks steel/masks --set ema=0.999

      sdi-train --model minet --recipe quick --data SD-saliency-900 --teacher tsernet-lite

      sdi-train --qat runs/minet/first/best.pt --data SD-saliency-900
    """
    from sdi.runtime.common.progress import ConsoleProgress
    from sdi.train.devices import Devices
    from sdi.train.observers import Board, Display, FirstBatches, Plot
    from sdi.train.plan import TrainOptions, plan_training
    from sdi.train.run import run_training
    from sdi.train.splits import DataLocation

    fields = {
        "validation": val,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch,
        "accumulate": accumulate,
        "learning_rate": lr,
        "input_hw": None if size is None else (size, size),
        "precision": precision,
        "seed": seed,
        "evaluate_every": evaluate_every,
    }
    folder = None if images or masks else data  # SDI_DATA may be set as well
    plan = plan_training(
        TrainOptions(
            model=model,
            data=DataLocation(folder, images, masks, layout, mm_per_pixel),
            recipe=recipe,
            fields={name: value for name, value in fields.items() if value is not None},
            settings=tuple(settings or ()),
            pretrained=pretrained,
            init=init,
            teachers=tuple(teacher or ()),
            qat=qat,
            qat_keep=tuple(qat_keep or ()),
            resume=resume,
            output=output,
            compiled=compiled,
            trust_masks=trust_masks,
        )
    )
    observers = [Display(), Plot(), FirstBatches(), *([Board()] if tensorboard else ())]
    outcome = run_training(plan, Devices(device, devices, threads), limit_steps, ConsoleProgress(), observers)
    if outcome.is_main:
        _report(outcome, json)
        if outcome.interrupted:
            raise typer.Exit(130)


def _report(outcome: Outcome, json: bool) -> None:
    run = outcome.run
    if not outcome.finished:
        log.print(f"stopped at step {outcome.step} of {outcome.steps}; go on with: sdi-train --resume {run}")
    if json:
        print_json({"run": str(run), "finished": outcome.finished, "step": outcome.step, "best_S": outcome.best})
        return
    out.print(outcome.checkpoint)
    if outcome.finished:
        log.print(f"next: sdi-export --model {outcome.model} --checkpoint {outcome.checkpoint}")


def main() -> None:
    """Entry point of `sdi-train`."""
    run_app(single_command(train_command))
