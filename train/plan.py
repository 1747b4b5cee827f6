"""What `sdi-train` is asked to do, and the plan that follows from it: decided before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sdi.runtime.common.errors import InputError
from sdi.train.checkpoint import Checkpoint, load_checkpoint
from sdi.train.models import known_models
from sdi.train.recipe import Recipe, parse_settings
from sdi.train.splits import DataLocation
from sdi.train.start import recipe_for_int8, recipe_of_model, starting_point

__all__ = ["RECIPE_FLAGS", "TrainOptions", "TrainingPlan", "plan_training"]

# Recipe fields that have a flag of their own.
RECIPE_FLAGS = {
    "validation": "--val",
    "epochs": "--epochs",
    "steps": "--steps",
    "batch_size": "--batch",
    "accumulate": "--accumulate",
    "learning_rate": "--lr",
    "input_hw": "--size",
    "precision": "--precision",
    "seed": "--seed",
    "evaluate_every": "--evaluate-every",
}


@dataclass(frozen=True)
class TrainOptions:
    """Options of `sdi-train` that decide what is trained, under their names; None or empty: not given."""

    model: str | None = None
    data: DataLocation = field(default_factory=DataLocation)
    recipe: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)  # of `RECIPE_FLAGS`, those that are given
    settings: tuple[str, ...] = ()  # of --set, FIELD=VALUE
    pretrained: bool = True
    init: str | None = None
    teachers: tuple[str, ...] = ()
    qat: str | None = None
    qat_keep: tuple[str, ...] = ()
    resume: Path | None = None
    output: Path | None = None
    compiled: bool = False
    trust_masks: bool = False

    def changes(self) -> dict[str, Any]:
        """Recipe fields with their values, from flags and from --set.

        Raises:
            InputError: a field is given twice, unknown, or of the wrong type.
        """
        changes = dict(self.fields)
        for name, value in parse_settings(self.settings).items():
            if name in changes:
                raise InputError(f"--set {name} and {RECIPE_FLAGS[name]} say the same; give one of them")
            changes[name] = value
        return changes


@dataclass(frozen=True)
class TrainingPlan:
    """One training: the network, its recipe, its pictures, what it starts from and where the run is written."""

    model: str
    recipe: Recipe
    data: DataLocation
    run: Path  # folder
    start: Checkpoint | None = None  # whose weights it starts from; None: fresh ones
    resumed: bool = False  # `start` is the run's own last.pt, and training goes on at its step
    pretrained: bool = True  # of fresh weights: ImageNet's for the encoder
    for_int8: bool = False
    keep: tuple[str, ...] = ()  # layers that training for INT8 leaves in high precision
    teachers: tuple[str, ...] = ()  # checkpoints, or names of networks that come with sdi
    compiled: bool = False
    trust_masks: bool = False  # they may mark more than half of all pixels, or none
    default_recipe: bool = False  # nobody chose a recipe

    def __post_init__(self) -> None:
        if self.for_int8 and self.compiled:
            raise InputError(
                "--compile cannot be had in training for INT8, which runs the network operator by operator"
            )

    @property
    def before(self) -> Checkpoint | None:
        """What the run is resumed from."""
        return self.start if self.resumed else None


def plan_training(options: TrainOptions) -> TrainingPlan:
    """Decide what is trained.

    Raises:
        InputError: options that contradict each other, an unknown network or recipe, a checkpoint that is of no use,
            or a run folder that is taken.
    """
    changes = options.changes()
    if options.qat_keep and options.qat is None:
        raise InputError("--qat-keep needs --qat CHECKPOINT")
    if options.resume is not None:
        return _resumed(options, options.resume)
    if options.model is None and options.qat in (None, "default"):
        raise InputError(f"choose a network with --model: {known_models()}")
    if options.init and options.qat:
        raise InputError("--init and --qat both say what to start from; give one of them")
    start = None
    if named := options.init or options.qat:
        start = starting_point(options.model, named, "--qat" if options.qat else "--init")
    model = options.model if start is None else start.model
    assert model is not None  # --qat FILE knows its own
    if start is not None and options.qat:
        recipe = recipe_for_int8(start, options.recipe, changes)
    else:
        recipe = recipe_of_model(model, options.recipe, changes)
    data = options.data
    if start is not None and options.qat and data.mm_per_pixel is None:  # the same steel, a few epochs more
        data = replace(data, mm_per_pixel=start.mm_per_pixel)
    run = options.output or Path("runs") / model / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if any((run / name).exists() for name in ("last.pt", "best.pt")):
        raise InputError(f"{run} holds a run already; go on with --resume {run} or choose another -o")
    return TrainingPlan(
        model,
        recipe,
        data,
        run,
        start,
        pretrained=options.pretrained,
        for_int8=options.qat is not None,
        keep=options.qat_keep,
        teachers=options.teachers,
        compiled=options.compiled,
        trust_masks=options.trust_masks,
        default_recipe=options.recipe is None and options.qat is None,
    )


def _resumed(options: TrainOptions, resume: Path) -> TrainingPlan:
    """Recipe and folder are the run's own, and its data too, unless it was moved."""
    others = {
        "--set": options.settings,
        "--recipe": options.recipe,
        "--output": options.output,
        "--init": options.init,
        "--qat": options.qat,
        "--teacher": options.teachers,
    }
    given = [flag for name, flag in RECIPE_FLAGS.items() if name in options.fields]
    if fixed := [*given, *(flag for flag, value in others.items() if value)]:
        raise InputError(f"--resume takes recipe and folder from the run; leave out {', '.join(fixed)}")
    before = load_checkpoint(resume / "last.pt" if resume.is_dir() else resume, options.model)
    if "recipe" not in before.training:
        raise InputError("the checkpoint to resume was not trained by sdi-train; resume from a run's last.pt")
    data = options.data
    known = DataLocation.from_dict(before.training.get("state", {}).get("data", {}))
    scale = data.mm_per_pixel or known.mm_per_pixel
    if not (data.images or data.masks) and known.folders() and all(folder.is_dir() for folder in known.folders()):
        data = known
    data = replace(data, mm_per_pixel=scale)
    return TrainingPlan(
        before.model,
        Recipe.from_dict(before.training["recipe"]),
        data,
        resume if resume.is_dir() else resume.parent,
        before,
        resumed=True,
        for_int8="qat" in before.training,
        compiled=options.compiled,
        trust_masks=True,  # they were judged when the run began
    )
