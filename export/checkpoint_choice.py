"""Which checkpoint is meant when none is named."""

from __future__ import annotations

from pathlib import Path

from sdi.runtime.common.errors import InputError
from sdi.train.checkpoint import shipped_checkpoint
from sdi.train.models import known_models, model_spec

__all__ = ["choose_checkpoint"]


def choose_checkpoint(model: str | None, checkpoint: Path | None, runs: Path = Path("runs")) -> tuple[Path, str]:
    """Find the checkpoint to export.

    Returns:
        (checkpoint, why this one): the named one, else the newest of `runs/MODEL/*/best.pt`, else the shipped one.
    Raises:
        InputError: neither model nor checkpoint is given, the model is unknown, or there is no checkpoint.
    """
    if checkpoint is not None:
        return checkpoint, "named on the command line"
    if model is None:
        raise InputError(f"give --model NAME or --checkpoint FILE; models: {known_models()}")
    model_spec(model)
    found = sorted((runs / model).glob("*/best.pt"), key=lambda path: path.stat().st_mtime)
    if found:
        return found[-1], f"newest of {len(found)} under {runs / model}"
    shipped = shipped_checkpoint(model)
    if shipped is not None:
        return shipped, "comes with sdi"
    raise InputError(
        f"no checkpoint of {model}: none at {runs / model}/*/best.pt and sdi ships none. Train one: "
        f"sdi-train --model {model} --data DIR; or convert a published one: sdi-import --model {model} FILE "
        f"-o {model}.pt; or, for timing alone, --random-weights"
    )
