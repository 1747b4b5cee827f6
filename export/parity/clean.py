"""Clean steel: how much of defect-free pictures a network takes for a defect.

A patch goes through a runner as any picture goes through the runtime: whole, resized to the frame size, and the map
back. A patch smaller than the frame is thus enlarged, as in training; padding it would draw an edge around it, which
is what these networks look for, and repeating it would draw seams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sdi.export.parity.evidence import titled_row
from sdi.export.parity.metrics import to_levels
from sdi.export.parity.result import CleanSummary
from sdi.export.runners import InputSpec, Runner
from sdi.runtime.common.errors import DeviceError, InputError
from sdi.runtime.common.images import list_images, read_image, resize_image
from sdi.runtime.common.progress import SILENT, Progress
from sdi.runtime.common.strip import draw_strip
from sdi.runtime.inspection.defects import gray_level
from sdi.train.clean import CleanSteel
from sdi.train.data import Pair, load_samples

__all__ = ["CleanAreas", "CleanPatch", "clean_areas", "clean_patches", "worst_patch_picture"]

_SOURCES = 200  # pictures that windows are cut from, at most: they are in memory together


@dataclass(frozen=True)
class CleanPatch:
    """A picture of steel without a defect: image (H, W, 3) uint8 BGR."""

    name: str
    image: np.ndarray
    drawn: bool  # synthetic strip; else it is, or was cut from, a photograph


@dataclass(frozen=True)
class CleanAreas:
    """Share of each patch's pixels at or over the threshold, 0..1, in the order of the patches."""

    patches: Sequence[CleanPatch]
    areas: np.ndarray

    @property
    def worst(self) -> int:
        """Index of the patch with the maximum area, the first where several have it."""
        return int(self.areas.argmax())

    def mean(self, *, drawn: bool) -> float | None:
        """Over the drawn patches or over the others; None where there is none."""
        chosen = [area for patch, area in zip(self.patches, self.areas, strict=True) if patch.drawn == drawn]
        return float(np.mean(chosen)) if chosen else None

    def metrics(self, reference: CleanAreas) -> dict[str, float]:
        """The metrics of clean steel; see `metrics.METRICS`.

        Args:
            reference: of the same patches, in PyTorch.
        """
        found = {
            "clean": self.mean(drawn=False),
            "clean_strip": self.mean(drawn=True),
            "clean_worst": float(self.areas[self.worst]),
            "clean_gained": float(self.areas.mean() - reference.areas.mean()),
        }
        return {name: value for name, value in found.items() if value is not None}

    def summary(self) -> CleanSummary:
        """What a report says of them."""
        return CleanSummary(
            patches=len(self.patches),
            drawn=sum(patch.drawn for patch in self.patches),
            with_any=int((self.areas > 0).sum()),
            mean=float(self.areas.mean()),
            worst=self.patches[self.worst].name,
            worst_area=float(self.areas[self.worst]),
        )


def clean_patches(
    pairs: Sequence[Pair] | None = None,
    folder: Path | None = None,
    *,
    windows: int = 200,
    strips: int = 50,
    seed: int = 0,
) -> list[CleanPatch]:
    """Defect-free pictures; equal arguments give equal ones.

    Args:
        pairs: pictures and masks that square windows of 64 to 512 pixels are cut from, where the mask is empty. Of
            more than 200, as many are used, spread evenly.
        folder: of pictures of clean steel, taken whole.
        windows, strips: how many windows to cut, and how many pictures of synthetic clean strip to draw.
    Raises:
        InputError: no folder or no picture in it; a picture or mask cannot be used; or no mask leaves such a window.
    """
    patches = []
    if folder is not None:
        patches += [CleanPatch(path.stem, read_image(path), drawn=False) for path in list_images(folder)]
    if pairs:
        chosen = np.linspace(0, len(pairs) - 1, min(_SOURCES, len(pairs))).round().astype(int)
        steel = CleanSteel(load_samples([pairs[i] for i in chosen]))
        if not steel.has_windows:
            raise InputError(
                "no picture has 64x64 pixels without a defect to cut from its background; give defect-free pictures: "
                "--clean DIR"
            )
        for i in range(windows):
            sample = steel.window(np.random.default_rng([seed, i]))
            name = f"{sample.name}, window {i + 1} of {len(sample.mask)}x{len(sample.mask)}"
            patches.append(CleanPatch(name, sample.image, drawn=False))
    patches += [CleanPatch(f"clean strip {i + 1}", draw_strip("clean", seed + i)[0], drawn=True) for i in range(strips)]
    return patches


def clean_areas(
    run: Runner,
    spec: InputSpec,
    patches: Sequence[CleanPatch],
    threshold: float,
    progress: Progress = SILENT,
) -> CleanAreas:
    """What a network takes for a defect, by the runtime's rule: 8 bits, at the patch's own size, never stretched.

    Raises:
        InputError: no patch.
        DeviceError: an execution failed, or answered another size.
    """
    if not patches:
        raise InputError("no patch of clean steel to judge by")
    level = gray_level(threshold)
    areas = [float((_map(run, spec, patch.image) >= level).mean()) for patch in progress.track(patches, "clean steel")]
    return CleanAreas(patches, np.array(areas))


def worst_patch_picture(name: str, run: Runner, spec: InputSpec, areas: CleanAreas, threshold: float) -> np.ndarray:
    """The worst patch, the map of it, and what is taken for a defect in red: (H, W, 3) uint8 BGR, titled.

    Args:
        name: of what ran, for the map's title.
    """
    patch = areas.patches[areas.worst]
    saliency = _map(run, spec, patch.image)
    over = patch.image.copy()
    over[saliency >= gray_level(threshold)] = (0, 0, 255)
    taken = f"taken for a defect: {areas.areas[areas.worst]:.1%}"
    panels = [("steel", patch.image), (name, cv2.cvtColor(saliency, cv2.COLOR_GRAY2BGR)), (taken, over)]
    return titled_row(patch.name, panels)


def _map(run: Runner, spec: InputSpec, image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 at the picture's own size, as `sdi.runtime.Engine` answers it."""
    frame = spec.frame(image)
    answer = run(frame[None])[0]
    if answer.shape != frame.shape[:2]:
        raise DeviceError(f"a runner answered {answer.shape} to a frame of {frame.shape[:2]}; export it again")
    return resize_image(to_levels(answer), (image.shape[0], image.shape[1]))
