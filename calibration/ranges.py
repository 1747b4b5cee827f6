"""Ranges of a network's tensors over real pictures, measured by ONNX Runtime in float32, and their cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.files import write_text
from sdi.runtime.common.int8_limit import least_error_limit
from sdi.runtime.common.progress import SILENT, Progress

if TYPE_CHECKING:
    import onnx

__all__ = ["RANGE_METHODS", "RangeMethod", "RangeSource", "cached_ranges", "histogram_limit", "measure_ranges"]

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)
_ENTROPY_BINS = 512
_FORMAT = "sdi-ranges"


def measure_ranges(
    model: onnx.ModelProto,
    frames: Iterable[np.ndarray],
    method: RangeMethod = "minmax",
    tensors: Iterable[str] | None = None,
) -> dict[str, float]:
    """Measure the limit of each tensor: the absolute value up to which INT8 represents it.

    `minmax` is the maximum; `percentile` (99.999 % of the absolute values) and `entropy` are ONNX Runtime's; `mse` is
    the limit with the smallest squared error of eight bits (`least_error_limit`), over ONNX Runtime's histograms.

    Args:
        model: float32, with types in its value_info.
        frames: as the model wants them, each a call; gone through twice but for `minmax`.
        tensors: which; None takes every float tensor.
    Raises:
        InputError: no frame, or a tensor with values that are not finite.
    """
    limits = _maximum_values(model, frames, tensors)
    if wrong := [name for name, limit in limits.items() if not np.isfinite(limit)]:
        raise InputError(
            f"tensor '{wrong[0]}' holds values that are not finite in float32; the weights are broken, train them again"
        )
    if method != "minmax":
        found = _histogram_limits(model, frames, method, limits)
        # Where nearly all is zero, a histogram's limit may be zero too: then the maximum is taken.
        limits = {name: found.get(name) or limit for name, limit in limits.items()}
    return dict(sorted(limits.items()))


def histogram_limit(counts: np.ndarray, edges: np.ndarray) -> float:
    """`least_error_limit` of values that are known by their histogram; a bin counts at its middle.

    Args:
        counts: (B,) histogram of absolute values.
        edges: (B + 1,) of its bins.
    """
    filled = np.flatnonzero(counts)
    if not len(filled):
        return 0.0
    middles = ((edges[:-1] + edges[1:]) / 2)[filled].astype(np.float64)
    return least_error_limit(middles, counts[filled].astype(np.float64), maximum=float(edges[filled[-1] + 1]))


def _maximum_values(
    model: onnx.ModelProto, frames: Iterable[np.ndarray], tensors: Iterable[str] | None
) -> dict[str, float]:
    """The maximum absolute value of each tensor.

    ONNX Runtime's own MinMaxCalibrater holds several copies of the model, too many of one that has 760 MB.
    """
    import onnx
    import onnxruntime

    graph = model.graph
    known = {
        v.name for v in (*graph.value_info, *graph.output) if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    wanted = known - {constant.name for constant in graph.initializer}
    names = sorted(wanted if tensors is None else wanted.intersection(tensors))
    reduced = [(kind, name, f"{name}.{kind}") for name in names for kind in ("ReduceMin", "ReduceMax")]
    nodes, outputs = list(graph.node), list(graph.output)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Beyond this, operators would be fused over the tensors that are looked at.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # Reductions run right behind what they reduce. In the default order they run last, and every tensor of the
    # network is alive until then.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Neither a second copy of the weights, laid out anew, nor memory kept for later runs.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    with tempfile.TemporaryDirectory(prefix="sdi-ranges-") as folder:
        path = Path(folder) / "augmented.onnx"
        try:  # changed for the moment of saving: a copy might be large
            behind: dict[str, list[onnx.NodeProto]] = {name: [] for name in names}
            for kind, name, out in reduced:
                behind[name].append(onnx.helper.make_node(kind, [name], [out], keepdims=0))
            del graph.node[:]
            for node in nodes:
                graph.node.append(node)
                graph.node.extend(reduction for name in node.output for reduction in behind.get(name, ()))
            del graph.output[:]
            graph.output.extend(
                onnx.helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, []) for *_, out in reduced
            )
            onnx.save(model, path)
        finally:
            del graph.node[:]
            graph.node.extend(nodes)
            del graph.output[:]
            graph.output.extend(outputs)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    maximum: np.ndarray | None = None
    for frame in frames:
        found = np.abs(np.array(session.run(None, {"frame": frame}), np.float64)).reshape(len(names), 2).max(axis=1)
        maximum = found if maximum is None else np.maximum(maximum, found)
    if maximum is None:
        raise InputError("ranges need at least one picture")
    return dict(zip(names, maximum.tolist(), strict=True))


def _histogram_limits(
    model: onnx.ModelProto, frames: Iterable[np.ndarray], method: RangeMethod, maximum: dict[str, float]
) -> dict[str, float]:
    """Limits that are found in histograms of the values."""
    import onnx
    from onnxruntime.quantization import calibrate

    kind = calibrate.EntropyCalibrater if method == "entropy" else calibrate.PercentileCalibrater
    # As many bins as ONNX Runtime's search through them allows in a second a tensor.
    options: dict[str, Any] = {"num_bins": _ENTROPY_BINS} if method == "entropy" else {}
    # ONNX Runtime's tools print what they do, and write files where they are told.
    with tempfile.TemporaryDirectory(prefix="sdi-ranges-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        with contextlib.redirect_stdout(io.StringIO()):
            scratch = str(Path(folder) / "augmented.onnx")
            calibrator: Any = kind(str(path), augmented_model_path=scratch, symmetric=True, **options)
            _, infos = calibrator.select_tensors_to_calibrate(calibrator.model)
            calibrator.select_tensors_to_calibrate = lambda model: (set(maximum), infos)
            calibrator.augment_graph()
            calibrator.create_inference_session()
        _fix_bins(calibrator, maximum, calibrate.HistogramCollector)
        for frame in frames:
            with contextlib.redirect_stdout(io.StringIO()):
                calibrator.collect_data(_Reader(frame))  # one by one: it keeps all outputs of a call
    if method == "mse":
        histograms = calibrator.collector.get_histogram_dict()
        return {name: histogram_limit(h[0], h[1]) for name, h in histograms.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        data = calibrator.compute_data()
    return {name: float(np.abs(value.range_value).max()) for name, value in data.items()}


def _fix_bins(calibrator: Any, limits: dict[str, float], collector: Any) -> None:
    """Start the histograms from the maximum values, so that bins neither grow nor depend on the first picture."""
    options = {name: getattr(calibrator, name) for name in ("method", "symmetric", "num_bins", "num_quantized_bins")}
    calibrator.collector = collector(**options, percentile=calibrator.percentile, scenario=calibrator.scenario)
    bins = calibrator.num_bins
    for name, limit in limits.items():
        peak = np.float32(limit or 1.0)
        ends = (-peak, peak)  # minimum and maximum value seen
        edges = np.linspace(0 if calibrator.method == "percentile" else -peak, peak, bins + 1, dtype=np.float32)
        threshold = () if calibrator.method == "percentile" else (peak,)
        calibrator.collector.histogram_dict[name] = (np.zeros(bins, np.int64), edges, *ends, *threshold)


class _Reader:
    """One frame, as ONNX Runtime's calibrators ask for it."""

    def __init__(self, frame: np.ndarray) -> None:
        self._frames: list[Any] = [None, {"frame": frame}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._frames.pop()


@dataclass(frozen=True)
class RangeSource:
    """All that ranges depend on. When one of these changes, they are measured again."""

    pictures: str  # fingerprint of the calibration set
    preprocessing: str  # as JSON
    weights: str  # SHA-256 of the checkpoint
    graph: str  # SHA-256 of the float32 ONNX model and of the names of its tensors that are measured
    method: str

    @property
    def fingerprint(self) -> str:
        """One SHA-256 over them all."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def changed_since(self, earlier: dict[str, str]) -> list[str]:
        """Which of these `earlier` had otherwise."""
        return [f.name for f in fields(self) if earlier.get(f.name) != getattr(self, f.name)]


def cached_ranges(
    path: Path, source: RangeSource, measure: Callable[[], dict[str, float]], progress: Progress = SILENT
) -> dict[str, float]:
    """Ranges from the cache at `path` when they are of this very source, else measured and cached there.

    Logs whether the cache was used, and if not, why.
    """
    why = "none are cached"
    try:
        value = json.loads(path.read_bytes())
        if value["format"] != _FORMAT or not all(isinstance(v, float) for v in value["ranges"].values()):
            raise ValueError
        if value["fingerprint"] == source.fingerprint:
            progress.log(f"ranges from {path}, measured on the same pictures, weights and graph")
            return value["ranges"]
        changed = source.changed_since(value["source"])
        # The graph holds weights and preprocessing, so what alone changes it is the input size or the exporter.
        named = [name for name in changed if name != "graph"] or ["graph (input size, or version of the exporter)"]
        why = f"those in {path.name} are stale: changed since are the {' and the '.join(named)}"
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        why = f"{path.name} is damaged"
    progress.log(f"measuring ranges: {why}")
    ranges = measure()
    value = {
        "format": _FORMAT,
        "fingerprint": source.fingerprint,
        "source": asdict(source),
        "ranges": ranges,
    }
    try:
        write_text(path, json.dumps(value, indent=1) + "\n")
    except InputError as error:
        progress.log(f"the ranges are not cached: {error}")
    return ranges
