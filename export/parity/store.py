"""The regression store: a folder with one small JSON file for each engine of each release.

A gate compares an engine with its checkpoint; the store, a release with an earlier one, its baseline. Engines compared
are of one model, precision and kind, and were measured on pictures of the same names and sizes at the same threshold.
Keys of the files stay those of their format, whatever the fields here are called.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sdi.export.parity.result import CandidateResult, GateResult, Kind, kind_from_file, kind_in_file
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import ensure_folder, write_text

__all__ = ["Record", "check_release", "last_like", "read_store", "record_of", "save_records"]

FORMAT = "sdi-parity-record"
FORMAT_VERSION = 1
_KEYS = {"metrics": "figures"}  # field -> key in the file
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class Record:
    """What is kept of one engine of one release; plain values alone.

    Attributes:
        latency_ratio: seconds a frame over those of the checkpoint in PyTorch, both medians of the same run.
        pictures_sha256: of their names and sizes.
    """

    release: str
    made: str  # UTC, ISO 8601
    sdi: str
    model: str
    precision: str
    kind: Kind
    file: str | None
    file_sha256: str | None
    checkpoint_sha256: str
    pictures: int
    pictures_sha256: str
    threshold: float
    metrics: Mapping[str, float]
    quantiles: Mapping[str, Mapping[str, float]]
    latency_ratio: float | None
    machine: str
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    @property
    def series(self) -> tuple[str, str, str, str, float]:
        """Records of one series can be compared."""
        return self.model, self.precision, self.kind, self.pictures_sha256, self.threshold

    @property
    def file_name(self) -> str:
        """Of the record in its store."""
        return f"{self.model}-{self.precision}-{kind_in_file(self.kind)}-{self.release}.json"

    def values(self) -> dict[str, float]:
        """Every metric, the ratio of latencies among them."""
        return dict(self.metrics) | ({} if self.latency_ratio is None else {"latency_ratio": self.latency_ratio})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by the keys of the file."""
        value = asdict(self) | {"kind": kind_in_file(self.kind)}
        return {_KEYS.get(name, name): item for name, item in value.items()}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Record:
        """The inverse of `to_dict`, of values that were checked."""
        names = {key: name for name, key in _KEYS.items()}
        given = {names.get(key, key): item for key, item in value.items()}
        return Record(**given | {"kind": kind_from_file(value["kind"])})

    def same_engine_as(self, other: Record) -> bool:
        """Whether both are of one engine on the same pictures; when and how fast it ran may differ."""
        return (self.series, self.file_sha256, self.checkpoint_sha256, self.release) == (
            *(other.series, other.file_sha256, other.checkpoint_sha256, other.release),
        )


def check_release(name: str) -> None:
    """Refuse a release's name that is not made of letters, digits and `._+-`: it becomes part of a file's.

    Raises:
        InputError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"--release {name} cannot be part of a file's name; use letters, digits and ._+-, e.g. 1.4.0")


def record_of(result: GateResult, candidate: CandidateResult, release: str | None = None) -> Record:
    """What is kept of a candidate that was compared.

    Args:
        release: what to call it; None takes the first twelve digits of the file's SHA-256.
    """
    ratio = None
    if candidate.seconds_per_frame and result.reference_seconds_per_frame:
        ratio = candidate.seconds_per_frame / result.reference_seconds_per_frame
    sizes = json.dumps([[picture.name, picture.pixels] for picture in candidate.pictures])
    machine = result.machine
    return Record(
        release=release or (candidate.sha256 or result.checkpoint["sha256"])[:12],
        made=machine["made"],
        sdi=version("sdi"),
        model=result.model,
        precision=candidate.precision,
        kind=candidate.kind,
        file=None if candidate.file is None else Path(candidate.file).name,
        file_sha256=candidate.sha256,
        checkpoint_sha256=result.checkpoint["sha256"],
        pictures=result.pictures,
        pictures_sha256=hashlib.sha256(sizes.encode()).hexdigest(),
        threshold=result.threshold,
        metrics=dict(candidate.metrics),
        quantiles=candidate.quantiles,
        latency_ratio=ratio,
        machine=f"{machine['system']}, {machine['cores']} cores, {machine['device']}",
    )


def save_records(store: Path, records: Sequence[Record]) -> list[Path]:
    """Write records into a store, made if need be; all of them or none. One that is there already is left as it is.

    Raises:
        InputError: two share a name, the store has a record of another engine by that name, or it cannot be written.
    """
    ensure_folder(store)
    names = [record.file_name for record in records]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two engines would be recorded as {twice[0]}; record one of them, or leave out --release")
    fresh = []
    for record in records:
        path = store / record.file_name
        if not path.exists():
            fresh.append(record)
        elif not _read(path).same_engine_as(record):
            raise InputError(
                f"{path} is the record of another engine, or of other pictures; records are never replaced: choose "
                "another --release"
            )
    for record in fresh:
        write_text(store / record.file_name, json.dumps(record.to_dict(), indent=2) + "\n")
    return [store / name for name in names]


def read_store(store: Path) -> list[Record]:
    """Every record of a store, the oldest first; what does not end in .json is none of it.

    Raises:
        InputError: no folder, or a file that is not a record, is damaged or was made by a newer sdi; the text names it.
    """
    try:
        paths = sorted(path for path in store.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read store {store}: {error.strerror}; make one with sdi-parity --record") from error
    return sorted((_read(path) for path in paths), key=lambda record: (record.made, record.release))


def last_like(record: Record, records: Iterable[Record]) -> Record | None:
    """The newest record of the same series; None where there is none.

    One of another engine goes before one of the same: the baseline of a release that is recorded already is the one
    before it, and it is its own only where it is the first.
    """
    like = [other for other in records if other.series == record.series]
    return max(like, key=lambda other: (not other.same_engine_as(record), other.made), default=None)


def _read(path: Path) -> Record:
    mend = "move it out of the store, or restore it"
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read record {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"record {path} is no JSON ({error}); {mend}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{path} is not a record of sdi-parity; {mend}")
    if value.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"record {path} has format {value.get('format_version')}, this sdi reads {FORMAT_VERSION}; update sdi"
        )
    problem = _problem(value)
    if problem:
        raise InputError(f"record {path} is damaged: {problem}; {mend}")
    return Record.from_dict(value)


def _problem(value: Mapping[str, Any]) -> str:
    """What is wrong with the fields of a record; empty where nothing is."""
    wanted = {_KEYS.get(field.name, field.name): field.type for field in fields(Record)}
    if set(value) != set(wanted):
        return f"{', '.join(sorted(set(value) ^ set(wanted)))} missing or unknown"
    types: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "str | None": (str, type(None)),
        "int": (int,),
        "float": (float, int),
        "float | None": (float, int, type(None)),
    }
    for name, kind in wanted.items():
        item = value[name]
        if kind == "Kind":
            good = item in ("deploy", "onnx", "engine")
        elif kind in types:
            good = isinstance(item, types[str(kind)]) and not isinstance(item, bool)
        else:
            inner = item.values() if isinstance(item, dict) else [None]
            if kind == "Mapping[str, Mapping[str, float]]":
                inner = [x for part in inner for x in (part.values() if isinstance(part, dict) else [None])]
            good = all(isinstance(x, float | int) and not isinstance(x, bool) for x in inner)
        if not good:
            return f"{name} is {item!r}"
    return ""
