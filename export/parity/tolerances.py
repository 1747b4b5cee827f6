"""The bounds of a parity gate's metrics: one table by precision, with a reason for each row."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdi.export.parity.metrics import METRICS, Parity
from sdi.export.parity.result import Row
from sdi.runtime.common.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["REGRESSION", "TOLERANCES", "Bound", "Tolerance", "read_tolerances", "read_toml", "tolerances_as_toml"]

REGRESSION = "regression"  # the file's table of how much worse than its baseline a release may be


@dataclass(frozen=True)
class Bound:
    """The maximum of a metric that passes; the minimum where `Metric.at_least` says so."""

    value: float
    reason: str


@dataclass(frozen=True)
class Tolerance:
    """Bounds of one precision, by metric."""

    bounds: Mapping[str, Bound]

    def rows(self, metrics: Mapping[str, float]) -> list[Row]:
        """Each measured metric that has a bound, in the order of `METRICS`."""
        return [
            Row(name, metrics[name], self.bounds[name].value, METRICS[name].at_least, self.bounds[name].reason)
            for name in METRICS
            if name in metrics and name in self.bounds
        ]

    def failures(self, measured: Parity | Mapping[str, float]) -> list[str]:
        """What is out of bounds, in words; empty when the gate passes."""
        metrics = measured.to_dict() if isinstance(measured, Parity) else measured
        return [in_words(row) for row in self.rows(metrics) if not row.passed]

    def widened(self, by: float, metrics: tuple[str, ...], why: str) -> Tolerance:
        """The same with room added to the bounds of `metrics`."""
        wider = {n: Bound(self.bounds[n].value + by, f"{self.bounds[n].reason}; {why}") for n in metrics}
        return Tolerance({**self.bounds, **wider})


def in_words(row: Row) -> str:
    """A row out of bounds: "mean difference 0.12 is over 0.02"."""
    return f"{METRICS[row.metric].title} {row.measured:.3g} is {'under' if row.at_least else 'over'} {row.bound:g}"


def _table(**rows: tuple[float, str]) -> Tolerance:
    return Tolerance({name: Bound(value, reason) for name, (value, reason) in rows.items()})


# Of the network as much as of the engine, so the same whatever the precision.
_ROUNDING = (0.51, "half a level is rounding; more, and the map that leaves is another one than was compared")
_CLEAN = {
    "clean": (1e-2, "real background, whose labels are not perfect; more would raise an alarm in most pictures"),
    "clean_worst": (2.5e-1, "no patch may light up as a whole"),
    "clean_strip": (1e-3, "drawn strip has no defect at all"),
}

TOLERANCES: dict[str, Tolerance] = {
    "fp32": _table(
        max=(1e-3, "the same arithmetic in another order: rounding of float32, layer after layer"),
        p999=(1e-4, "beyond single pixels on steep edges nothing but rounding is left"),
        mean=(1e-5, "rounding has no direction, so it does not add up"),
        iou=(0.999, "a pixel changes side only if it lies within rounding of the threshold"),
        regions=(0.99, "no region comes or goes but one that hangs together by such a pixel"),
        saturation=(1e-3, "rounding does not scale; 6e-5 is what the histogram resolves"),
        quantile=(1e-3, "as the maximum difference"),
        peak=(1e-3, "as the maximum difference"),
        rounding=_ROUNDING,
        S_lost=(5e-4, "equal maps score equal; a mask pixel or a gray level may turn"),
        F_lost=(5e-4, "as S-measure"),
        E_lost=(5e-4, "as S-measure"),
        MAE_gained=(1e-4, "the mean difference, and a rounding to 8 bits that may turn"),
        **_CLEAN,
        clean_gained=(1e-4, "a pixel changes side only if it lies within rounding of the threshold"),
    ),
    "fp16": _table(
        max=(3e-1, "half has 11 bits, about 1e-3 a layer; a steep edge moves by a fraction of a pixel"),
        p999=(5e-2, "one pixel in a thousand lies on such an edge, more in a picture of scratches"),
        mean=(5e-4, "a rounding of 11 bits, mostly on flat parts that stay 0 or 1; twice that of noisy pictures"),
        iou=(0.97, "outlines move by a fraction of a pixel; a small faint defect is nearly all outline"),
        regions=(0.95, "a region of few pixels, or two that barely touch, may turn"),
        saturation=(1e-2, "rounding does not scale; a network that half compresses has overflowed or lost a layer"),
        quantile=(1e-2, "as the slope: ten times what rounding does"),
        peak=(5e-2, "the brightest pixel of a faint defect moves as any other"),
        rounding=_ROUNDING,
        S_lost=(2e-3, "what --max-drop of sdi-export allows: a tenth of what lies between good and better networks"),
        F_lost=(2e-3, "as S-measure"),
        E_lost=(2e-3, "as S-measure"),
        MAE_gained=(1e-3, "the mean difference"),
        **_CLEAN,
        clean_gained=(1e-3, "as the mean difference"),
    ),
    "int8": _table(
        max=(1.0, "eight bits move edges by pixels, so single ones prove nothing"),
        p999=(8e-1, "one pixel in a thousand is still an edge"),
        mean=(2e-2, "eight bits a layer; what the map loses as a whole"),
        iou=(0.9, "an edge a pixel off, on defects a few tens of pixels wide"),
        regions=(0.8, "faint and small regions come and go"),
        saturation=(5e-2, "quantisation shifts values both ways; ranges that clip compress the map"),
        quantile=(1e-1, "as the slope, on the brightest per mille too"),
        peak=(5e-1, "one faint defect may brighten or fade; a stretched map of clean steel goes further"),
        rounding=_ROUNDING,
        S_lost=(1e-2, "five times what --max-drop of sdi-export allows, since other pictures may lose more"),
        F_lost=(1e-2, "as S-measure"),
        E_lost=(1e-2, "as S-measure"),
        MAE_gained=(5e-3, "a fifth of a good network's MAE"),
        **_CLEAN,
        clean_gained=(5e-3, "half of what a network may take for a defect at all"),
    ),
}


def read_tolerances(path: Path) -> dict[str, Tolerance]:
    """`TOLERANCES` with what a TOML file says otherwise.

    A table for each precision holds metrics: `mean = 0.03`, or `mean = { bound = 0.03, reason = "faint scratches" }`.
    The table [regression] is read by `regression.read_regression_limits`.

    Raises:
        InputError: the file cannot be read, is no TOML, or names an unknown precision or metric, or a bound that is
            not from 0 to 1.
    """
    tolerances = dict(TOLERANCES)
    for precision, rows in read_toml(path).items():
        if precision == REGRESSION:
            continue
        if precision not in TOLERANCES:
            known = ", ".join((*TOLERANCES, REGRESSION))
            raise InputError(f"{path}: unknown precision [{precision}]; known: {known}")
        if not isinstance(rows, dict):
            raise InputError(f"{path}: {precision} is {rows!r}; expected a table [{precision}] of metrics")
        bounds = {name: _bound(path, precision, name, row) for name, row in rows.items()}
        tolerances[precision] = Tolerance({**TOLERANCES[precision].bounds, **bounds})
    return tolerances


def read_toml(path: Path) -> dict[str, Any]:
    """A file of tolerances as plain values.

    Raises:
        InputError: it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot read tolerances {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}; sdi-parity --print-tolerances shows how it looks") from error


