"""The ablations of TSERNet's Tables II and III and of CSEPNet's Tables 2 and 4, as arguments of the whole networks.

A table maps the end of a variant's name to what it leaves out and to what the network is built with. CSEPNet's Table 2
adds CBAM, then CSCM or CSFIM, then both; there is a variant for each other choice of the three blocks too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from sdi.train.models.csepnet import CSCM, CSFIM, ScaleSum

__all__ = ["CSEPNET_ABLATIONS", "TSERNET_ABLATIONS"]

TSERNET_ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "no-subnet": ("stage 2", {"subnet": False}),
    "no-efbi": ("FIG and BIG", {"foreground": False, "background": False}),
    "no-fig": ("the foreground branch of each EFBI", {"foreground": False}),
    "no-big": ("the background branch of each EFBI", {"background": False}),
    "no-erm": ("both edges in each ERM", {"self_edge": False, "edge_map": False}),
    "no-self-edge": ("the feature's own edge in each ERM", {"self_edge": False}),
    "no-s-edge": ("stage 1's edge map in each ERM", {"edge_map": False}),
}

_NO_CBAM = {"attend": nn.Identity}
_NO_CSCM = {"combine": ScaleSum}
_NO_CSFIM = {"purify": nn.Identity}

CSEPNET_ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("CBAM, CSCM and CSFIM", _NO_CBAM | _NO_CSCM | _NO_CSFIM),
    "only-cbam": ("CSCM and CSFIM", _NO_CSCM | _NO_CSFIM),
    "only-cscm": ("CBAM and CSFIM", _NO_CBAM | _NO_CSFIM),
    "only-csfim": ("CBAM and CSCM", _NO_CBAM | _NO_CSCM),
    "no-cbam": ("CBAM", _NO_CBAM),
    "no-cscm": ("CSCM", _NO_CSCM),
    "no-csfim": ("CSFIM", _NO_CSFIM),
    "no-cross-scale": ("the exchange between a CSFIM's scales", {"purify": partial(CSFIM, cross_scale=False)}),
    "no-recalibration": (
        "both contrast enhancements of each CSFIM",
        {"purify": partial(CSFIM, top_contrast=False, bottom_contrast=False)},
    ),
    "no-top-ce": ("contrast enhancement at a CSFIM's own scale", {"purify": partial(CSFIM, top_contrast=False)}),
    "no-bottom-ce": ("contrast enhancement at half its scale", {"purify": partial(CSFIM, bottom_contrast=False)}),
    "no-cswm": ("the weights between a CSFIM's scales", {"purify": partial(CSFIM, merge=ScaleSum)}),
    "csfim-with-cscm": ("CSWM in each CSFIM, for a CSCM", {"purify": partial(CSFIM, merge=CSCM)}),
}
