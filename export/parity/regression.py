"""Regressions: how much worse than its baseline a release may be. One table, with a reason for each row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdi.export.parity.result import Baseline, CandidateResult, Change, GateResult
from sdi.export.parity.store import Record, last_like, record_of
from sdi.export.parity.tolerances import REGRESSION, read_toml
from sdi.runtime.common.errors import InputError

__all__ = [
    "REGRESSION_LIMITS",
    "RegressionLimit",
    "changes",
    "compare_with_baseline",
    "read_regression_limits",
    "regression_limits_as_toml",
]


@dataclass(frozen=True)
class RegressionLimit:
    """A metric may become `factor` times what it was and `room` more; or, where more is better, `room` less."""

    room: float
    factor: float = 1.0
    at_least: bool = False  # more is better
    reason: str = ""

    def bound(self, old: float) -> float:
        """The worst value that passes after `old`."""
        return old - self.room if self.at_least else old * self.factor + self.room


_ROUNDING = "another library's version rounds otherwise; more than twice as much has another cause"
REGRESSION_LIMITS: dict[str, RegressionLimit] = {
    "S": RegressionLimit(0.005, at_least=True, reason="half of what INT8 may lose"),
    "maxF": RegressionLimit(0.005, at_least=True, reason="as S"),
    "maxE": RegressionLimit(0.005, at_least=True, reason="as S"),
    "MAE": RegressionLimit(0.002, reason="a tenth of a good network's"),
    "max": RegressionLimit(1e-5, 2.0, reason=_ROUNDING),
    "p999": RegressionLimit(1e-5, 2.0, reason=_ROUNDING),
    "mean": RegressionLimit(1e-6, 2.0, reason=_ROUNDING),
    "iou": RegressionLimit(0.01, at_least=True, reason="a tenth of what INT8 may lose"),
    "regions": RegressionLimit(0.05, at_least=True, reason="single faint regions come and go"),
    "saturation": RegressionLimit(0.01, reason="a map compressed by one per cent more"),
    "quantile": RegressionLimit(0.02, reason="as saturation, on a single quantile"),
    "clean": RegressionLimit(0.002, reason="a fifth of what a network may take for a defect at all"),
    "clean_worst": RegressionLimit(0.05, reason="single patches vary"),
    "latency_ratio": RegressionLimit(
        0.0, 1.5, reason="the ratio to PyTorch cancels the machine, not other programs on it"
    ),
}
"""The limits of `sdi-parity --baseline`, where both releases have the metric."""


def changes(new: Record, old: Record, allowed: Mapping[str, RegressionLimit] = REGRESSION_LIMITS) -> tuple[Change, ...]:
    """Each metric that both records have and that has a limit, in the table's order.

    Raises:
        InputError: records of another model, precision, kind, threshold or set of pictures.
    """
    if new.series != old.series:
        raise InputError(f"{_described(new)} cannot be compared with {_described(old)}")
    before, now = old.values(), new.values()
    return tuple(
        Change(name, before[name], now[name], rule.bound(before[name]), rule.at_least, rule.reason)
        for name, rule in allowed.items()
        if name in before and name in now
    )


def compare_with_baseline(
    result: GateResult,
    records: Sequence[Record],
    release: str | None = None,
    allowed: Mapping[str, RegressionLimit] = REGRESSION_LIMITS,
) -> GateResult:
    """The result with the baseline of each candidate that was compared: the newest record of its series.

    Args:
        records: of a store, as `read_store` gives them.
        release: what the new one will be recorded as, so that it is not its own baseline.
    Raises:
        InputError: a candidate has no baseline among them.
    """

    def compared(candidate: CandidateResult) -> CandidateResult:
        if candidate.unavailable is not None:
            return candidate
        new = record_of(result, candidate, release)
        old = last_like(new, records)
        if old is None:
            raise InputError(
                f"the store has no baseline that {_described(new)} can be compared with; make one with --record, on "
                "the same pictures at the same threshold"
            )
        return replace(candidate, baseline=Baseline(old.release, old.made, changes(new, old, allowed)))

    return replace(result, candidates=tuple(map(compared, result.candidates)))


def read_regression_limits(path: Path) -> dict[str, RegressionLimit]:
    """`REGRESSION_LIMITS` with what the table [regression] of a TOML file says otherwise.

    `S = 0.01` is the room; `mean = { room = 1e-4, factor = 1.5, reason = "..." }` says all.

    Raises:
        InputError: the file cannot be read, is no TOML, or names an unknown metric or something other than a number
            of 0 or more.
    """
    rows = read_toml(path).get(REGRESSION, {})
    if not isinstance(rows, dict):
        raise InputError(f"{path}: {REGRESSION} is {rows!r}; expected a table [{REGRESSION}] of metrics")
    return REGRESSION_LIMITS | {name: _rule(path, name, row) for name, row in rows.items()}


def regression_limits_as_toml(allowed: Mapping[str, RegressionLimit]) -> str:
    """The table as `read_regression_limits` takes it."""
    lines = ["", "# How much worse than the baseline, with --baseline: times factor, and room more (or less).", ""]
    lines.append(f"[{REGRESSION}]")
    for name, rule in allowed.items():
        # JSON's strings are TOML's basic strings.
        factor = "" if rule.at_least else f"factor = {rule.factor!r}, "
        lines.append(f"{name} = {{ room = {rule.room!r}, {factor}reason = {json.dumps(rule.reason)} }}")
    return "\n".join(lines) + "\n"


def _rule(path: Path, name: str, row: Any) -> RegressionLimit:
    where = f"{path}: {REGRESSION}.{name}"
    if name not in REGRESSION_LIMITS:
        raise InputError(f"{where} is no metric with a regression limit; known: {', '.join(REGRESSION_LIMITS)}")
    given = row if isinstance(row, dict) else {"room": row}
    known = {"room", "reason"} if REGRESSION_LIMITS[name].at_least else {"room", "factor", "reason"}
    if unknown := sorted(set(given) - known):
        raise InputError(f"{where}.{unknown[0]} is unknown; expected {', '.join(sorted(known))}")
    for key in ("room", "factor"):
        number = given.get(key, 0)
        # TOML knows nan and inf; a truth value is a number to Python.
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < float("inf"):
            raise InputError(f"{where}.{key} is {number!r}; expected a number of 0 or more")
    if not isinstance(given.get("reason", ""), str):
        raise InputError(f"{where}.reason is {given['reason']!r}; expected a text")
    return replace(REGRESSION_LIMITS[name], **{"reason": f"set in {path.name}", **given})


def _described(record: Record) -> str:
    return (
        f"{record.model} {record.precision} ({record.kind}, {record.pictures} pictures, threshold "
        f"{record.threshold:g}) of {record.release}"
    )
