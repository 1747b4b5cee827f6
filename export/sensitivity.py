"""Which layers lose most in INT8, and which of them have to stay in high precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Kept", "Sensitivity", "TooLossy", "least_kept"]


@dataclass(frozen=True)
class Sensitivity:
    """A layer, and the error of the map when it alone is quantised: mean |difference| of a probability."""

    layer: str
    error: float


@dataclass(frozen=True)
class Kept:
    """The outcome of the search: layers that stay in high precision, and what is then lost."""

    layers: tuple[str, ...]
    drop: float
    tried: tuple[tuple[int, float], ...]  # (layers kept, what was lost), in the order of the search


class TooLossy(Exception):
    """The bound cannot be held.

    Attributes:
        tried: as in `Kept`.
    """

    def __init__(self, tried: Sequence[tuple[int, float]]) -> None:
        super().__init__(f"the smallest loss found is {min(drop for _, drop in tried):.4f}")
        self.tried = tuple(tried)


def least_kept(
    ranking: Callable[[], Iterable[Sensitivity]],
    drop_of: Callable[[tuple[str, ...]], float],
    bound: float,
    most: int,
) -> Kept:
    """Keep as few of the worst layers as hold the bound.

    The number is doubled until the bound holds and then bisected down, so a hundred layers take about a dozen
    measurements. What is returned was itself measured.

    Args:
        ranking: ranks the layers, worst first; not called when the bound holds with all of them quantised.
        drop_of: what is lost when these layers are kept in high precision.
        most: keep no more than this many.
    Raises:
        TooLossy: the bound does not hold with `most` of them kept either.
    """
    tried: list[tuple[int, float]] = []
    worst: list[str] = []

    def holds(count: int) -> bool:
        tried.append((count, drop_of(tuple(worst[:count]))))
        return tried[-1][1] <= bound

    if holds(0):
        return Kept((), tried[-1][1], tuple(tried))
    worst = [item.layer for item in ranking()]
    most = min(most, len(worst))
    failed, count = 0, 1
    while count <= most and not holds(count):
        failed, count = count, min(2 * count, most) if count < most else most + 1
    if count > most:
        raise TooLossy(tried)
    while count - failed > 1:
        middle = (failed + count) // 2
        if holds(middle):
            count = middle
        else:
            failed = middle
    return Kept(tuple(worst[:count]), dict(tried)[count], tuple(tried))
