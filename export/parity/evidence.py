"""Evidence: the offending picture as reference | engine | difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from sdi.export.parity.candidates import Candidate
from sdi.export.parity.metrics import to_levels
from sdi.export.parity.pictures import Pictures
from sdi.export.parity.result import PictureMetrics, Row
from sdi.export.runners import Runner
from sdi.runtime.common.images import write_image
from sdi.runtime.common.output_folder import safe_name

__all__ = ["difference_picture", "offending_pictures", "save_evidence", "titled_row"]

_PANEL = 320  # pixels of a panel's longer side, unless the frame has more
_BAR = 30  # pixels of the line of words above
_GAP = 6
_SHOWN = 3
# How bad a picture is by a metric; by the others, the mean difference.
_WORST_BY: dict[str, Callable[[PictureMetrics], float]] = {
    "max": lambda picture: picture.max,
    "p999": lambda picture: picture.max,
    "iou": lambda picture: -picture.iou,
    "regions": lambda picture: -picture.regions,
    "peak": lambda picture: picture.peak,
}


def offending_pictures(failures: Sequence[Row], pictures: Sequence[PictureMetrics]) -> list[int]:
    """Indices of the worst picture for each metric out of bounds, no more than three."""
    found: list[int] = []
    for row in failures:
        key = _WORST_BY.get(row.metric, lambda picture: picture.mean)
        worst = max(range(len(pictures)), key=lambda i: key(pictures[i]))
        if worst not in found:
            found.append(worst)
    return found[:_SHOWN]


def save_evidence(
    folder: Path, candidate: Candidate, reference: Runner, pictures: Pictures, chosen: Sequence[int]
) -> list[Path]:
    """Write `FOLDER/CANDIDATE-PICTURE.png` for each chosen picture, into a folder that is ours.

    The maps are computed again, so that no gate has to keep them all.
    """
    assert candidate.run is not None
    files = []
    for index in chosen:
        name = pictures.names[index]
        reference_map, own = (
            candidate.answer(run, pictures.picture(index)) for run in (candidate.reference or reference, candidate.run)
        )
        path = folder / f"{safe_name(f'{candidate.name}-{name}')}.png"
        write_image(path, difference_picture(name, candidate.name, reference_map, own))
        files.append(path)
    return files


def difference_picture(picture: str, candidate: str, reference: np.ndarray, engine: np.ndarray) -> np.ndarray:
    """Both maps and their difference beside each other, (H, W, 3) uint8 BGR, each with its title.

    Args:
        reference, engine: (h, w) float32 probabilities. Black is 0 and white 1. The brightest colour of the
            difference is its maximum, which the title gives.
    """
    difference = np.nan_to_num(np.abs(engine - reference), nan=1.0, posinf=1.0).clip(0, 1)
    maximum = float(difference.max())
    levels = np.rint(difference / (maximum or 1.0) * 255).astype(np.uint8)
    panels = [
        ("reference", cv2.cvtColor(to_levels(reference), cv2.COLOR_GRAY2BGR)),
        (candidate, cv2.cvtColor(to_levels(engine), cv2.COLOR_GRAY2BGR)),
        (f"difference, up to {maximum:.2g}", cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)),
    ]
    return titled_row(picture, panels)


def titled_row(title: str, panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures of one size beside each other, enlarged where they are small, each with its title: (H, W, 3) uint8 BGR.

    Args:
        panels: title and (h, w, 3) uint8 BGR of each.
    """
    height, width = panels[0][1].shape[:2]
    scale = max(1.0, _PANEL / max(height, width))
    size = (round(width * scale), round(height * scale))
    columns = []
    for name, panel in panels:
        shown = cv2.resize(panel, size, interpolation=cv2.INTER_NEAREST)
        columns += [np.vstack([_words(name, size[0]), shown]), np.full((size[1] + _BAR, _GAP, 3), 255, np.uint8)]
    row = np.hstack(columns[:-1])
    return np.vstack([_words(title, row.shape[1]), row])


def _words(text: str, width: int) -> np.ndarray:
    """A white line with a text, cut where it does not fit; letters that the font lacks become `?`."""
    line = np.full((_BAR, width, 3), 255, np.uint8)
    text = text.encode("ascii", "replace").decode()
    cv2.putText(line, text, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return line
