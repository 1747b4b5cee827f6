"""`sdi-eval` against known scores and hand-made folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdi.runtime.images import write_image
from sdi.train.eval_cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def steel(steel_tree: Callable[..., Path]) -> Path:
    return steel_tree([f"In_{i}" for i in range(2)], ["Pa_0", "Sc_0", "Sc_1"])


def test_scores_all_and_each_class(run_command: Run, steel: Path) -> None:
    code, out, _ = run_command(main, "--maps", steel / "Ground truth", "--data", steel, "--json")
    assert code == 0
    rows = json.loads(out)
    assert {name: row["pictures"] for name, row in rows.items()} == {"all": 3, "class Pa": 1, "class Sc": 2}
    for row in rows.values():  # the truth itself
        assert (row["maxF"], row["MAE"]) == (pytest.approx(1), 0)


def test_table_names_the_measures(run_command: Run, steel: Path) -> None:
    code, out, _ = run_command(main, "--maps", steel / "Ground truth", "--data", steel, "--split", "train")
    assert code == 0
    assert all(name in out for name in ("pictures", "S", "maxF", "meanE", "MAE", "class In"))


def test_missing_map_is_named(run_command: Run, steel: Path, tmp_path: Path) -> None:
    code, _, err = run_command(main, "--maps", tmp_path, "--data", steel)
    assert code == 2
    assert "3 of 3 pictures have no map" in err
    assert "Pa_0.png" in err


def test_map_of_another_size_is_named(run_command: Run, steel: Path, tmp_path: Path) -> None:
    for name in ("Pa_0", "Sc_0", "Sc_1"):
        write_image(tmp_path / f"{name}.png", np.zeros((10, 12), np.uint8))
    code, _, err = run_command(main, "--maps", tmp_path, "--data", steel)
    assert code == 2
    assert "Pa_0.png is 12x10, its mask 40x40" in err
    assert "Traceback" not in err


def test_published_maps_have_their_known_scores(run_command: Run, steel_data: Path) -> None:
    maps = steel_data.parent / "published-maps" / "csepnet"
    if not maps.is_dir():
        pytest.skip(f"the published maps are not at {maps}")
    code, out, _ = run_command(main, "--maps", maps, "--data", steel_data, "--json")
    assert code == 0
    row = json.loads(out)["all"]
    assert row["pictures"] == 360
    assert [f"{row[name]:.4f}" for name in ("S", "maxF", "MAE")] == ["0.8836", "0.8821", "0.0229"]
