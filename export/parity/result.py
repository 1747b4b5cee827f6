"""What a parity gate found: plain values, built once and never changed. A CI or a report reads them as JSON.

Keys of the JSON file stay those of its schema, whatever the fields here are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sdi.runtime.common.errors import InputError

__all__ = [
    "Baseline",
    "CandidateResult",
    "Change",
    "CleanSummary",
    "Divergence",
    "GateResult",
    "Kind",
    "Layer",
    "PictureMetrics",
    "Row",
    "divergence_in_words",
    "findings",
    "kind_from_file",
    "kind_in_file",
    "regression_in_words",
]

SCHEMA = "sdi-parity"
SCHEMA_VERSION = 1

Kind = Literal["deploy", "onnx", "plan"]
"""The deploy form in PyTorch, an ONNX file, or a TensorRT plan."""

# Field -> key in the file.
_KEYS = {"metrics": "figures", "divergence": "where", "baseline": "against"}


def kind_in_file(kind: Kind) -> str:
    """A kind as reports and records spell it: a plan is an "engine" there."""
    return "engine" if kind == "plan" else kind


def kind_from_file(text: Any) -> Kind:
    """The inverse of `kind_in_file`.

    Raises:
        KeyError: no such kind.
    """
    kinds: dict[Any, Kind] = {"deploy": "deploy", "onnx": "onnx", "engine": "plan"}
    return kinds[text]


@dataclass(frozen=True)
class Row:
    """One metric with its bound."""

    metric: str  # key of `metrics.METRICS`
    measured: float
    bound: float
    at_least: bool  # the bound is the minimum that passes; else the maximum
    reason: str  # why the bound is where it is

    @property
    def passed(self) -> bool:
        """Whether it is within the bound; NaN is not."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    @property
    def shown(self) -> str:
        """What was measured, with the digits that matter: shares are near 1, differences near 0."""
        return f"{self.measured:.4f}" if self.at_least else f"{self.measured:.1e}"

    @property
    def limit(self) -> str:
        """The bound with its side, `≥ 0.97`."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class PictureMetrics:
    """How far two maps of one picture differ."""

    name: str
    pixels: int
    max: float
    mean: float
    iou: float = 1.0  # of the masks
    regions: float = 1.0  # share of the regions that both maps have
    peak: float = 0.0  # change of the maximum probability


@dataclass(frozen=True)
class Layer:
    """A layer that the bisection examined."""

    layer: str  # path of the module
    tensor: str
    op: str
    error: float  # relative error of the tensor, see `divergence.tensor_error`
    map: float  # RMS of the map's difference when the engine computes up to here and PyTorch the rest


@dataclass(frozen=True)
class Divergence:
    """The first layer at which an ONNX file leaves PyTorch, and what the bisection measured on the way.

    Attributes:
        picture: name of the picture that both were run on.
        map: RMS of the map's difference.
        layers: how many there are.
        layer: path of the module; None where no layer alone brings a quarter of the difference.
        tensor, op: what the layer makes, and how; None where the maps agree.
        share: of the difference that this layer brings; 0 where the maps agree, as the errors are.
        error, inputs_error: relative errors of the layer's output and of what goes into it.
    """

    picture: str
    map: float
    layers: int
    examined: tuple[Layer, ...]
    layer: str | None = None
    tensor: str | None = None
    op: str | None = None
    share: float = 0.0
    error: float = 0.0
    inputs_error: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values. Where the maps agree, the keys of what was not found are left out."""
        value = asdict(self)
        absent = ("tensor", "op", "share", "error", "inputs_error") if self.tensor is None else ()
        return _without(value, *absent)

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Divergence:
        return Divergence(**{**value, "examined": tuple(Layer(**row) for row in value["examined"])})


@dataclass(frozen=True)
class CleanSummary:
    """What a candidate takes for a defect on clean steel: shares of the patches' pixels, 0..1."""

    patches: int
    drawn: int  # how many of them are drawn strip
    with_any: int  # patches on which anything is taken for a defect
    mean: float
    worst: str  # name of the worst patch
    worst_area: float


@dataclass(frozen=True)
class Change:
    """A metric of this release beside that of its baseline."""

    metric: str
    old: float
    new: float
    bound: float
    at_least: bool
    reason: str

    @property
    def passed(self) -> bool:
        """Whether it is within the bound; NaN is not."""
        return self.new >= self.bound if self.at_least else self.new <= self.bound


@dataclass(frozen=True)
class Baseline:
    """The earlier release that a candidate is compared with."""

    release: str
    made: str
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        rows = [_judged(change) for change in self.changes]
        return {"release": self.release, "made": self.made, "rows": rows}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Baseline:
        changes = tuple(Change(**_unjudged(row)) for row in value["rows"])
        return Baseline(**{**_without(value, "rows"), "changes": changes})


