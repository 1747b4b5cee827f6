"""Results as plain values, there and back."""

from __future__ import annotations

import json
import math

import pytest

from sdi.export.parity.result import GateResult, Row, RunnerResult
from sdi.runtime.common.errors import InputError


def result_of(*runners):
    return GateResult("minet", {"file": "best.pt", "sha256": "0" * 64}, 0.5, 3, True, list(runners))


def runner_of(*rows, **fields):
    return RunnerResult("a.onnx", "onnx", "a.onnx", "1" * 64, "fp16", rows=list(rows), **fields)


GOOD = Row("max", 0.01, 0.1, False, "because")
BAD = Row("iou", 0.5, 0.9, True, "because")


def test_a_row_holds_on_its_side():
    assert Row("max", 0.1, 0.1, False, "").passed
    assert not Row("max", 0.11, 0.1, False, "").passed
    assert Row("iou", 0.9, 0.9, True, "").passed
    assert not Row("iou", 0.89, 0.9, True, "").passed
    assert not Row("max", math.nan, 0.1, False, "").passed
    assert not Row("iou", math.nan, 0.1, True, "").passed


def test_one_failure_fails_all():
    assert result_of(runner_of(GOOD), runner_of(GOOD)).passed
    failing = runner_of(GOOD, BAD)
    assert failing.failures == [BAD]
    assert not result_of(runner_of(GOOD), failing).passed


def test_nothing_compared_is_not_passed():
    assert not runner_of().passed
    assert not runner_of(GOOD, unavailable="no GPU").passed
    assert not result_of().passed


def test_json_and_back_changes_nothing():
    result = result_of(
        runner_of(GOOD, BAD, notes=["slow"], quantiles={"engine": {"50": 0.1}}), runner_of(unavailable="x")
    )
    result.runners[0].pictures.append({"name": "In_1", "pixels": 4, "max": 0.5})
    value = json.loads(json.dumps(result.to_dict()))
    assert GateResult.from_dict(value) == result
    assert value["passed"] is False
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
def test_what_is_no_result_is_refused(change, complaint):
    with pytest.raises(InputError, match=complaint):
        GateResult.from_dict(change(result_of(runner_of(GOOD)).to_dict()))
