"""Distillation: the maps of trained networks are mixed into the truth.

Source: Hinton et al., Distilling the knowledge in a neural network, 2015; here on maps, whose soft values are
probabilities already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import sha256_of
from sdi.train.checkpoint import load_checkpoint, load_network, shipped_checkpoint
from sdi.train.engine_module import EngineModule

__all__ = ["Teachers"]


class Teachers(nn.Module):
    """The mean map of one or several trained networks of any kind, each with its own preprocessing.

    They see what the student sees, augmented, at the student's size, so that their maps differ in every epoch.

    Args:
        named: checkpoints, or names of networks whose checkpoint comes with sdi.
    Raises:
        InputError: a file that is no checkpoint, or none at all.
    """

    def __init__(self, named: Sequence[Path | str]) -> None:
        super().__init__()
        paths = [_file(name) for name in named]
        checkpoints = [load_checkpoint(path) for path in paths]
        self.files = {str(path.resolve()): sha256_of(path) for path in paths}
        self.teachers = nn.ModuleList(
            EngineModule(load_network(c), c.preprocessing, c.input_hw, raw=True, resizes=False) for c in checkpoints
        )
        self.requires_grad_(False)

    @staticmethod
    def again(files: Mapping[str, str]) -> Teachers:
        """Those of an earlier part of a training.

        Args:
            files: what `files` was then.
        Raises:
            InputError: one is gone, or another one by now.
        """
        for file, digest in files.items():
            path = Path(file)
            if not path.is_file() or sha256_of(path) != digest:
                what = "is another one now" if path.is_file() else "is gone"
                raise InputError(f"the teacher {path} {what}; put it back to resume, or begin a new run")
        return Teachers(list(files))

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 BGR -> (N, 1, H, W) float32 probabilities."""
        return torch.stack([teacher(frames) for teacher in self.teachers]).mean(dim=0)[:, None]


def _file(named: Path | str) -> Path:
    path = Path(named)
    return path if path.exists() else shipped_checkpoint(str(named)) or path