def tolerances_as_toml(tolerances: Mapping[str, Tolerance]) -> str:
    """The table as `read_tolerances` takes it."""
    lines = ["# Maximum differences from PyTorch that pass; minimum values of " + _shares() + "."]
    for precision, tolerance in tolerances.items():
        lines += ["", f"[{precision}]"]
        for name, bound in tolerance.bounds.items():
            # JSON's strings are TOML's basic strings.
            lines.append(f"{name} = {{ bound = {bound.value!r}, reason = {json.dumps(bound.reason)} }}")
    return "\n".join(lines) + "\n"


def _shares() -> str:
    return " and ".join(name for name, metric in METRICS.items() if metric.at_least)


def _bound(path: Path, precision: str, name: str, row: Any) -> Bound:
    where = f"{path}: {precision}.{name}"
    if name not in METRICS:
        raise InputError(f"{where} is no metric; known: {', '.join(METRICS)}")
    reason = f"set in {path.name}"
    if isinstance(row, dict):
        if unknown := sorted(set(row) - {"bound", "reason"}):
            raise InputError(f"{where}.{unknown[0]} is unknown; expected bound and reason")
        if not isinstance(row.get("reason", reason), str):
            raise InputError(f"{where}.reason is {row['reason']!r}; expected a text")
        reason, row = row.get("reason", reason), row.get("bound")
    # TOML knows nan and inf; a truth value is a number to Python.
    if isinstance(row, bool) or not isinstance(row, int | float) or not 0 <= row <= 1:
        raise InputError(f"{where} is {row!r}; expected a number from 0 to 1")
    return Bound(float(row), reason)
