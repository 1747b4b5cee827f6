"""Scores of saliency maps, all computed by PySODMetrics, picture by picture.

A mean over pictures is taken here, from what was measured of each, so that classes share one measurement and worker
processes change no digit. Nothing here loads torch before `predict` runs.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from sdi.runtime.common.errors import DeviceError
from sdi.runtime.common.images import check_frame, resize_image

if TYPE_CHECKING:
    from typing_extensions import Self

    from sdi.train.data import Sample
    from sdi.train.engine_module import EngineModule

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import py_sod_metrics

__all__ = [
    "SCORE_NAMES",
    "Measured",
    "PictureScores",
    "Scorer",
    "mean_curves",
    "mean_scores",
    "predict",
    "predict_images",
    "score_maps",
    "score_module",
    "score_picture",
    "workers_worth_starting",
]

SCORE_NAMES = ("S", "maxF", "meanF", "adpF", "maxE", "meanE", "adpE", "MAE")
_BETA_SQUARED = 0.3  # weight of recall against precision in F, as in the papers
_PIXELS_WORTH_A_POOL = 20_000_000  # measured in about the 3 s that workers take to start
_WAITING = 4  # pictures a worker that may be on their way


@dataclass(frozen=True)
class PictureScores:
    """What was measured of one picture. Curves are (256,) float64, from threshold 255 down to 0."""

    s: float
    f: np.ndarray
    adaptive_f: float
    e: np.ndarray
    adaptive_e: float
    mae: float
    precision: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True)
class Measured:
    """One picture measured as the papers do, and as a camera sees it.

    Attributes:
        stretched: each map is first stretched to its own minimum and maximum, PySODMetrics' default.
        raw: the probabilities as they are.
    """

    stretched: PictureScores
    raw: PictureScores


def score_picture(saliency: np.ndarray, mask: np.ndarray, *, stretch: bool = True) -> PictureScores:
    """S, F, E, MAE, precision and recall of one map.

    Args:
        saliency, mask: (H, W) uint8, of one size; the mask is cut above 128.
        stretch: see `Measured`.
    """
    s, e, mae = py_sod_metrics.Smeasure(), py_sod_metrics.Emeasure(), py_sod_metrics.MAE()
    f = py_sod_metrics.FmeasureV2(
        {
            "f": py_sod_metrics.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=_BETA_SQUARED),
            "precision": py_sod_metrics.PrecisionHandler(with_dynamic=True, with_adaptive=False),
            "recall": py_sod_metrics.RecallHandler(with_dynamic=True, with_adaptive=False),
        }
    )
    prediction, truth = (saliency, mask) if stretch else (saliency / 255, mask > 128)
    for measure in (s, e, mae, f):
        measure.step(pred=prediction, gt=truth, normalize=stretch)
    curves, alignment = f.get_results(), e.get_results()["em"]
    return PictureScores(
        s=float(s.get_results()["sm"]),
        f=curves["f"]["dynamic"],
        adaptive_f=float(curves["f"]["adaptive"]),
        e=alignment["curve"],
        adaptive_e=float(alignment["adp"]),
        mae=float(mae.get_results()["mae"]),
        precision=curves["precision"]["dynamic"],
        recall=curves["recall"]["dynamic"],
    )


def mean_scores(pictures: Sequence[PictureScores]) -> dict[str, float]:
    """S-measure, max / mean / adaptive F and E (beta^2 = .3), MAE over pictures; see `SCORE_NAMES`.

    The maximum F and E are those of the mean curve: one threshold for all pictures.
    """
    f, e = _mean([p.f for p in pictures]), _mean([p.e for p in pictures])
    values = (
        _mean([p.s for p in pictures]),
        *(f.max(), f.mean(), _mean([p.adaptive_f for p in pictures])),
        *(e.max(), e.mean(), _mean([p.adaptive_e for p in pictures])),
        _mean([p.mae for p in pictures]),
    )
    return {name: float(value) for name, value in zip(SCORE_NAMES, values, strict=True)}


def mean_curves(pictures: Sequence[PictureScores]) -> dict[str, np.ndarray]:
    """Mean precision, recall and F at thresholds 0..255: (256,) float64 each."""
    curves = {"precision": [p.precision for p in pictures], "recall": [p.recall for p in pictures]}
    return {name: _mean(values)[::-1] for name, values in {**curves, "F": [p.f for p in pictures]}.items()}


def score_maps(maps: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores over pairs of (saliency map, mask), each (H, W) uint8, stretched as in the papers' tables."""
    return mean_scores([score_picture(saliency, mask) for saliency, mask in maps])


class Scorer:
    """Measures pictures in this process (`workers` 1) or in several; the answers are the same to the last digit.

    A context manager: leaving it, with Ctrl-C too, ends the workers. They are spawned, so a program of your own that
    asks for more than one needs the usual `if __name__ == "__main__":`.
    """

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def measure(self, maps: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[Measured]:
        """What `score_picture` says of each (saliency map, mask), in their order.

        Raises:
            DeviceError: a worker died.
        """
        if self._workers == 1:
            yield from (_measure(saliency, mask) for saliency, mask in maps)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"))
        under_way: deque[Future[Measured]] = deque()
        try:
            for saliency, mask in maps:
                with _interrupts_blocked():
                    under_way.append(self._pool.submit(_measure, saliency, mask))
                if len(under_way) > _WAITING * self._workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise DeviceError(
                f"one of {self._workers} scoring processes died, perhaps for want of memory; use fewer: --workers 1"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def workers_worth_starting(pixels: int) -> int:
    """How many processes to measure `pixels` of maps with: 1 where starting more would take longer than it saves."""
    if pixels < _PIXELS_WORTH_A_POOL:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score_module(module: EngineModule, samples: Sequence[Sample]) -> dict[str, float]:
    """Scores of a module's maps of `samples`; see `score_maps`."""
    return score_maps(zip(predict(module, samples), (sample.mask for sample in samples), strict=True))


def predict(module: EngineModule, samples: Sequence[Sample], batch_size: int = 8) -> Iterator[np.ndarray]:
    """Saliency maps of `samples`, (H, W) uint8 at each picture's own size, as the runtime gives them."""
    return predict_images(module, [sample.image for sample in samples], batch_size)


def predict_images(module: EngineModule, images: Sequence[np.ndarray], batch_size: int = 8) -> Iterator[np.ndarray]:
    """The same of pictures without masks, (H, W, 3) uint8 BGR each.

    Raises:
        InputError: a picture has another type or shape.
    """
    import torch

    device = next(module.network.parameters()).device
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        for image in batch:
            check_frame(image)
        frames = np.stack([resize_image(image, module.network_hw) for image in batch])
        with torch.inference_mode():
            maps = module(torch.from_numpy(frames).to(device)).cpu().numpy()
        for image, saliency in zip(batch, maps, strict=True):
            yield resize_image(saliency, (image.shape[0], image.shape[1]))


def _measure(saliency: np.ndarray, mask: np.ndarray) -> Measured:
    return Measured(score_picture(saliency, mask), score_picture(saliency, mask, stretch=False))


def _mean(values: Sequence[float] | Sequence[np.ndarray]) -> np.ndarray:
    return np.mean(np.array(values, np.float64), axis=0)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes begun inside never see Ctrl-C, which reaches every process of a terminal: the parent answers it.

    One that comes meanwhile is delivered at the end. Windows has no such mask.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
