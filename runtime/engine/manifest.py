"""The manifest: what an artefact is, in a JSON file beside it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import sha256_of, write_text

__all__ = ["Manifest", "Profile", "manifest_path", "read_manifest", "refuse_foreign", "verify_file", "write_manifest"]

FORMAT = "sdi-manifest"
FORMAT_VERSION = 1

Profile = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
"""min, opt and max (frames a call, height, width)."""


@dataclass(frozen=True)
class Manifest:
    """All that a reader of the artefact may want to check; plain values only."""

    model: str  # registered name, e.g. "tsernet-xs"
    family: str  # the network it is a variant of
    precision: str  # "fp32", "fp16", "int8"
    target: str  # what runs it: "onnx", "tensorrt", "tensorrt-rtx"
    face: str  # "uint8"; "planar", float32 [N, 3, H, W]; or "raw" with float32 probabilities
    batch: int | None  # None: any
    frame_hw: tuple[int, int] | None  # size of `frame` and `saliency`; None: any
    network_hw: tuple[int, int]  # size the network runs at, inside
    preprocessing: dict[str, Any]  # inside the graph; for the record
    random_weights: bool  # True: for timing alone, its maps mean nothing
    checkpoint_sha256: str | None
    onnx_sha256: str
    bytes: int  # size of the artefact
    sha256: str  # of the artefact
    builder: dict[str, str]  # library name -> version
    golden: dict[str, Any]  # input rule and what the output must be like
    parity: dict[str, float]  # of the ONNX file, against PyTorch, measured before it was kept
    metrics: dict[str, float] = field(default_factory=dict)  # the checkpoint's scores
    calibration: str | None = None  # fingerprint of the calibration set
    high_precision_layers: tuple[str, ...] = ()  # nodes that compute in float32 where the rest does not
    quantisation: dict[str, Any] = field(default_factory=dict)  # of INT8: method, layers kept and why, accuracy
    layers: dict[str, dict[str, float]] = field(default_factory=dict)  # precision -> layers, and share of the MACs
    profile: Profile | None = None  # shapes that a plan takes; None: one
    compute_capabilities: tuple[str, ...] = ()  # GPUs a plan is for: "8.9", or "12.0+" for that and later
    gpu: str | None = None  # the GPU a plan was built on
    build: dict[str, Any] = field(default_factory=dict)  # options of the builder that were asked for
    notes: tuple[str, ...] = ()  # what a user of the file should know
    native_hw: tuple[int, int] | None = None  # steel that it sees at the scale it was trained at, pixels; None: unknown
    mm_per_pixel: float | None = None  # of the pictures it was trained on; None: unknown
    tile_hw: tuple[int, int] | None = None  # windows that the graph cuts frames into; None: frames are seen whole
    overlap: int | None = None  # pixels that they share at least
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


def manifest_path(artefact: Path) -> Path:
    """`dir/minet-fp16.onnx` -> `dir/minet-fp16.onnx.json`, so that a plan of the same name keeps its own."""
    artefact = Path(artefact)
    return artefact.with_name(artefact.name + ".json")


def write_manifest(artefact: Path, manifest: Manifest) -> Path:
    """Write the manifest beside its artefact, whole or not at all."""
    path = manifest_path(artefact)
    write_text(path, json.dumps(asdict(manifest), indent=2) + "\n")
    return path


def read_manifest(artefact: Path) -> Manifest | None:
    """The manifest beside `artefact`; None where there is none.

    Raises:
        InputError: it is there but is no manifest of ours, is newer than this program, or lacks a field.
    """
    path = manifest_path(artefact)
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"manifest {path} cannot be read ({error}); export the engine again") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{path} is not a manifest of sdi; move it away or export the engine again")
    if value.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"manifest {path} has format {value.get('format_version')}, this sdi reads {FORMAT_VERSION}; update sdi"
        )
    known = {f.name: f for f in fields(Manifest)}
    try:
        manifest = Manifest(**{name: _frozen(item) for name, item in value.items() if name in known})
        _check_types(manifest)
    except (TypeError, ValueError) as error:
        raise InputError(f"manifest {path} is damaged ({error}); export the engine again") from error
    return manifest


def refuse_foreign(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file that no manifest of ours lies beside.

    Raises:
        InputError: `path` is such a file and `overwrite` is false.
    """
    if not path.exists() or overwrite:
        return
    try:
        ours = read_manifest(path) is not None
    except InputError:
        ours = False
    if not ours:
        raise InputError(f"{path} exists and has no manifest of sdi; choose another -o or pass --overwrite")


def verify_file(
    artefact: Path, manifest: Manifest, mend: str = "copy both files again or export the engine again"
) -> None:
    """Check the artefact against its manifest, without loading it.

    Args:
        mend: the remedy, for the error text.
    Raises:
        InputError: another size (truncated, or partly copied), other bytes (damaged, or replaced), or unreadable.
    """
    try:
        size = artefact.stat().st_size
        matches = size == manifest.bytes and sha256_of(artefact) == manifest.sha256
    except OSError as error:
        raise InputError(f"cannot read {artefact}: {error.strerror}") from error
    if size != manifest.bytes:
        how = "truncated" if size < manifest.bytes else "another file"
        raise InputError(f"{artefact} has {size} bytes, its manifest says {manifest.bytes}: {how}; {mend}")
    if not matches:
        raise InputError(
            f"{artefact} does not match the SHA-256 in {manifest_path(artefact).name}: it is damaged or was "
            f"replaced; {mend}"
        )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _check_types(manifest: Manifest) -> None:
    for name in ("model", "family", "precision", "target", "face", "onnx_sha256", "sha256"):
        if not isinstance(getattr(manifest, name), str):
            raise ValueError(f"{name} is not a text")
    if not isinstance(manifest.bytes, int) or not isinstance(manifest.random_weights, bool):
        raise ValueError("bytes or random_weights has another type")
    if not (manifest.batch is None or isinstance(manifest.batch, int)):
        raise ValueError("batch is not a number")
    if manifest.profile is not None and not _is_profile(manifest.profile):
        raise ValueError("profile is not three shapes of frames, height and width")
    for name in ("high_precision_layers", "compute_capabilities", "notes"):
        value = getattr(manifest, name)
        if not (isinstance(value, tuple) and all(isinstance(item, str) for item in value)):
            raise ValueError(f"{name} is not a list of texts")
    for name in ("preprocessing", "builder", "golden", "parity", "metrics", "layers", "build", "quantisation"):
        if not isinstance(getattr(manifest, name), dict):
            raise ValueError(f"{name} is not an object")
    if not (manifest.mm_per_pixel is None or _is_length(manifest.mm_per_pixel)):
        raise ValueError("mm_per_pixel is not a length above 0")
    if not (manifest.overlap is None or isinstance(manifest.overlap, int)):
        raise ValueError("overlap is not a number of pixels")
    for name in ("frame_hw", "network_hw", "native_hw", "tile_hw"):
        size = getattr(manifest, name)
        if size is None and name != "network_hw":
            continue
        if not (isinstance(size, tuple) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
            raise ValueError(f"{name} is not a height and a width")


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_profile(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(
            isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
            for shape in value
        )
    )
