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
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        wrong = [name for name in ("epochs", "batch_size", "learning_rate") if not getattr(self, name) > 0]
        if wrong:
            raise InputError(f"{', '.join(wrong)} must be greater than 0")
        if min(self.input_hw) < 32 or any(side % 32 for side in self.input_hw):
            raise InputError(f"the input size must be a multiple of 32, got {self.input_hw[0]}x{self.input_hw[1]}")

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
