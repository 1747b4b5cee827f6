from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdi.runtime.common.console import out
from sdi.runtime.common.errors import InputError
from sdi.train.complexity import complexity, complexity_rows, complexity_table
from sdi.train.evaluation.paper_tables import ablation_rows
from sdi.train.models import build_model, model_names, model_spec

# What each network holds and costs: parameters and MACs of one picture at the size that its paper counts at.
PINNED = {
    "csepnet": ("256x256", 18_775_142, 49_375_486_208),
    "csepnet-resnet50": ("256x256", 29_581_414, 13_256_810_432),
    "minet": ("368x368", 277_477, 263_973_696),
    "tsernet": ("224x224", 189_643_918, 202_789_766_144),
    "tsernet-lite": ("256x256", 1_863_680, 1_174_169_600),
    "tsernet-s": ("224x224", 11_884_078, 12_734_731_520),
    "tsernet-xs": ("224x224", 2_981_470, 3_203_806_592),
    "csepnet-baseline": ("256x256", 16_324_175, 28_758_638_592),
    "csepnet-csfim-with-cscm": ("256x256", 18_775_142, 49_375_486_208),
    "csepnet-no-bottom-ce": ("256x256", 18_765_574, 49_355_956_480),
    "csepnet-no-cbam": ("256x256", 18_698_609, 49_371_132_416),
    "csepnet-no-cross-scale": ("256x256", 18_618_038, 48_496_648_448),
    "csepnet-no-cscm": ("256x256", 18_294_398, 43_780_143_360),
    "csepnet-no-csfim": ("256x256", 16_881_452, 34_358_335_232),
    "csepnet-no-cswm": ("256x256", 18_146_524, 43_742_369_536),
    "csepnet-no-recalibration": ("256x256", 18_729_030, 49_043_480_832),
    "csepnet-no-top-ce": ("256x256", 18_738_598, 49_063_010_560),
    "csepnet-only-cbam": ("256x256", 16_400_708, 28_762_992_384),
    "csepnet-only-cscm": ("256x256", 16_804_919, 34_353_981_440),
    "csepnet-only-csfim": ("256x256", 18_217_865, 43_775_789_568),
    "tsernet-no-big": ("224x224", 158_211_982, 170_882_647_040),
    "tsernet-no-efbi": ("224x224", 103_206_094, 115_045_188_608),
    "tsernet-no-erm": ("224x224", 189_198_222, 195_381_530_624),
    "tsernet-no-fig": ("224x224", 134_638_030, 146_952_307_712),
    "tsernet-no-s-edge": ("224x224", 189_493_902, 200_294_764_544),
    "tsernet-no-self-edge": ("224x224", 189_496_462, 200_333_149_184),
    "tsernet-no-subnet": ("224x224", 188_713_737, 187_908_267_008),
}

MI_MODULES = ((3, 32, 92), (4, 64, 46), (6, 96, 23), (3, 128, 12))  # modules, channels and side, level by level
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture(scope="module")
def all_rows() -> list[dict[str, Any]]:
    return complexity_rows()


