"""Scores of saliency maps, all computed by PySODMetrics."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from sdi.runtime.images import resize_image
from sdi.train.data import Sample
from sdi.train.face import Face

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import py_sod_metrics

__all__ = ["SCORE_NAMES", "Scores", "predict", "score_maps"]

SCORE_NAMES = ("S", "maxF", "meanF", "adpF", "maxE", "meanE", "adpE", "MAE")


@dataclass
class Scores:
    """Gathers pictures one by one; `compute` answers the means over all of them.

    PySODMetrics stretches each map to its own minimum and maximum first, as the papers' tables do.
    """

    def __post_init__(self) -> None:
        self._s = py_sod_metrics.Smeasure()
        f_handler = py_sod_metrics.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)
        self._f = py_sod_metrics.FmeasureV2({"fm": f_handler})
        self._e = py_sod_metrics.Emeasure()
        self._mae = py_sod_metrics.MAE()

    def update(self, saliency: np.ndarray, mask: np.ndarray) -> None:
        """Add one picture: both (H, W) uint8, of one size."""
        for measure in (self._s, self._f, self._e, self._mae):
            measure.step(pred=saliency, gt=mask)

    def compute(self) -> dict[str, float]:
        """S-measure, max / mean / adaptive F and E (beta^2 = .3), MAE; see `SCORE_NAMES`."""
        f, e = self._f.get_results()["fm"], self._e.get_results()["em"]  # max and mean over 256 thresholds
        values = (
            self._s.get_results()["sm"],
            *(f["dynamic"].max(), f["dynamic"].mean(), f["adaptive"]),
            *(e["curve"].max(), e["curve"].mean(), e["adp"]),
            self._mae.get_results()["mae"],
        )
        return {name: float(value) for name, value in zip(SCORE_NAMES, values, strict=True)}


def score_maps(maps: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores over pairs of (saliency map, mask), each (H, W) uint8."""
    scores = Scores()
    for saliency, mask in maps:
        scores.update(saliency, mask)
    return scores.compute()


@torch.inference_mode()
def predict(face: Face, samples: list[Sample], batch_size: int = 8) -> Iterable[np.ndarray]:
    """Saliency maps of `samples`, (H, W) uint8 at each picture's own size, as the runtime gives them."""
    device = next(face.network.parameters()).device
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        frames = np.stack([resize_image(sample.image, face.network_hw) for sample in batch])
        maps = face(torch.from_numpy(frames).to(device)).cpu().numpy()
        for sample, saliency in zip(batch, maps, strict=True):
            yield resize_image(saliency, sample.mask.shape[:2])
