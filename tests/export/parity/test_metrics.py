"""Parity metrics against numpy and against what they are there to tell."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
import pytest

from sdi.export.parity.comparison import compare
from sdi.export.parity.metrics import QUANTILES, Parity, region_agreement
from sdi.export.parity.tolerances import TOLERANCES
from sdi.runtime.common.errors import InputError


@pytest.fixture(scope="module")
def maps() -> list[np.ndarray]:
    """Eight maps as a trained network answers them: most of it near 0, defects near 1, edges between."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(8):
        field = cv2.GaussianBlur(rng.random((96, 128)), (0, 0), 5)
        field = (field - field.mean()) / field.std()
        found.append((1 / (1 + np.exp(-(field - 1 - 0.1 * i) * 8))).astype(np.float32))
    return found


def parity_of(references: Iterable[np.ndarray], engines: Iterable[np.ndarray], threshold: float = 0.5) -> Parity:
    parity = Parity(threshold)
    for i, (reference, engine) in enumerate(zip(references, engines, strict=True)):
        parity.update(str(i), reference, engine.astype(np.float32))
    return parity


def test_metrics_equal_numpys() -> None:
    rng = np.random.default_rng(0)
    references = rng.random((5, 40, 60)).astype(np.float32)
    engines = (references + rng.normal(0, 1e-3, references.shape)).clip(0, 1).astype(np.float32)
    parity = parity_of(references, engines)
    difference = np.abs(engines.astype(np.float64) - references)
    masks = references >= 0.5, engines >= 0.5
    assert parity.max == difference.max()
    assert parity.mean == pytest.approx(difference.mean())
    assert parity.p999 == pytest.approx(np.quantile(difference, 0.999), rel=0.01)
    assert parity.iou == (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert parity.peak == pytest.approx(np.abs(engines.max((1, 2)) - references.max((1, 2))).max(), abs=1e-6)
    wanted = np.polyfit(np.sort(references.ravel()), np.sort(engines.ravel()), 1)[0]
    assert parity.slope == pytest.approx(wanted, abs=1e-4)


def test_quantiles_equal_numpys(maps: list[np.ndarray]) -> None:
    quantiles = parity_of(maps, [m * 0.9 for m in maps]).quantiles()
    for side, factor in (("reference", 1.0), ("engine", 0.9)):
        expected = np.quantile(np.stack(maps) * factor, np.array(QUANTILES) / 100)
        assert list(quantiles[side].values()) == pytest.approx(expected.tolist(), abs=2e-3)


def test_equal_maps_have_no_difference(maps: list[np.ndarray]) -> None:
    for equal in ([np.zeros((4, 4), np.float32)], maps):
        metrics = parity_of(equal, equal).to_dict()
        assert metrics.pop("slope") == pytest.approx(1)
        assert metrics.pop("saturation") == pytest.approx(0, abs=1e-12)
        assert metrics == {
            "max": 0.0, "p999": 0.0, "mean": 0.0, "iou": 1.0, "regions": 1.0, "quantile": 0.0, "peak": 0.0,
        }  # fmt: skip


@pytest.mark.parametrize("factor", [0.8, 0.9, 0.99])
def test_slope_is_the_factor_of_a_compression_wherever_the_values_lie(maps: list[np.ndarray], factor: float) -> None:
    moved = [np.roll(m, 2, axis=1) * factor for m in maps]
    assert parity_of(maps, moved).slope == pytest.approx(factor, abs=1e-3)


def test_moved_edges_are_no_saturation(maps: list[np.ndarray]) -> None:
    parity = parity_of(maps, [np.roll(m, 2, axis=1) for m in maps])
    assert parity.max > 0.5
    assert parity.iou < 0.8
    assert parity.to_dict()["saturation"] < 1e-6
    assert parity.quantile == 0


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_a_map_compressed_by_a_fifth_is_caught_as_such(maps: list[np.ndarray], precision: str) -> None:
    failures = " ".join(TOLERANCES[precision].failures(parity_of(maps, [m * 0.8 for m in maps])))
    assert "saturation" in failures
    assert "quantile shift" in failures


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_a_stretch_to_the_whole_range_is_caught_on_a_dark_map(maps: list[np.ndarray], precision: str) -> None:
    dark = [*maps, maps[0] * 0.1]
    stretched = [(m - m.min()) / (m.max() - m.min()) for m in dark]
    failures = TOLERANCES[precision].failures(parity_of(dark, stretched))
    assert any(failure.startswith("peak shift") for failure in failures)


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_wrong_values_fail_whatever_the_precision(precision: str) -> None:
    good = np.full((50, 50), 0.75, np.float32)
    for changed in (good - 0.3, np.full_like(good, math.nan)):
        assert TOLERANCES[precision].failures(parity_of([good], [changed]))
    assert TOLERANCES[precision].failures(parity_of([good], [good])) == []


def squares(*places: tuple[int, int, int, int]) -> np.ndarray:
    """A map with squares: (left, top, side, level)."""
    found = np.zeros((100, 100), np.uint8)
    for left, top, side, level in places:
        found[top : top + side, left : left + side] = level
    return found


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (squares((10, 10, 20, 255), (60, 60, 20, 255)), (4, 4)),
        (squares((10, 10, 20, 255)), (2, 3)),  # one is lost: it has no partner
        (squares((10, 10, 20, 255), (60, 60, 20, 255), (5, 80, 10, 255)), (4, 5)),  # one came
        (squares((16, 10, 20, 255), (60, 60, 20, 255)), (4, 4)),  # IoU 14/26
        (squares((18, 10, 20, 255), (60, 60, 20, 255)), (2, 4)),  # IoU 12/28: neither has one
        (squares((10, 10, 20, 125), (60, 60, 20, 255)), (3, 3)),  # under the threshold by a hundredth
        (squares((10, 10, 20, 100), (60, 60, 20, 255)), (2, 3)),
        (squares((10, 10, 20, 255), (60, 60, 20, 255), (90, 5, 3, 255)), (4, 4)),  # nine pixels do not count
    ],
)  # fmt: skip
def test_region_agreement(engine: np.ndarray, expected: tuple[int, int]) -> None:
    reference = squares((10, 10, 20, 255), (60, 60, 20, 255))
    assert region_agreement(reference, engine, 0.5) == expected
    assert region_agreement(engine, reference, 0.5) == expected  # neither side is the better one


def test_regions_that_a_pixel_parts_are_partners() -> None:
    whole = squares((10, 10, 30, 255), (40, 20, 1, 129), (41, 10, 30, 255))
    parted = squares((10, 10, 30, 255), (40, 20, 1, 126), (41, 10, 30, 255))
    assert region_agreement(whole, parted, 0.5) == (3, 3)


def test_compare_refuses_what_cannot_be_compared() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InputError, match="at least one picture"):
        compare(lambda f: f[..., 0], lambda f: f[..., 0], [])
    with pytest.raises(InputError, match="x: the reference answers"):
        compare(lambda f: np.zeros((1, 4, 4)), lambda f: np.zeros((1, 2, 2)), [("x", frame)])
    with pytest.raises(InputError, match="x: the reference's own map holds values that are not finite"):
        compare(lambda f: np.full((1, 4, 4), np.inf), lambda f: np.zeros((1, 4, 4)), [("x", frame)])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_overflow_in_the_engine_fails_the_gate(wrong: float) -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    parity = compare(lambda f: np.full((1, 4, 4), 0.4), lambda f: np.full((1, 4, 4), wrong), [("x", frame)])
    assert (parity.max, parity.p999, parity.mean) == (1, 1, 1)
    assert len(TOLERANCES["fp16"].failures(parity)) >= 3