@pytest.fixture(scope="module")
def rows(all_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the networks that are here."""
    return [row for row in all_rows if row["kind"] == "ours"]


def test_every_model_holds_and_costs_what_it_should(rows: list[dict[str, Any]]) -> None:
    assert {row["model"]: (row["input"], row["parameters"], round(row["gmac"] * 1e9)) for row in rows} == PINNED


def test_networks_come_before_ablations(rows: list[dict[str, Any]]) -> None:
    names = [row["model"] for row in rows]
    assert sorted(names) == model_names()
    ablations = [bool(model_spec(name).ablation) for name in names]
    assert ablations == sorted(ablations)


def test_parameters_are_those_that_the_papers_print(rows: list[dict[str, Any]]) -> None:
    printed = {row["model"]: row for row in rows if row["paper"]}
    assert set(printed) == {"csepnet", "csepnet-resnet50", "minet", "tsernet"}
    for row in printed.values():
        assert round(row["parameters"] / 1e6, 2) == row["paper_parameters"] / 1e6


def test_tsernets_work_is_what_its_paper_prints(rows: list[dict[str, Any]]) -> None:
    (row,) = (row for row in rows if row["model"] == "tsernet")
    assert round(row["gmac"], 1) == row["paper_gmac"]


def test_minets_work_is_what_its_paper_prints(rows: list[dict[str, Any]]) -> None:
    """Theirs mixes scales in 4-to-1 convolutions; ours in a weighted sum, which the counter does not see."""
    (row,) = (row for row in rows if row["model"] == "minet")
    mixed = sum(modules * 4 * channels * side**2 for modules, channels, side in MI_MODULES)
    assert round(row["gmac"] + mixed / 1e9, 2) == row["paper_gmac"]


@pytest.mark.parametrize(("name", "published_gmac"), [("csepnet", "57.9"), ("csepnet-resnet50", "15.4")])
def test_csepnets_work_is_the_papers_less_what_ran_twice(name: str, published_gmac: str) -> None:
    """The published program runs the CSFIMs of levels 2..5 once for the decoder and once more for the side maps."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(name)(torch.empty(1, 3, 256, 256))  # in training mode: every map
    repeated = sum(sum(counter.get_flop_counts()[f"CSEPNet.purify.{i}"].values()) for i in range(1, 5))
    assert f"{(counter.get_total_flops() + repeated) / 2e9:.1f}" == published_gmac


def test_work_grows_with_the_picture_and_parameters_do_not() -> None:
    one, two = complexity("minet", (64, 64)), complexity("minet", (128, 64))
    assert two.parameters == one.parameters
    assert two.macs == 2 * one.macs


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InputError, match="unknown model 'u2net'"):
        complexity("u2net", (64, 64))


def test_compared_methods_follow_by_kind_with_what_both_papers_print(all_rows: list[dict[str, Any]]) -> None:
    compared = [row for row in all_rows if row["kind"] != "ours"]
    assert all_rows[-len(compared) :] == compared
    assert len(compared) == 28  # 23 and 27 rows, 20 of them the same methods, less TSERNet and CSEPNet
    kinds = list(dict.fromkeys(row["kind"] for row in compared))
    assert kinds == ["steel", "camouflaged objects", "natural images", "traditional"]
    for kind in kinds:
        scores = [row["paper_S"] for row in compared if row["kind"] == kind]
        assert scores == sorted(scores, reverse=True)
    (edrnet,) = (row for row in compared if row["model"] == "EDRNet 2020")
    assert (edrnet["paper_parameters"], edrnet["paper_gmac"], edrnet["paper_S"]) == (39_310_000, 42.0, 0.877)
    assert edrnet["parameters"] is None


def test_rows_are_plain_and_fit_a_terminal(all_rows: list[dict[str, Any]]) -> None:
    assert json.loads(json.dumps(all_rows)) == all_rows
    with out.capture() as shown:
        out.print(complexity_table(all_rows))
    lines = shown.get().splitlines()
    assert len(lines) == 1 + len(all_rows) + 5  # and a heading for each kind
    assert max(map(len, lines)) <= 80
    tsernet = next(line for line in lines if line.startswith("tsernet "))
    assert tsernet.split() == ["tsernet", "224x224", "189.64", "M", "189.64", "M", "202.79", "202.8", ".886"]
    bc = next(line for line in lines if line.startswith("BC 2014"))
    assert bc.split() == ["BC", "2014", ".592"]


def test_the_document_shows_these_figures(rows: list[dict[str, Any]]) -> None:
    shown = {name: cells[-2:] for name, cells in document_rows().items()}
    wanted = {row["model"]: [f"{row['parameters'] / 1e6:.2f} M", f"{row['gmac']:.2f}"] for row in rows}
    assert shown == wanted


def test_the_document_shows_the_scores_that_the_papers_print_of_ablations() -> None:
    shown = {name: cells[-6:-2] for name, cells in document_rows().items() if model_spec(name).ablation}
    printed = {row.model: row.metrics for row in ablation_rows()}
    wanted = {name: [printed.get(name, {}).get(score, "") for score in ("S", "maxF", "maxE", "MAE")] for name in shown}
    assert shown == wanted
    assert sum(any(scores) for scores in shown.values()) == 17


def document_rows() -> dict[str, list[str]]:
    """Cells by the model that a row begins with."""
    lines = (line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `"))
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0].strip("`"): row for row in cells}
