"""What tests of several folders call: installed commands, and networks worth comparing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from sdi.train.checkpoint import Checkpoint
from sdi.train.models import build_model, model_spec


def command(name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run an installed command as a user does."""
    program = Path(sys.executable).parent / name
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False, cwd=cwd
    )


def lively_checkpoint(model: str, side: int, seed: int = 0) -> Checkpoint:
    """A network whose maps are neither flat nor saturated, so that a comparison can tell something."""
    torch.manual_seed(seed)
    network = build_model(model)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0, (1 / fan_in) ** 0.5)
    return Checkpoint(model, (side, side), model_spec(model).preprocessing, network.state_dict())
