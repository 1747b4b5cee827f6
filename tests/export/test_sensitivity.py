"""The search for layers that have to stay in high precision."""

from __future__ import annotations

from typing import NoReturn

import pytest

from sdi.export.sensitivity import Sensitivity, TooLossy, least_kept

LAYERS = [Sensitivity(f"layer{i}", 1.0 / (i + 1)) for i in range(40)]


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 13, 20])
def test_finds_the_least_number_that_holds(needed: int) -> None:
    kept = least_kept(lambda: LAYERS, lambda keep: 0.01 if len(keep) < needed else 0.001, bound=0.002, most=20)
    assert kept.layers == tuple(item.layer for item in LAYERS[:needed])
    assert kept.drop == 0.001
    assert len(kept.tried) <= 12


def test_nothing_is_ranked_where_nothing_has_to_be_kept() -> None:
    def ranking() -> NoReturn:
        raise AssertionError("asked for a ranking")

    assert least_kept(ranking, lambda keep: 0.002, bound=0.002, most=20).layers == ()


def test_what_is_returned_was_measured_itself() -> None:
    """Losses are not monotone: a number between two that failed may hold."""
    lost = {0: 0.01, 1: 0.01, 2: 0.01, 4: 0.001, 3: 0.005}
    kept = least_kept(lambda: LAYERS, lambda keep: lost[len(keep)], bound=0.002, most=20)
    assert (len(kept.layers), kept.drop) == (4, 0.001)
    assert dict(kept.tried) == lost


@pytest.mark.parametrize("most", [1, 5, 20, 40])
def test_gives_up_after_the_most_that_may_be_kept(most: int) -> None:
    asked = []

    def drop_of(keep: tuple[str, ...]) -> float:
        asked.append(len(keep))
        return 0.01

    with pytest.raises(TooLossy, match=r"the smallest loss found is 0\.0100"):
        least_kept(lambda: LAYERS, drop_of, bound=0.002, most=most)
    assert max(asked) == most
    assert len(set(asked)) == len(asked)
