"""Parity figures against numpy, and gates that bite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sdi.export.parity import TOLERANCES, Parity, compare
from sdi.runtime.errors import InputError


def test_figures_equal_numpys():
    rng = np.random.default_rng(0)
    references = rng.random((5, 40, 60)).astype(np.float32)
    engines = (references + rng.normal(0, 1e-3, references.shape)).astype(np.float32)
    parity = Parity()
    for i in range(5):
        parity.update(str(i), references[i], engines[i])
    difference = np.abs(engines.astype(np.float64) - references)
    masks = references >= 0.5, engines >= 0.5
    assert parity.max == difference.max()
    assert parity.mean == pytest.approx(difference.mean())
    assert parity.p999 == pytest.approx(np.quantile(difference, 0.999), rel=0.01)
    assert parity.iou == (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def test_equal_maps_have_no_difference():
    parity = Parity()
    parity.update("a", np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32))
    assert parity.to_dict() == {"max": 0.0, "p999": 0.0, "mean": 0.0, "iou": 1.0}


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_tolerance_fails_on_each_figure(precision):
    tolerance = TOLERANCES[precision]
    good = np.full((50, 50), 0.75, np.float32)
    for changed in (good - 0.3, good * 0.8, np.full_like(good, math.nan)):
        parity = Parity()
        parity.update("a", good, changed)
        assert tolerance.failures(parity)
    parity = Parity()
    parity.update("a", good, good)
    assert tolerance.failures(parity) == []


def test_map_compressed_by_a_fifth_is_caught():
    good = np.linspace(0, 1, 2500, dtype=np.float32).reshape(50, 50)
    parity = Parity()
    parity.update("a", good, good * 0.8)
    assert len(TOLERANCES["fp16"].failures(parity)) == 4


def test_compare_refuses_what_cannot_be_compared():
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InputError, match="at least one picture"):
        compare(lambda f: f[..., 0], lambda f: f[..., 0], [])
    with pytest.raises(InputError, match="x: the reference answers"):
        compare(lambda f: np.zeros((1, 4, 4)), lambda f: np.zeros((1, 2, 2)), [("x", frame)])
    with pytest.raises(InputError, match="x: the reference's own map holds values that are no numbers"):
        compare(lambda f: np.full((1, 4, 4), np.inf), lambda f: np.zeros((1, 4, 4)), [("x", frame)])


def test_overflow_in_the_engine_fails_the_gate():
    frame = np.zeros((4, 4, 3), np.uint8)
    parity = compare(lambda f: np.ones((1, 4, 4)), lambda f: np.full((1, 4, 4), np.nan), [("x", frame)])
    assert parity.to_dict() == {"max": 1.0, "p999": 1.0, "mean": 1.0, "iou": 0.0}
    assert len(TOLERANCES["fp16"].failures(parity)) == 4
