"""The accuracy that a change of precision costs: in S-measure where there are masks, else in the maps themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdi.export.parity.metrics import to_levels
from sdi.export.runners import InputSpec, Runner
from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import list_images, read_image, resize_image

__all__ = ["DEFAULT_MAX_DROP", "Validation", "mean_difference", "validation_pictures"]

# S-measure: a tenth of the distance between good and better networks. Maps: mean difference of a probability.
DEFAULT_MAX_DROP = {"S-measure": 0.002, "map difference": 0.003}


@dataclass(frozen=True)
class Validation:
    """Pictures that accuracy is measured on, at their own size."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]  # (H, W, 3) uint8 BGR
    masks: tuple[np.ndarray, ...] | None  # (H, W) uint8, 0 or 255
    what: str  # which pictures these are, in words

    @property
    def measure(self) -> str:
        """What `drop` counts: a key of `DEFAULT_MAX_DROP`."""
        return "map difference" if self.masks is None else "S-measure"

    def some(self, count: int) -> Validation:
        """`count` of them, spread evenly."""
        taken = np.linspace(0, len(self.names) - 1, min(count, len(self.names))).round().astype(int)
        masks = None if self.masks is None else tuple(self.masks[i] for i in taken)
        return Validation(tuple(self.names[i] for i in taken), tuple(self.images[i] for i in taken), masks, self.what)

    def probabilities(self, runner: Runner, spec: InputSpec) -> Iterator[np.ndarray]:
        """What the model answers, (H, W) float32 at its own size."""
        for image in self.images:
            yield runner(spec.frame(image)[None])[0]

    def maps(self, runner: Runner, spec: InputSpec) -> list[np.ndarray]:
        """Saliency as the runtime gives it, (H, W) uint8 at each picture's own size."""
        found = []
        for image, probability in zip(self.images, self.probabilities(runner, spec), strict=True):
            found.append(resize_image(to_levels(probability), image.shape[:2]))
        return found

    def s_measure(self, maps: list[np.ndarray]) -> float:
        """PySODMetrics' S-measure of maps, 0..1. Needs masks."""
        import py_sod_metrics

        assert self.masks is not None
        measure = py_sod_metrics.Smeasure()
        for saliency, mask in zip(maps, self.masks, strict=True):
            measure.step(pred=saliency, gt=mask)
        return float(measure.get_results()["sm"])

    def drop(self, reference: list[np.ndarray], maps: list[np.ndarray]) -> float:
        """The loss of `maps` beside `reference`: of S-measure where there are masks, else mean |difference|, 0..1."""
        if self.masks is not None:
            return self.s_measure(reference) - self.s_measure(maps)
        return mean_difference(reference, maps)


def mean_difference(reference: list[np.ndarray], maps: list[np.ndarray]) -> float:
    """Mean over pictures of the mean |difference| of two uint8 maps, as probability 0..1."""
    pairs = zip(reference, maps, strict=True)
    return float(np.mean([np.abs(a.astype(np.int16) - b).mean() for a, b in pairs])) / 255


def validation_pictures(
    folder: Path, masks: Path | None, *, leave_out: Collection[str] = (), limit: int = 96
) -> Validation:
    """Read pictures to judge accuracy on.

    Args:
        folder: a data folder in a layout that sdi-train takes, of which the training pictures are taken where it
            has splits; or a folder of pictures.
        masks: folder of masks with the pictures' stems.
        leave_out: stems that calibrated, which would flatter.
        limit: take this many, spread evenly.
    Raises:
        InputError: nothing is there to judge on, or a picture or a mask cannot be used.
    """
    from sdi.train.data import Pair, choose_layout, find_pairs, load_samples, splits_at

    def chosen(items: list) -> list:
        left = [item for item in items if (item.name if isinstance(item, Pair) else item.stem) not in set(leave_out)]
        if not left:
            raise InputError(f"every picture in {folder} is in the calibration set; give others with --validation")
        if len(left) <= limit:
            return left
        return [left[i] for i in np.linspace(0, len(left) - 1, limit).round().astype(int)]

    pairs = None
    what = f"pictures of {folder}"
    if masks is not None:
        pairs = find_pairs(images=folder, masks=masks)
    else:
        try:
            choose_layout(folder)
        except InputError:
            pass
        else:
            split = "train" if splits_at(folder) else None
            pairs = find_pairs(folder, split)
            what = f"{'training ' if split else ''}pictures of {folder}"
    if pairs is None:
        paths = chosen(list_images(folder))
        return Validation(tuple(p.stem for p in paths), tuple(map(read_image, paths)), None, f"{len(paths)} {what}")
    samples = load_samples(chosen(pairs))
    return Validation(
        tuple(s.name for s in samples),
        tuple(s.image for s in samples),
        tuple(s.mask for s in samples),
        f"{len(samples)} {what}",
    )
