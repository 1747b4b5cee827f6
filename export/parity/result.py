"""What a parity gate found, as plain values: for reports, for the command line, and to be kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sdi.runtime.common.errors import InputError

__all__ = ["GateResult", "Row", "RunnerResult", "against_in_words", "findings", "where_in_words"]

SCHEMA = "sdi-parity"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One figure held against its bound."""

    figure: str  # key of `figures.FIGURES`
    measured: float
    bound: float
    at_least: bool  # the bound is the least that passes; else the greatest
    reason: str  # why the bound is where it is

    @property
    def passed(self) -> bool:
        """Whether it is within the bound; what is no number is not."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    @property
    def shown(self) -> str:
        """What was measured, in as many digits as tell something: shares near 1, differences near 0."""
        return f"{self.measured:.4f}" if self.at_least else f"{self.measured:.1e}"

    @property
    def limit(self) -> str:
        """The bound with its side, `≥ 0.97`."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass
class RunnerResult:
    """One runner of the network, compared with the reference."""

    name: str
    kind: str  # "deploy", "onnx" or "engine": a TensorRT plan
    file: str | None  # None: the deploy form, which is in no file
    sha256: str | None  # of the file
    precision: str
    seconds_per_frame: float | None = None  # median of one frame a call, on this machine
    rows: list[Row] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)  # all of them, also those without a bound
    pictures: list[dict[str, Any]] = field(default_factory=list)  # name, pixels, max, mean, iou and more, of each
    quantiles: dict[str, dict[str, float]] = field(default_factory=dict)  # "reference" and "engine": level in % -> p
    evidence: list[str] = field(default_factory=list)  # files that show what failed
    where: dict[str, Any] | None = None  # the first layer that differs, when it was looked for
    notes: list[str] = field(default_factory=list)
    clean: dict[str, Any] | None = None  # what it takes for a defect on clean steel, when it was looked at
    against: dict[str, Any] | None = None  # the last release: release, made, rows; when it was looked up
    unavailable: str | None = None  # why it cannot be compared on this machine; it then has no rows

    @property
    def passed(self) -> bool:
        """Whether it was compared, every figure is within its bound, and none is worse than in the last release."""
        return self.unavailable is None and bool(self.rows) and not self.failures and not self.worse

    @property
    def failures(self) -> list[Row]:
        """Rows out of bounds."""
        return [row for row in self.rows if not row.passed]

    @property
    def worse(self) -> list[dict[str, Any]]:
        """Rows of `against` that are out of bounds."""
        return [] if self.against is None else [row for row in self.against["rows"] if not row["passed"]]


@dataclass
class GateResult:
    """Every runner of one network against its checkpoint in PyTorch, float32."""

    model: str
    checkpoint: dict[str, str]  # file, sha256
    threshold: float  # probability from which a pixel belongs to the mask
    pictures: int
    synthetic: bool  # the pictures were drawn, not taken
    runners: list[RunnerResult] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)  # processor, versions, when
    reference_seconds_per_frame: float | None = None  # median, of the checkpoint in PyTorch

    @property
    def passed(self) -> bool:
        """Whether every runner passed."""
        return bool(self.runners) and all(runner.passed for runner in self.runners)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with a schema, for JSON."""
        value = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "passed": self.passed, **asdict(self)}
        for runner, record in zip(self.runners, value["runners"], strict=True):
            record["passed"] = runner.passed
            for row, plain in zip(runner.rows, record["rows"], strict=True):
                plain["passed"] = row.passed
        return value

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
            runners = []
            for item in value["runners"]:
                rows = [Row(**_without(row, "passed")) for row in item["rows"]]
                runners.append(RunnerResult(**{**_without(item, "passed"), "rows": rows}))
            rest = _without(value, "passed", "schema", "schema_version")
            return GateResult(**{**rest, "runners": runners})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"a damaged parity result ({error}); run sdi-parity again") from error


def where_in_words(where: dict[str, Any]) -> str:
    """What `first_difference` found, as a sentence."""
    if "tensor" not in where:
        return "no layer differs: the maps agree to the rounding of float32"
    detail = (
        f"{where['op']} '{where['tensor']}' brings {where['share']:.0%} of the difference; its output is off by "
        f"{where['error']:.1e}, what goes into it by {where['inputs_error']:.1e}"
    )
    if where["layer"] is None:
        return f"no single layer: the difference grows over many; the middle of it, {detail}"
    return f"first to differ: {where['layer']}: {detail}"


def _without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name not in names}


def against_in_words(runner: RunnerResult) -> str:
    """What became of a runner since the last release; empty where that was not looked up."""
    if runner.against is None:
        return ""
    if not runner.worse:
        return f"no worse than release {runner.against['release']} in {len(runner.against['rows'])} figures"
    return f"worse than release {runner.against['release']}: " + ", ".join(
        f"{row['figure']} was {row['old']:.4g} and is {row['new']:.4g}, {'under' if row['at_least'] else 'over'} "
        f"{row['bound']:.4g}"
        for row in runner.worse
    )


def _clean_in_words(runner: RunnerResult) -> str:
    """What a runner made of clean steel; empty where it was not shown any."""
    if runner.clean is None:
        return ""
    clean = runner.clean
    return (
        f"clean steel: something taken for a defect in {clean['with_any']} of {clean['patches']} patches; the worst is "
        f"{clean['worst']}, {clean['worst_area']:.1%}"
    )


def findings(runner: RunnerResult) -> list[str]:
    """What was found besides the figures, in sentences: on clean steel, and since the last release."""
    return [text for text in (_clean_in_words(runner), against_in_words(runner)) if text]
