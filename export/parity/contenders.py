"""Contenders: the engine files, and the deploy form, that are held against a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from sdi.export.feed import Feed
from sdi.export.parity.runners import Runner, rounder_from_onnx, runner_from_module
from sdi.export.parity.tolerances import TOLERANCES
from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.manifest import Manifest, manifest_path, read_manifest, verify_file
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import find_engine
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.engine_module import EngineModule
from sdi.train.models.deploy import deploy_form

__all__ = ["Contender", "deploy_contender", "open_contender", "open_contenders"]


@dataclass
class Contender:
    """One runner of the network, open."""

    name: str
    kind: str  # "deploy", "onnx" or "engine", a plan
    precision: str
    file: Path | None
    sha256: str | None
    feed: Feed
    run: Runner | None  # None: it cannot run here
    rounder: Runner | None = None  # its own last part, from probabilities to gray levels, where that can be had
    checkpoint_sha256: str | None = None  # that it was exported from
    unavailable: str | None = None  # why it cannot run here
    rounded: bool = False  # its maps come as 8 bits
    notes: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None


def open_contenders(
    files: Sequence[Path], checkpoint: Checkpoint, checkpoint_file: Path, *, deploy: bool = False, device: str = "cpu"
) -> list[Contender]:
    """The deploy form, where it is asked for, and an engine from each file or shipped name; see `open_contender`.

    Raises:
        InputError: nothing to compare, or a file given twice.
    """
    if not files and not deploy:
        raise InputError("nothing to compare: give --engine FILE, several times if need be, or --deploy")
    files = [find_engine(path) for path in files]
    if len({path.resolve() for path in files}) < len(files):
        raise InputError("an engine is given twice; expected each --engine once")
    contenders = [deploy_contender(checkpoint)] if deploy else []
    contenders += [open_contender(path, checkpoint, checkpoint_file, device) for path in files]
    names = [contender.name for contender in contenders]
    for contender in contenders:
        if names.count(contender.name) > 1:  # of two folders
            contender.name = str(contender.file)
    return contenders


def deploy_contender(checkpoint: Checkpoint) -> Contender:
    """The network as it is exported, batch norm folded and training heads dropped, still in PyTorch."""
    network = deploy_form(load_network(checkpoint))
    module = EngineModule(network, checkpoint.preprocessing, checkpoint.input_hw, raw=True)
    return Contender("deploy form", "deploy", "fp32", None, None, Feed(checkpoint.input_hw), runner_from_module(module))


def open_contender(path: Path, checkpoint: Checkpoint, checkpoint_file: Path, device: str = "cpu") -> Contender:
    """An engine as its manifest describes it: an ONNX file with its raw twin, or a plan.

    Args:
        device: for ONNX files, "cpu" or "cuda". Plans run on a GPU; where none is, or the library for it is not, the
            contender is `unavailable`.
    Raises:
        InputError: no engine of ours, damaged, of another network, of other preprocessing or of an unknown precision.
    """
    manifest = read_manifest(path)
    if manifest is None or manifest.target == "onnx":
        return _onnx_contender(path, _checked(path, manifest, checkpoint, checkpoint_file), device)
    return _plan_contender(path, _checked(path, manifest, checkpoint, checkpoint_file))


def _checked(path: Path, manifest: Manifest | None, checkpoint: Checkpoint, checkpoint_file: Path) -> Manifest:
    if manifest is None:
        if not path.is_file():
            raise InputError(f"no such engine: {path}; make one with sdi-export")
        raise InputError(
            f"no manifest beside {path}: its precision is unknown; copy {manifest_path(path).name} too, or export it "
            "again with sdi-export"
        )
    if not path.is_file():
        raise InputError(f"no such engine: {path}, though its manifest is there; copy it again")
    verify_file(path, manifest)
    if manifest.precision not in TOLERANCES:
        raise InputError(f"{path} is of precision '{manifest.precision}'; bounds are known for {', '.join(TOLERANCES)}")
    if manifest.model != checkpoint.model:
        raise InputError(
            f"{checkpoint_file} holds {checkpoint.model}, not {manifest.model}, which {path} is an engine of; give the "
            "checkpoint that it was exported from"
        )
    if manifest.preprocessing != checkpoint.preprocessing.to_dict():
        raise InputError(
            f"{path} preprocesses by {manifest.preprocessing}, {checkpoint_file} by others; export it again"
        )
    if manifest.network_hw != checkpoint.input_hw:
        raise InputError(
            f"{path} runs at {manifest.network_hw}, {checkpoint_file} was trained at {checkpoint.input_hw} (height, "
            "width); export it again"
        )
    return manifest


def _onnx_contender(path: Path, manifest: Manifest, device: str) -> Contender:
    try:
        model = onnx.load(path)
    except Exception as error:  # of protobuf, in several kinds
        raise InputError(f"{path} is no ONNX file: {error}; export it again") from error
    batch, frame_hw, planar = manifest.batch, manifest.frame_hw, manifest.face == "planar"
    feed = Feed(frame_hw, batch, planar)
    _check_frame(path, model, feed)
    contender = Contender(
        path.name, "onnx", manifest.precision, path, manifest.sha256, feed, feed.runner(model, device)
    )
    if not planar:
        contender.rounder = rounder_from_onnx(model)
    contender.notes += manifest.notes
    contender.checkpoint_sha256 = manifest.checkpoint_sha256
    return contender


def _check_frame(path: Path, model: onnx.ModelProto, feed: Feed) -> None:
    """The graph's one input is what the manifest says."""
    found = {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    height, width = feed.frame_hw or (None, None)
    wanted = [feed.batch, 3, height, width] if feed.planar else [feed.batch, height, width, 3]
    if found != {"frame": wanted}:
        raise InputError(f"{path} takes {found}, its manifest says frame {wanted} (None: any); export it again")


def _plan_contender(path: Path, manifest: Manifest) -> Contender:
    contender = Contender(
        path.name, "engine", manifest.precision, path, manifest.sha256, Feed(manifest.frame_hw, manifest.batch), None
    )
    contender.rounded = True
    contender.checkpoint_sha256 = manifest.checkpoint_sha256
    contender.notes += manifest.notes
    try:
        engine = open_engine(path)
    except DeviceError as error:
        contender.unavailable = (
            f"{error}. Where its GPU is: sdi-parity --self-test --engine {path.name}, without PyTorch; or this "
            "comparison, with it"
        )
        return contender
    contender.run, contender.close = _probabilities(engine), engine.close
    return contender


def _probabilities(engine: Engine) -> Runner:
    def run(frames: np.ndarray) -> np.ndarray:
        filled = np.repeat(frames, engine.batch, axis=0) if engine.batch else frames
        return engine.execute(filled)[: len(frames)].astype(np.float32) / 255

    return run
