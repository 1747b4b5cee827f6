"""The table of bounds, and files that replace some of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdi.export.parity.metrics import METRICS
from sdi.export.parity.tolerances import TOLERANCES, Bound, Tolerance, read_tolerances, tolerances_as_toml
from sdi.runtime.common.errors import InputError


def test_every_metric_has_a_bound_with_a_reason_at_every_precision() -> None:
    for tolerance in TOLERANCES.values():
        assert set(tolerance.bounds) == set(METRICS)
        assert all(bound.reason for bound in tolerance.bounds.values())


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_bits_never_have_the_tighter_bound(metric: str) -> None:
    fp32, fp16, int8 = (TOLERANCES[precision].bounds[metric].value for precision in ("fp32", "fp16", "int8"))
    if METRICS[metric].at_least:
        assert fp32 >= fp16 >= int8
    else:
        assert fp32 <= fp16 <= int8


def test_what_is_printed_is_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(tolerances_as_toml(TOLERANCES), encoding="utf-8")
    assert read_tolerances(tmp_path / "t.toml") == TOLERANCES


def test_a_file_replaces_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text('[int8]\nmean = 0.05\niou = { bound = 0.7, reason = "faint \\"scratches\\"" }\n', encoding="utf-8")
    read = read_tolerances(path)
    assert read["int8"].bounds["mean"] == Bound(0.05, "set in ours.toml")
    assert read["int8"].bounds["iou"] == Bound(0.7, 'faint "scratches"')
    assert read["int8"].bounds["max"] == TOLERANCES["int8"].bounds["max"]
    assert read["fp16"] == TOLERANCES["fp16"]
    assert TOLERANCES["int8"].bounds["mean"].value != 0.05
    (tmp_path / "again.toml").write_text(tolerances_as_toml(read), encoding="utf-8")
    assert read_tolerances(tmp_path / "again.toml") == read


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[fp8]\nmax = 0.1", r"unknown precision \[fp8\]; known: fp32, fp16, int8"),
        ("[int8]\nmedian = 0.1", r"int8\.median is no metric; known: max, p999"),
        ("[int8]\nmean = 'small'", r"int8\.mean is 'small'; expected a number from 0 to 1"),
        ("[int8]\nmean = true", r"int8\.mean is True; expected a number"),
        ("[int8]\nmean = nan", r"int8\.mean is nan; expected a number"),
        ("[int8]\nmean = -0.1", r"int8\.mean is -0\.1; expected a number"),
        ("[int8]\nmean = { bound = 0.1, why = 'so' }", r"int8\.mean\.why is unknown; expected bound and reason"),
        ("[int8]\nmean = { reason = 'so' }", r"int8\.mean is None; expected a number"),
        ("[int8]\nmean = { bound = 0.1, reason = 3 }", r"int8\.mean\.reason is 3; expected a text"),
        ("int8 = 3", r"int8 is 3; expected a table \[int8\]"),
        ("[int8\nmean = 1", r"t\.toml is no TOML: .*--print-tolerances"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "t.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=complaint):
        read_tolerances(tmp_path / "t.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read tolerances .*none\.toml: No such file"):
        read_tolerances(tmp_path / "none.toml")


def test_bounds_hold_on_their_side() -> None:
    tolerance = Tolerance({"max": Bound(0.1, "a"), "iou": Bound(0.9, "b")})
    assert tolerance.failures({"max": 0.1, "iou": 0.9}) == []
    assert tolerance.failures({"max": 0.2, "iou": 0.95}) == ["max difference 0.2 is over 0.1"]
    assert tolerance.failures({"max": 0.0, "iou": 0.5}) == ["mask IoU 0.5 is under 0.9"]
    assert len(tolerance.failures({"max": float("nan"), "iou": float("nan")})) == 2


def test_room_for_rounding_is_told() -> None:
    wider = TOLERANCES["fp32"].widened(0.002, ("max",), "rounded")
    assert wider.bounds["max"].value == TOLERANCES["fp32"].bounds["max"].value + 0.002
    assert wider.bounds["max"].reason.endswith("; rounded")
    assert wider.bounds["iou"] == TOLERANCES["fp32"].bounds["iou"]
