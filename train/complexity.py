"""Parameters and multiply-accumulates of every registered network, beside what the papers print of it and of others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from sdi.runtime.common.progress import SILENT, Progress
from sdi.train.evaluation.paper_tables import KINDS, PaperRow, ablation_rows, paper_rows
from sdi.train.models import build_model, model_names, model_spec

__all__ = ["Complexity", "complexity", "complexity_rows", "complexity_table"]


@dataclass(frozen=True)
class Complexity:
    """What a network holds and what one picture costs."""

    parameters: int
    macs: int  # multiply-accumulates of its convolutions, every supervised map included, as the papers count


@dataclass(frozen=True)
class _Printed:
    """What a paper prints of its own network."""

    paper: str
    million_parameters: float
    gmac: float


_TSERNET = "TSERNet, IEEE TIM 2022"
_CSEPNET = "CSEPNet, Measurement 2022"
_MINET = "MINet, IEEE TII 2024"

_PRINTED = {  # by model
    "tsernet": _Printed(_TSERNET, 189.64, 202.8),
    "csepnet": _Printed(_CSEPNET, 18.78, 57.9),
    "csepnet-resnet50": _Printed(_CSEPNET, 29.58, 15.4),
    "minet": _Printed(_MINET, 0.28, 0.27),
}
_COUNTED_AT = {"tsernet": (224, 224), "csepnet": (256, 256), "minet": (368, 368)}  # by family: the papers' input sizes


def complexity(model: str, input_hw: tuple[int, int]) -> Complexity:
    """Count what `model` takes for one picture of `input_hw`, without weights or arithmetic.

    torch's counter counts two floating-point operations a multiply-accumulate, in convolutions and matrix products
    alone: resizing, normalising and adding cost nothing here, as in the papers.

    Raises:
        InputError: unknown model.
    """
    with torch.device("meta"):
        network, picture = build_model(model).eval(), torch.empty(1, 3, *input_hw)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.maps(picture, every=True)
    parameters = sum(p.numel() for p in network.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2)


def complexity_rows(progress: Progress = SILENT) -> list[dict[str, Any]]:
    """One row for each registered model, ablations after the networks, then one for each method that the papers
    compare with, by kind and best S first; plain values for JSON; about 20 s.

    `model`, `kind` ("ours", or what a compared method was made for), `input` ("HxW", that of the paper's count, else
    the model's own), `parameters`, `gmac` (10^9 multiply-accumulates), counted here and None for compared methods;
    `paper_parameters`, `paper_gmac`, `paper_S` (on the 360 test pictures of SD-saliency-900) and `paper`, which are
    None where no paper prints them.
    """
    models = sorted(model_names(), key=lambda name: bool(model_spec(name).ablation))
    rows = [_own_row(model) for model in progress.track(models, "counting")]
    compared = [row for row in paper_rows() if row.origin == "printed" and not row.model]
    return rows + [_compared_row(row) for kind in KINDS for row in compared if row.kind == kind]


def _own_row(model: str) -> dict[str, Any]:
    spec = model_spec(model)
    height, width = _COUNTED_AT.get(spec.family, spec.input_hw)
    ours, printed = complexity(model, (height, width)), _PRINTED.get(model)
    # The whole network stands in each table of ablations; its own row has the same scores.
    scores = {row.model: row.metrics["S"] for row in ablation_rows()}
    return {
        "model": model,
        "kind": "ours",
        "input": f"{height}x{width}",
        "parameters": ours.parameters,
        "gmac": ours.macs / 1e9,
        "paper_parameters": round(printed.million_parameters * 1e6) if printed else None,
        "paper_gmac": printed.gmac if printed else None,
        "paper_S": float(scores[model]) if model in scores else None,
        "paper": printed.paper if printed else None,
    }


def _compared_row(row: PaperRow) -> dict[str, Any]:
    parameters = row.million_parameters.partition("/")[0]  # where two papers differ, the first one's
    return {
        "model": row.name,
        "kind": row.kind,
        "input": None,
        "parameters": None,
        "gmac": None,
        "paper_parameters": round(float(parameters) * 1e6) if parameters else None,
        "paper_gmac": float(row.gmac) if row.gmac else None,
        "paper_S": float(row.metrics["S"]),
        "paper": row.source,
    }


def complexity_table(rows: Iterable[dict[str, Any]]) -> Table:
    """The rows for people, under a line for each kind: parameters in millions, work in GMAC, what the papers print."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("model", "input"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "paper", "GMAC", "paper", "S"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, members in groupby(rows, key=lambda row: row["kind"]):
        table.add_row("counted here" if kind == "ours" else f"for {kind}", style="bold")
        for row in members:
            table.add_row(
                row["model"],
                row["input"] or "",
                _millions(row["parameters"]),
                _millions(row["paper_parameters"]),
                "" if row["gmac"] is None else f"{row['gmac']:.2f}",
                "" if row["paper_gmac"] is None else f"{row['paper_gmac']:g}",
                "" if row["paper_S"] is None else _score(row["paper_S"]),
            )
    return table


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f} M"


def _score(value: float) -> str:
    """As the papers write it, .886 or .8835."""
    return f"{value:.{3 if round(value, 3) == value else 4}f}".removeprefix("0")
