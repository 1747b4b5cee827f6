"""Ranges against what numpy finds in the same tensors, and a cache that never serves stale ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from graphs import every_kind, frames
from sdi.calibration.ranges import RANGE_METHODS, RangeSource, cached_ranges, histogram_limit, measure_ranges
from sdi.runtime.common.errors import InputError
from support import RecordedProgress

TENSORS = ["stem_relu.out", "half.out", "cat.out"]
COUNT = 3


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return every_kind()


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    """Every value of each tensor over the pictures, by ONNX's reference."""
    model = every_kind()
    model.graph.output.extend(v for v in model.graph.value_info if v.name in TENSORS)
    runner = ReferenceEvaluator(model)
    answers = [dict(zip(TENSORS, runner.run(TENSORS, {"frame": frame[None]}), strict=True)) for frame in frames(COUNT)]
    return {name: np.concatenate([answer[name].ravel() for answer in answers]) for name in TENSORS}


@pytest.fixture(scope="module")
def measured(model: onnx.ModelProto) -> dict[str, dict[str, float]]:
    pictures = [frame[None] for frame in frames(COUNT)]
    return {method: measure_ranges(model, pictures, method, TENSORS) for method in RANGE_METHODS}


def rounding_error(values: np.ndarray, limit: float) -> float:
    step = limit / 127
    return float(((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2).mean())


def test_minmax_is_the_greatest_absolute_value(
    measured: dict[str, dict[str, float]], values: dict[str, np.ndarray]
) -> None:
    for name in TENSORS:
        assert measured["minmax"][name] == pytest.approx(np.abs(values[name]).max(), rel=1e-5)


def test_percentile_is_numpys(measured: dict[str, dict[str, float]], values: dict[str, np.ndarray]) -> None:
    for name in TENSORS:
        wanted = np.quantile(np.abs(values[name]), 0.99999)
        assert measured["percentile"][name] == pytest.approx(wanted, rel=0.01)


def test_mse_is_nearly_the_best_limit_of_all(
    measured: dict[str, dict[str, float]], values: dict[str, np.ndarray]
) -> None:
    for name in TENSORS:
        greatest = np.abs(values[name]).max()
        best = min(rounding_error(values[name], limit) for limit in np.linspace(0.05, 1, 400) * greatest)
        assert rounding_error(values[name], measured["mse"][name]) <= 1.1 * best


@pytest.mark.parametrize("method", RANGE_METHODS)
def test_no_method_goes_beyond_the_greatest_value(measured: dict[str, dict[str, float]], method: str) -> None:
    for name, limit in measured[method].items():
        assert 0.1 * measured["minmax"][name] < limit <= measured["minmax"][name] * 1.001


def test_order_of_pictures_does_not_matter(model: onnx.ModelProto, measured: dict[str, dict[str, float]]) -> None:
    pictures = [frame[None] for frame in frames(COUNT)[::-1]]
    assert measure_ranges(model, pictures, "percentile", TENSORS) == measured["percentile"]
    assert measure_ranges(model, pictures, "mse", TENSORS) == measured["mse"]


def test_without_names_every_float_tensor_is_measured(model: onnx.ModelProto) -> None:
    found = measure_ranges(model, [frames(1)])
    graph = every_kind().graph
    assert {node.output[0] for node in graph.node} - {"saliency"} == set(found)
    assert model == every_kind()  # as it was


def test_outliers_are_cut_off_by_mse_alone_where_that_pays() -> None:
    edges = np.linspace(0, 100, 2049)
    counts = np.zeros(2048, np.int64)
    counts[:20] = 100_000  # nearly all below 1
    counts[-1] = 1
    limit = histogram_limit(counts, edges)
    assert limit < 60
    assert histogram_limit(counts[:20], edges[:21]) == pytest.approx(edges[20], rel=0.05)
    assert histogram_limit(np.zeros(10), np.linspace(0, 1, 11)) == 0


def test_no_picture_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match="ranges need at least one picture"):
        measure_ranges(model, [])


SOURCE = RangeSource("pictures", "{}", "weights", "graph", "minmax")


def cache(path: Path, source: RangeSource = SOURCE) -> tuple[dict[str, float], str, bool]:
    """What the cache answers, what it says, and whether it measured."""
    progress, calls = RecordedProgress(), []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"x": 1.5, "y": 2.0}

    return cached_ranges(path, source, measure, progress), progress.lines[0], bool(calls)


def test_ranges_are_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    assert cache(path) == ({"x": 1.5, "y": 2.0}, "measuring ranges: none are cached", True)
    ranges, said, measured = cache(path)
    assert (ranges, measured) == ({"x": 1.5, "y": 2.0}, False)
    assert said.startswith(f"ranges from {path}")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"pictures": "others"}, "the pictures"),
        ({"preprocessing": "[]", "graph": "other"}, "the preprocessing"),
        ({"weights": "other", "graph": "other"}, "the weights"),
        ({"pictures": "others", "weights": "other"}, "the pictures and the weights"),
        ({"graph": "other"}, "the graph (input size, or version of the exporter)"),
    ],
)
def test_stale_ranges_are_measured_again_and_it_is_said_why(
    tmp_path: Path, changed: dict[str, str], named: str
) -> None:
    path = tmp_path / "ranges.json"
    cache(path)
    values = {name: getattr(SOURCE, name) for name in ("pictures", "preprocessing", "weights", "graph", "method")}
    source = RangeSource(**(values | changed))
    _, said, measured = cache(path, source)
    assert measured
    assert said == f"measuring ranges: those in ranges.json are stale: changed since are {named}"
    assert not cache(path, source)[2]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "sdi-ranges", "ranges": {"x": "wide"}}'])
def test_damaged_cache_is_measured_again(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(text)
    _, said, measured = cache(path)
    assert (said, measured) == ("measuring ranges: ranges.json is damaged", True)
    assert json.loads(path.read_text())["ranges"] == {"x": 1.5, "y": 2.0}


def test_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    progress = RecordedProgress()
    ranges = cached_ranges(tmp_path / "absent" / "ranges.json", SOURCE, lambda: {"x": 1.0}, progress)
    assert ranges == {"x": 1.0}
    assert progress.lines[-1].startswith("the ranges are not cached: cannot write")
