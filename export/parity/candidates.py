"""Candidates: what a gate judges. They are engine files, and the deploy form of the network in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from sdi.export.network_size import at_network_size
from sdi.export.parity.result import Kind
from sdi.export.parity.tolerances import TOLERANCES
from sdi.export.runners import InputSpec, Runner, rounder_from_onnx, runner_from_module, runner_in_windows
from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.images import resize_image
from sdi.runtime.engine.base import Engine
from sdi.runtime.engine.manifest import Manifest, manifest_path, read_manifest, verify_file
from sdi.runtime.engine.open import open_engine
from sdi.runtime.engine.shipped import find_engine
from sdi.runtime.engine.tiled import run_in_windows
from sdi.runtime.engine.tiling import Grids, Tiling, TrainedScale
from sdi.runtime.engine.windows import WindowGrid
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.engine_module import EngineModule
from sdi.train.models.deploy import deploy_form

__all__ = ["Candidate", "deploy_candidate", "open_candidate", "open_candidates"]


@dataclass(frozen=True)
class Candidate:
    """An open engine, or the deploy form."""

    name: str
    kind: Kind
    precision: str
    spec: InputSpec
    run: Runner | None  # None: it cannot run here
    file: Path | None = None
    sha256: str | None = None
    rounder: Runner | None = None  # its own last part, from probabilities to gray levels, where that can be had
    checkpoint_sha256: str | None = None  # that it was exported from
    unavailable: str | None = None  # why it cannot run here
    rounded: bool = False  # its maps come as 8 bits
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None
    reference: Runner | None = None  # the checkpoint in PyTorch as this file runs it; None: as it was trained
    grids: Grids | None = None  # windows of pictures that are larger than those it was trained on; None: none is cut

    def grid(self, image: np.ndarray) -> WindowGrid | None:
        """The windows in which it is shown a picture; None: whole."""
        return None if self.grids is None else self.grids.of((image.shape[0], image.shape[1]))

    def answer(self, run: Runner, image: np.ndarray) -> np.ndarray:
        """What a runner, its own or the reference, answers to a picture that it is shown as this candidate is.

        Returns:
            (h, w) float32 probabilities: of a whole picture at the engine's frame size, of windows at the picture's.
        """
        grid = self.grid(image)
        if grid is None:
            return run(self.spec.frame(image)[None])[0]
        shown = partial(_shown, run, self.spec)
        return run_in_windows(image, grid, lambda calls: (shown(window) for call in calls for window in call), 1)


def open_candidates(
    files: Sequence[Path],
    checkpoint: Checkpoint,
    checkpoint_file: Path,
    *,
    deploy: bool = False,
    device: str = "cpu",
    tiling: Tiling | None = None,
) -> list[Candidate]:
    """The deploy form, where it is asked for, and an engine from each file or shipped name; see `open_candidate`.

    Args:
        tiling: how pictures are cut that are larger than those of the training; None: not at all.

    Raises:
        InputError: nothing to compare, or a file given twice.
    """
    if not files and not deploy:
        raise InputError("nothing to compare: give --engine FILE, several times if need be, or --deploy")
    files = [find_engine(path) for path in files]
    if len({path.resolve() for path in files}) < len(files):
        raise InputError("an engine is given twice; expected each --engine once")
    candidates = [deploy_candidate(checkpoint)] if deploy else []
    candidates += [open_candidate(path, checkpoint, checkpoint_file, device) for path in files]
    if tiling is not None:
        candidates = [replace(one, grids=Grids(tiling, _scale(one, checkpoint))) for one in candidates]
    names = [candidate.name for candidate in candidates]
    return [  # two of a name are in two folders
        replace(one, name=str(one.file)) if names.count(one.name) > 1 else one for one in candidates
    ]


def deploy_candidate(checkpoint: Checkpoint) -> Candidate:
    """The network as it is exported, batch norm folded and training heads dropped, still in PyTorch."""
    network = deploy_form(load_network(checkpoint))
    module = EngineModule(network, checkpoint.preprocessing, checkpoint.input_hw, raw=True)
    return Candidate("deploy form", "deploy", "fp32", InputSpec(checkpoint.input_hw), runner_from_module(module))


def open_candidate(path: Path, checkpoint: Checkpoint, checkpoint_file: Path, device: str = "cpu") -> Candidate:
    """An engine as its manifest describes it: an ONNX file with its raw twin, or a plan.

    Args:
        device: for ONNX files, "cpu" or "cuda". Plans run on a GPU; where none is, or the library for it is not, the
            candidate is `unavailable`.
    Raises:
        InputError: no engine of ours, damaged, of another network, of other preprocessing or of an unknown precision.
    """
    manifest = read_manifest(path)
    manifest = _checked(path, manifest, checkpoint, checkpoint_file)
    reference = _reference(manifest, checkpoint)
    if manifest.target == "onnx":
        return _onnx_candidate(path, manifest, device, reference)
    return _plan_candidate(path, manifest, reference)


def _shown(run: Runner, spec: InputSpec, window: np.ndarray) -> np.ndarray:
    """The map of one window, at its size."""
    return resize_image(run(spec.frame(window)[None])[0], (window.shape[0], window.shape[1]))


def _scale(candidate: Candidate, checkpoint: Checkpoint) -> TrainedScale:
    manifest = None if candidate.file is None else read_manifest(candidate.file)
    if manifest is None:  # the deploy form
        return TrainedScale(checkpoint.native_hw, checkpoint.mm_per_pixel, checkpoint.input_hw)
    return TrainedScale.of_engine(manifest, candidate.spec.frame_hw)


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
    if manifest.network_hw != checkpoint.input_hw and not _same_scale(manifest, checkpoint):
        raise InputError(
            f"{path} runs at {manifest.network_hw}, {checkpoint_file} was trained at {checkpoint.input_hw} (height, "
            "width); export it again"
        )
    return manifest


def _same_scale(manifest: Manifest, checkpoint: Checkpoint) -> bool:
    """Whether an engine whose network runs at another size sees steel as large as in the training, for sdi-export's
    --network."""
    if manifest.native_hw is None or manifest.tile_hw is not None or checkpoint.native_hw is None:
        return False
    return at_network_size(checkpoint, manifest.network_hw).native_hw == manifest.native_hw


def _reference(manifest: Manifest, checkpoint: Checkpoint) -> Runner | None:
    """The checkpoint as an engine runs it that was exported with windows inside, or with --network."""
    if manifest.tile_hw is None and manifest.network_hw == checkpoint.input_hw:
        return None
    module = EngineModule(load_network(checkpoint), checkpoint.preprocessing, manifest.network_hw, raw=True)
    run = runner_from_module(module)
    if manifest.tile_hw is None or manifest.frame_hw is None:
        return run
    return runner_in_windows(run, WindowGrid(manifest.frame_hw, manifest.tile_hw, manifest.overlap or 0))


def _onnx_candidate(path: Path, manifest: Manifest, device: str, reference: Runner | None) -> Candidate:
    try:
        model = onnx.load(path)
    except Exception as error:  # of protobuf, in several kinds
        raise InputError(f"{path} is no ONNX file: {error}; export it again") from error
    batch, frame_hw, planar = manifest.batch, manifest.frame_hw, manifest.face == "planar"
    spec = InputSpec(frame_hw, batch, planar, fills=manifest.tile_hw is not None)
    _check_frame(path, model, spec)
    return Candidate(
        path.name,
        "onnx",
        manifest.precision,
        spec,
        spec.runner(model, device),
        path,
        manifest.sha256,
        rounder=None if planar else rounder_from_onnx(model),
        checkpoint_sha256=manifest.checkpoint_sha256,
        notes=manifest.notes,
        reference=reference,
    )


def _check_frame(path: Path, model: onnx.ModelProto, spec: InputSpec) -> None:
    """The graph's one input is what the manifest says."""
    found = {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    height, width = spec.frame_hw or (None, None)
    wanted = [spec.batch, 3, height, width] if spec.planar else [spec.batch, height, width, 3]
    if found != {"frame": wanted}:
        raise InputError(f"{path} takes {found}, its manifest says frame {wanted} (None: any); export it again")


def _plan_candidate(path: Path, manifest: Manifest, reference: Runner | None) -> Candidate:
    candidate = Candidate(
        path.name,
        "plan",
        manifest.precision,
        InputSpec(manifest.frame_hw, manifest.batch, fills=manifest.tile_hw is not None),
        None,
        path,
        manifest.sha256,
        checkpoint_sha256=manifest.checkpoint_sha256,
        rounded=True,
        notes=manifest.notes,
        reference=reference,
    )
    try:
        engine = open_engine(path)
    except DeviceError as error:
        reason = (
            f"{error}. Where its GPU is: sdi-parity --self-test --engine {path.name}, without PyTorch; or this "
            "comparison, with it"
        )
        return replace(candidate, unavailable=reason)
    return replace(candidate, run=_probabilities(engine), close=engine.close)


def _probabilities(engine: Engine) -> Runner:
    def run(frames: np.ndarray) -> np.ndarray:
        filled = np.repeat(frames, engine.batch, axis=0) if engine.batch else frames
        return engine.execute(filled)[: len(frames)].astype(np.float32) / 255

    return run
