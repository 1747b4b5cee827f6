from __future__ import annotations

from pathlib import Path

from sdi.train.data import find_pairs
from sdi.train.evaluation.paper_tables import KINDS, is_papers_test_split, paper_rows
from sdi.train.scores import SCORE_NAMES


def test_rows_are_complete_and_named_once() -> None:
    rows = paper_rows()
    assert len({(row.method, row.kind) for row in rows}) == len(rows)
    for row in rows:
        assert row.kind in KINDS
        assert row.source
        assert row.url.startswith("https://") or (row.kind, row.url) == ("measured", "")
        assert "S" in row.figures
        assert all(name in SCORE_NAMES and 0 < float(figure) < 1 for name, figure in row.figures.items()), row


def test_the_best_s_comes_first() -> None:
    values = [float(row.figures["S"]) for row in paper_rows()]
    assert values == sorted(values, reverse=True)


def test_published_and_measured_figures_of_a_method_agree() -> None:
    """Within what the papers' rounding allows."""
    published = {row.method: row.figures for row in paper_rows() if row.kind == "published"}
    both = [(row, published[row.method]) for row in paper_rows() if row.kind == "measured" and row.method in published]
    assert {row.method for row, _ in both} == {"TSERNet", "CSEPNet (VGG-16)"}
    for row, printed in both:
        for name, figure in printed.items():
            assert abs(float(row.figures[name]) - float(figure)) < 0.001, (row.method, name)


def test_figures_hold_for_the_360_test_pictures_alone(steel_data: Path) -> None:
    names = [pair.name for pair in find_pairs(steel_data, "test")]
    assert is_papers_test_split(names)
    assert is_papers_test_split(reversed(names))
    assert not is_papers_test_split(names[:-1])
    assert not is_papers_test_split(pair.name for pair in find_pairs(steel_data, "train"))
