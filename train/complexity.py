"""Parameters and multiply-accumulates of every registered network, beside the figures that its paper prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from sdi.runtime.common.progress import SILENT, Progress
from sdi.train.models import build_model, model_names, model_spec

__all__ = ["Complexity", "complexity", "complexity_rows", "complexity_table"]


@dataclass(frozen=True)
class Complexity:
    """What a network holds and what one picture costs."""

    parameters: int
    macs: int  # multiply-accumulates of its convolutions, every supervised map included, as the papers count


@dataclass(frozen=True)
class _Figures:
    """What a paper prints of its network, as printed."""

    paper: str
    million_parameters: float
    gmac: float


_TSERNET = "TSERNet, IEEE TIM 2022"
_CSEPNET = "CSEPNet, Measurement 2022"
_MINET = "MINet, IEEE TII 2024"

_PRINTED = {  # by model
    "tsernet": _Figures(_TSERNET, 189.64, 202.8),
    "csepnet": _Figures(_CSEPNET, 18.78, 57.9),
    "csepnet-resnet50": _Figures(_CSEPNET, 29.58, 15.4),
    "minet": _Figures(_MINET, 0.28, 0.27),
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
    """One row for each registered model, ablations after the networks, with plain values for JSON; about 20 s.

    `model`, `input` ("HxW", that of the paper's count, else the model's own), `parameters`, `gmac` (10^9
    multiply-accumulates), and `paper_parameters`, `paper_gmac`, `paper`, which are None where no paper prints them.
    """
    rows = []
    models = sorted(model_names(), key=lambda name: bool(model_spec(name).ablation))
    for model in progress.track(models, "counting"):
        spec = model_spec(model)
        height, width = _COUNTED_AT.get(spec.family, spec.input_hw)
        ours, printed = complexity(model, (height, width)), _PRINTED.get(model)
        rows.append(
            {
                "model": model,
                "input": f"{height}x{width}",
                "parameters": ours.parameters,
                "gmac": ours.macs / 1e9,
                "paper_parameters": round(printed.million_parameters * 1e6) if printed else None,
                "paper_gmac": printed.gmac if printed else None,
                "paper": printed.paper if printed else None,
            }
        )
    return rows


def complexity_table(rows: Iterable[dict[str, Any]]) -> Table:
    """The rows for people: parameters in millions, work in GMAC, the papers' figures where there are any."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("model", "input"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "paper", "GMAC", "paper"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        parameters, gmac = row["paper_parameters"], row["paper_gmac"]
        table.add_row(
            row["model"],
            row["input"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{parameters / 1e6:.2f} M" if parameters is not None else "",
            f"{row['gmac']:.2f}",
            f"{gmac:g}" if gmac is not None else "",
        )
    return table
