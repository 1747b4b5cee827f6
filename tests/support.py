"""What tests of several folders call: installed commands, scripts of workflows, and networks worth comparing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdi.runtime.common.progress import Progress
from sdi.runtime.engine.manifest import Manifest, read_manifest
from sdi.train.checkpoint import Checkpoint, shipped_checkpoint
from sdi.train.models import SaliencyNetwork, build_model, model_spec


class RecordedProgress(Progress):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


NARROW = {"csepnet": 1 / 4, "minet": 1 / 2, "tsernet": 1 / 16, "tsernet-lite": 1 / 2}  # width by family


def command(name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run an installed command as a user does."""
    program = Path(sys.executable).parent / name
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False, cwd=cwd
    )


def shell_scripts(value: Any) -> list[str]:
    """Every shell script in a workflow or an action of GitHub, as YAML gives it."""
    if isinstance(value, dict):
        own = [value["run"]] if isinstance(value.get("run"), str) else []
        return own + [script for key, item in value.items() if key != "run" for script in shell_scripts(item)]
    return [script for item in value for script in shell_scripts(item)] if isinstance(value, list) else []


def manifest_of(engine: Path) -> Manifest:
    """The manifest beside an engine, which must have one."""
    manifest = read_manifest(engine)
    assert manifest is not None
    return manifest


def shipped_weights(model: str) -> Path:
    """The checkpoint that comes with sdi, which must have one of this network."""
    path = shipped_checkpoint(model)
    assert path is not None
    return path


def narrow_network(model: str, seed: int = 0) -> SaliencyNetwork:
    """A registered network a few channels wide: all its parts in a tenth of the time."""
    torch.manual_seed(seed)
    spec = model_spec(model)
    return spec.build(width=NARROW[spec.family])


def lively_checkpoint(model: str, side: int, seed: int = 0) -> Checkpoint:
    """A network whose maps are neither flat nor saturated, so that a comparison can tell something."""
    torch.manual_seed(seed)
    network = enliven(build_model(model))
    return Checkpoint(model, (side, side), model_spec(model).preprocessing, network.state_dict())


def enliven(network: SaliencyNetwork) -> SaliencyNetwork:
    """Give it weights that keep signals alive through all layers, and batch norms that do something; in place."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0, (1 / fan_in) ** 0.5)
    return network


@dataclass(frozen=True)
class ParsedView:
    """What NVIDIA's parser makes of an ONNX file."""

    shapes: dict[str, tuple[int, ...]]  # of inputs and outputs, -1 where free
    kinds: dict[str, str]  # their types, e.g. "UINT8"
    layers: list[str]  # names
    layer_kinds: list[str]  # e.g. "CONVOLUTION"


def nvidia_view(path: Path) -> ParsedView:
    """Parse as TensorRT-RTX does, strongly typed; fails with the parser's own words. Needs no GPU."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return ParsedView(
        {tensor.name: tuple(tensor.shape) for tensor in tensors},
        {tensor.name: tensor.dtype.name for tensor in tensors},
        [layer.name for layer in layers],
        [layer.type.name for layer in layers],
    )
