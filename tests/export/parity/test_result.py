"""Results as plain values, there and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sdi.export.parity.result import (
    Baseline,
    CandidateResult,
    Change,
    CleanSummary,
    Divergence,
    GateResult,
    Layer,
    PictureMetrics,
    Row,
)
from sdi.runtime.common.errors import InputError


def result_of(*candidates: CandidateResult) -> GateResult:
    return GateResult("minet", {"file": "best.pt", "sha256": "0" * 64}, 0.5, 3, True, candidates)


def candidate_of(*rows: Row, **fields: Any) -> CandidateResult:
    return CandidateResult("a.onnx", "onnx", "a.onnx", "1" * 64, "fp16", rows=rows, **fields)


GOOD = Row("max", 0.01, 0.1, False, "because")
BAD = Row("iou", 0.5, 0.9, True, "because")
LAYER = Layer("a.b", "x", "Conv", 1.5, 0.1)


def test_a_row_holds_on_its_side() -> None:
    assert Row("max", 0.1, 0.1, False, "").passed
    assert not Row("max", 0.11, 0.1, False, "").passed
    assert Row("iou", 0.9, 0.9, True, "").passed
    assert not Row("iou", 0.89, 0.9, True, "").passed
    assert not Row("max", math.nan, 0.1, False, "").passed
    assert not Row("iou", math.nan, 0.1, True, "").passed


def test_one_failure_fails_all() -> None:
    assert result_of(candidate_of(GOOD), candidate_of(GOOD)).passed
    failing = candidate_of(GOOD, BAD)
    assert failing.failures == [BAD]
    assert not result_of(candidate_of(GOOD), failing).passed


def test_nothing_compared_is_not_passed() -> None:
    assert not candidate_of().passed
    assert not candidate_of(GOOD, unavailable="no GPU").passed
    assert not result_of().passed


def test_json_and_back_changes_nothing() -> None:
    result = result_of(
        candidate_of(
            GOOD,
            BAD,
            notes=("slow",),
            quantiles={"engine": {"50": 0.1}},
            pictures=(PictureMetrics("In_1", 4, 0.5, 0.1),),
            divergence=Divergence("In_1", 0.1, 9, (LAYER,), "a.b", "x", "Conv", 0.9, 1.5, 0.0),
            clean=CleanSummary(3, 1, 1, 0.1, "spots", 0.3),
            baseline=Baseline("1.0", "2026-01-01T00:00:00Z", (Change("S", 0.8, 0.7, 0.75, True, "because"),)),
        ),
        replace(candidate_of(unavailable="x", divergence=Divergence("In_1", 0.0, 9, ())), kind="plan"),
    )
    value = json.loads(json.dumps(result.to_dict()))
    assert GateResult.from_dict(value) == result
    assert value["passed"] is False
    first, second = value["runners"]
    assert (first["kind"], second["kind"]) == ("onnx", "engine")
    assert [row["figure"] for row in (*first["rows"], *first["against"]["rows"])] == ["max", "iou", "S"]
    assert list(first) == [
        *("name", "kind", "file", "sha256", "precision", "seconds_per_frame", "rows", "figures", "pictures"),
        *("quantiles", "evidence", "where", "notes", "clean", "against", "unavailable", "passed"),
    ]
    assert [row["passed"] for row in value["runners"][0]["rows"]] == [True, False]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda value: [], "not the result of a parity gate"),
        (lambda value: value | {"schema": "other"}, "not the result of a parity gate"),
        (lambda value: value | {"schema_version": 99}, "schema 99, this sdi reads 1; update sdi"),
        (lambda value: {k: v for k, v in value.items() if k != "model"}, "damaged parity result .*model"),
        (lambda value: value | {"runners": 3}, "damaged parity result"),
        (lambda value: value | {"runners": [{"rows": []}]}, "damaged parity result"),
        (lambda value: value | {"surprise": 1}, "damaged parity result .*surprise"),
    ],
)
def test_what_is_no_result_is_refused(change: Callable[[dict[str, Any]], Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        GateResult.from_dict(change(result_of(candidate_of(GOOD)).to_dict()))
