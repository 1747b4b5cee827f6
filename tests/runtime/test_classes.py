"""Defect classes and fair shares of them."""

from __future__ import annotations

from sdi.runtime.common.classes import defect_class, fair_shares


def test_class_is_what_stands_before_the_last_underline() -> None:
    assert [defect_class(name) for name in ("In_12", "hot_strip_3", "coil")] == ["In", "hot_strip", ""]


def test_shares_add_up_and_follow_the_counts() -> None:
    assert fair_shares({"In": 300, "Pa": 299, "Sc": 300}, 128) == {"In": 43, "Pa": 42, "Sc": 43}
    assert fair_shares({"a": 1, "b": 1, "c": 8}, 5) == {"a": 1, "b": 0, "c": 4}
    assert sum(fair_shares({str(i): i + 1 for i in range(50)}, 77).values()) == 77
    assert fair_shares({"a": 3, "b": 2}, 5) == {"a": 3, "b": 2}
