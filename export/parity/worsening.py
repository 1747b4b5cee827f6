"""How much worse than the last release a new one may be: one table, with a reason for each row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sdi.export.parity.result import GateResult
from sdi.export.parity.store import Record, last_like, record_of
from sdi.export.parity.tolerances import REGRESSION, read_toml
from sdi.runtime.common.errors import InputError

__all__ = [
    "WORSENING",
    "Change",
    "Worsening",
    "changes",
    "hold_against",
    "read_worsening",
    "worsening_as_toml",
]


@dataclass(frozen=True)
class Worsening:
    """A figure may become `factor` times what it was and `room` more; or, where more is better, `room` less."""

    room: float
    factor: float = 1.0
    at_least: bool = False  # more is better
    reason: str = ""

    def bound(self, old: float) -> float:
        """The worst value that passes after `old`."""
        return old - self.room if self.at_least else old * self.factor + self.room


_ROUNDING = "another library's version rounds otherwise; more than twice as much has another cause"
WORSENING: dict[str, Worsening] = {
    "S": Worsening(0.005, at_least=True, reason="half of what INT8 may lose"),
    "maxF": Worsening(0.005, at_least=True, reason="as S"),
    "maxE": Worsening(0.005, at_least=True, reason="as S"),
    "MAE": Worsening(0.002, reason="a tenth of a good network's"),
    "max": Worsening(1e-5, 2.0, reason=_ROUNDING),
    "p999": Worsening(1e-5, 2.0, reason=_ROUNDING),
    "mean": Worsening(1e-6, 2.0, reason=_ROUNDING),
    "iou": Worsening(0.01, at_least=True, reason="a tenth of what INT8 may lose"),
    "regions": Worsening(0.05, at_least=True, reason="single faint regions come and go"),
    "saturation": Worsening(0.01, reason="a map compressed by one per cent more"),
    "quantile": Worsening(0.02, reason="as saturation, on a single quantile"),
    "clean": Worsening(0.002, reason="a fifth of what a network may take for a defect at all"),
    "clean_worst": Worsening(0.05, reason="single patches vary"),
    "latency_ratio": Worsening(0.0, 1.5, reason="the ratio to PyTorch cancels the machine, not what else runs on it"),
}
"""What `sdi-parity --against` holds a release by, where both have the figure."""


@dataclass(frozen=True)
class Change:
    """A figure beside that of the last release."""

    figure: str
    old: float
    new: float
    bound: float
    at_least: bool
    reason: str

    @property
    def passed(self) -> bool:
        """Whether it is within the bound; what is no number is not."""
        return self.new >= self.bound if self.at_least else self.new <= self.bound


def changes(new: Record, old: Record, allowed: Mapping[str, Worsening] = WORSENING) -> list[Change]:
    """Each figure that both records have and that has a bound, in the table's order.

    Raises:
        InputError: records of another model, precision, kind, threshold or set of pictures.
    """
    if new.series != old.series:
        raise InputError(f"{_described(new)} cannot be held against {_described(old)}")
    before, now = old.values(), new.values()
    return [
        Change(name, before[name], now[name], rule.bound(before[name]), rule.at_least, rule.reason)
        for name, rule in allowed.items()
        if name in before and name in now
    ]


def hold_against(
    result: GateResult,
    records: Sequence[Record],
    release: str | None = None,
    allowed: Mapping[str, Worsening] = WORSENING,
) -> None:
    """Put beside each runner what the last release of its kind had; nothing where a runner was not compared.

    Args:
        records: of a store, as `read_store` gives them.
        release: what the new one will be recorded as, so that it is not held against itself.
    Raises:
        InputError: none of them is one that a runner can be held against.
    """
    for runner in result.runners:
        if runner.unavailable is not None:
            continue
        new = record_of(result, runner, release)
        old = last_like(new, records)
        if old is None:
            raise InputError(
                f"the store has no record that {_described(new)} can be held against; make one with --record, on the "
                "same pictures at the same threshold"
            )
        rows = [{**asdict(change), "passed": change.passed} for change in changes(new, old, allowed)]
        runner.against = {"release": old.release, "made": old.made, "rows": rows}


def read_worsening(path: Path) -> dict[str, Worsening]:
    """`WORSENING` with what the table [regression] of a TOML file says otherwise.

    `S = 0.01` is the room; `mean = { room = 1e-4, factor = 1.5, reason = "..." }` says all.

    Raises:
        InputError: the file cannot be read, is no TOML, or names an unknown figure or something that is no number of 0
            and more.
    """
    rows = read_toml(path).get(REGRESSION, {})
    if not isinstance(rows, dict):
        raise InputError(f"{path}: {REGRESSION} is {rows!r}; expected a table [{REGRESSION}] of figures")
    return WORSENING | {name: _rule(path, name, row) for name, row in rows.items()}


def worsening_as_toml(allowed: Mapping[str, Worsening]) -> str:
    """The table as `read_worsening` takes it."""
    lines = ["", "# How much worse than the last release, with --against: times factor, and room more (or less).", ""]
    lines.append(f"[{REGRESSION}]")
    for name, rule in allowed.items():
        # JSON's strings are TOML's basic strings.
        factor = "" if rule.at_least else f"factor = {rule.factor!r}, "
        lines.append(f"{name} = {{ room = {rule.room!r}, {factor}reason = {json.dumps(rule.reason)} }}")
    return "\n".join(lines) + "\n"


def _rule(path: Path, name: str, row: Any) -> Worsening:
    where = f"{path}: {REGRESSION}.{name}"
    if name not in WORSENING:
        raise InputError(f"{where} is no figure that releases are held by; known: {', '.join(WORSENING)}")
    given = row if isinstance(row, dict) else {"room": row}
    known = {"room", "reason"} if WORSENING[name].at_least else {"room", "factor", "reason"}
    if unknown := sorted(set(given) - known):
        raise InputError(f"{where}.{unknown[0]} is unknown; expected {', '.join(sorted(known))}")
    for key in ("room", "factor"):
        number = given.get(key, 0)
        # TOML knows nan and inf; a truth value is a number to Python.
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < float("inf"):
            raise InputError(f"{where}.{key} is {number!r}; expected a number of 0 or more")
    if not isinstance(given.get("reason", ""), str):
        raise InputError(f"{where}.reason is {given['reason']!r}; expected a text")
    return replace(WORSENING[name], **{"reason": f"set in {path.name}", **given})


def _described(record: Record) -> str:
    return (
        f"{record.model} {record.precision} ({record.kind}, {record.pictures} pictures, threshold "
        f"{record.threshold:g}) of {record.release}"
    )
