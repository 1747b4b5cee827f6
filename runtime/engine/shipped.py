"""The engines that come with sdi, by name."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["ShippedEngine", "default_engine", "find_engine", "shipped_engines"]

_FOLDER = Path(__file__).parent.parent / "shipped"


@dataclass(frozen=True)
class ShippedEngine:
    """One engine of the package.

    Attributes:
        name: what `--engine` takes.
        scores: S, maxF and MAE on SD-saliency-900's 360 test pictures, of 8-bit maps at the pictures' own size.
    """

    name: str
    path: Path
    scores: dict[str, float]


@cache
def shipped_engines() -> tuple[ShippedEngine, ...]:
    """All of them, the default first."""
    listed = json.loads((_FOLDER / "shipped.json").read_text())
    return tuple(ShippedEngine(item["name"], _FOLDER / item["file"], item["scores"]) for item in listed)


def default_engine() -> Path:
    """What runs where no engine is named."""
    return shipped_engines()[0].path


def find_engine(engine: Path | str) -> Path:
    """The file that is meant: a path, or the name of a shipped engine where no file is called so."""
    path = Path(engine)
    if not os.path.exists(path):  # Path's own raises for a name that no file can have
        for shipped in shipped_engines():
            if str(engine) == shipped.name:
                return shipped.path
    return path
