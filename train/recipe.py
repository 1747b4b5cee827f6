"""How a network is trained: every number that decides the result, in one frozen value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sdi.runtime.errors import InputError
from sdi.train.augment import Augmentation

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Optimiser (AdamW), schedule (linear warm-up, then half a cosine to zero), sizes and augmentation."""

    learning_rate: float  # greatest value, reached after the warm-up
    input_hw: tuple[int, int]
    epochs: int = 60
    batch_size: int = 8
    weight_decay: float = 1e-4
    warmup: float = 0.05  # share of all steps
    seed: int = 0
    validation: str = "0.1"  # what chooses best.pt: a share of the training pictures, "test" or "none"
    evaluate_every: int = 5  # epochs
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        wrong = [
            name for name in ("epochs", "batch_size", "learning_rate", "evaluate_every") if not getattr(self, name) > 0
        ]
        if wrong:
            raise InputError(f"{', '.join(wrong)} must be greater than 0")
        if min(self.input_hw) < 32 or any(side % 32 for side in self.input_hw):
            raise InputError(f"the input size must be a multiple of 32, got {self.input_hw[0]}x{self.input_hw[1]}")

        if self.validation not in ("test", "none"):
            try:
                share = float(self.validation)
            except ValueError:
                share = 0.0
            if not 0 < share < 1:
                raise InputError(f"--val takes a share between 0 and 1, 'test' or 'none'; got '{self.validation}'")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {**asdict(self), "input_hw": list(self.input_hw)}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`. Raises InputError on a field that does not exist."""
        known = {f.name for f in fields(Recipe)}
        if set(value) - known:
            raise InputError(f"unknown recipe field {sorted(set(value) - known)}; known: {sorted(known)}")
        augmentation = Augmentation(**value["augmentation"])
        return Recipe(**{**value, "input_hw": tuple(value["input_hw"]), "augmentation": augmentation})
