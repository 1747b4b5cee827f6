"""Defect classes, read from file names: `In_12` is of class `In`."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["defect_class", "fair_shares"]


def defect_class(name: str) -> str:
    """The name before its last `_`; empty where there is none."""
    return name.rpartition("_")[0]


def fair_shares(counts: Mapping[str, int], size: int) -> dict[str, int]:
    """How many of `size` each class gives, in proportion to its count: largest remainders, then by name.

    Args:
        counts: members of each class.
        size: at most their sum.
    """
    total = sum(counts.values())
    exact = {name: size * count / total for name, count in counts.items()}
    shares = {name: int(share) for name, share in exact.items()}
    most_wanting = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in most_wanting[: size - sum(shares.values())]:
        shares[name] += 1
    return shares