@dataclass(frozen=True)
class CandidateResult:
    """One candidate, compared with the reference."""

    name: str
    kind: Kind
    file: str | None  # None: the deploy form, which is in no file
    sha256: str | None  # of the file
    precision: str
    seconds_per_frame: float | None = None  # median of one frame a call, on this machine
    rows: tuple[Row, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)  # all of them, also those without a bound
    pictures: tuple[PictureMetrics, ...] = ()
    quantiles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # "reference", "engine": level in % -> p
    evidence: tuple[str, ...] = ()  # files that show what failed
    divergence: Divergence | None = None  # the first layer that differs, when it was looked for
    notes: tuple[str, ...] = ()
    clean: CleanSummary | None = None  # when it was looked at
    baseline: Baseline | None = None  # when there is one to compare with
    unavailable: str | None = None  # why it cannot be compared on this machine; it then has no rows

    @property
    def passed(self) -> bool:
        """Whether it was compared, every metric is within its bound, and none is a regression."""
        return self.unavailable is None and bool(self.rows) and not self.failures and not self.regressions

    @property
    def failures(self) -> list[Row]:
        """Rows out of bounds."""
        return [row for row in self.rows if not row.passed]

    @property
    def regressions(self) -> list[Change]:
        """Changes since the baseline that are out of bounds."""
        return [] if self.baseline is None else [change for change in self.baseline.changes if not change.passed]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by the keys of the file."""
        value: dict[str, Any] = asdict(self) | {
            "kind": kind_in_file(self.kind),
            "rows": [_judged(row) for row in self.rows],
            "divergence": None if self.divergence is None else self.divergence.to_dict(),
            "baseline": None if self.baseline is None else self.baseline.to_dict(),
        }
        plain: dict[str, Any] = {_KEYS.get(name, name): item for name, item in value.items()}
        return plain | {"passed": self.passed}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> CandidateResult:
        names = {key: name for name, key in _KEYS.items()}
        given = {names.get(key, key): item for key, item in value.items() if key != "passed"}
        divergence, clean, baseline = (given.get(name) for name in ("divergence", "clean", "baseline"))
        parts = {
            "kind": kind_from_file(given["kind"]),
            "rows": tuple(Row(**_unjudged(row)) for row in given["rows"]),
            "pictures": tuple(PictureMetrics(**picture) for picture in given.get("pictures", ())),
            "evidence": tuple(given.get("evidence", ())),
            "notes": tuple(given.get("notes", ())),
            "divergence": None if divergence is None else Divergence.from_dict(divergence),
            "clean": None if clean is None else CleanSummary(**clean),
            "baseline": None if baseline is None else Baseline.from_dict(baseline),
        }
        return CandidateResult(**(given | parts))


@dataclass(frozen=True)
class GateResult:
    """Every candidate of one network beside its checkpoint in PyTorch, float32."""

    model: str
    checkpoint: Mapping[str, str]  # file, sha256
    threshold: float  # probability from which a pixel belongs to the mask
    pictures: int
    synthetic: bool  # the pictures were drawn, not taken
    candidates: tuple[CandidateResult, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)  # processor, versions, when
    reference_seconds_per_frame: float | None = None  # median, of the checkpoint in PyTorch

    @property
    def passed(self) -> bool:
        """Whether every candidate passed."""
        return bool(self.candidates) and all(candidate.passed for candidate in self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with a schema, for JSON."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "model": self.model,
            "checkpoint": dict(self.checkpoint),
            "threshold": self.threshold,
            "pictures": self.pictures,
            "synthetic": self.synthetic,
            "runners": [candidate.to_dict() for candidate in self.candidates],
            "machine": dict(self.machine),
            "reference_seconds_per_frame": self.reference_seconds_per_frame,
        }

    @staticmethod
    def from_dict(value: Any) -> GateResult:
        """The inverse of `to_dict`.

        Raises:
            InputError: no result of a parity gate, one of a newer schema, or a damaged one.
        """
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise InputError("not the result of a parity gate; make one with sdi-parity --report DIR")
        if value.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"a parity result of schema {value.get('schema_version')}, this sdi reads {SCHEMA_VERSION}; update sdi"
            )
        try:
            candidates = tuple(CandidateResult.from_dict(item) for item in value["runners"])
            rest = _without(value, "passed", "schema", "schema_version", "runners")
            return GateResult(**rest, candidates=candidates)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"a damaged parity result ({error}); run sdi-parity again") from error


def divergence_in_words(divergence: Divergence) -> str:
    """What the bisection found, as a sentence."""
    if divergence.tensor is None:
        return "no layer differs: the maps agree to the rounding of float32"
    detail = (
        f"{divergence.op} '{divergence.tensor}' brings {divergence.share:.0%} of the difference; its output is off by "
        f"{divergence.error:.1e}, what goes into it by {divergence.inputs_error:.1e}"
    )
    if divergence.layer is None:
        return f"no single layer: the difference grows over many; the middle of it, {detail}"
    return f"first to differ: {divergence.layer}: {detail}"


def regression_in_words(result: CandidateResult) -> str:
    """How a candidate compares with its baseline; empty where there is none."""
    baseline = result.baseline
    if baseline is None:
        return ""
    if not result.regressions:
        return f"no worse than release {baseline.release} in {len(baseline.changes)} metrics"
    return f"worse than release {baseline.release}: " + ", ".join(
        f"{change.metric} was {change.old:.4g} and is {change.new:.4g}, {'under' if change.at_least else 'over'} "
        f"{change.bound:.4g}"
        for change in result.regressions
    )


def findings(result: CandidateResult) -> list[str]:
    """What was found besides the metrics, in sentences: on clean steel, and since the baseline."""
    return [text for text in (_clean_in_words(result.clean), regression_in_words(result)) if text]


def _clean_in_words(clean: CleanSummary | None) -> str:
    if clean is None:
        return ""
    return (
        f"clean steel: something taken for a defect in {clean.with_any} of {clean.patches} patches; the worst is "
        f"{clean.worst}, {clean.worst_area:.1%}"
    )


def _judged(row: Row | Change) -> dict[str, Any]:
    """A row by the keys of the file, where a metric is a "figure"."""
    value = asdict(row)
    return {"figure": value.pop("metric"), **value, "passed": row.passed}


def _unjudged(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"metric": value["figure"], **_without(value, "figure", "passed")}


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name not in names}
