"""Pictures in a report: a photograph, its mask, a map, and both drawn into the photograph."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np

from sdi.runtime.common.images import read_image
from sdi.runtime.inspection.defects import gray_level
from sdi.train.data import read_truth
from sdi.train.evaluation.baseline import Change
from sdi.train.evaluation.evaluate import Case, thumbnail
from sdi.train.outlines import FOUND_BGR, TRUTH_BGR, outlined

__all__ = ["case_card", "change_card", "data_uri"]


def case_card(case: Case, threshold: float) -> dict[str, Any]:
    """A picture, its truth and its map, and the outlines of both at the threshold."""
    image, truth = _pictured(case)
    return {
        "name": case.pair.name,
        "s": short(case.measured.stretched.s),
        "mae": short(case.measured.stretched.mae),
        # The picture is a photograph; truth and map have to be exact.
        "panels": [
            ("picture", _image_uri(image, ".jpg")),
            ("truth", _image_uri(truth, ".png")),
            ("map", _image_uri(case.preview, ".png")),
            ("overlay", _image_uri(_overlay(image, truth, case.preview, threshold), ".jpg")),
        ],
    }


def change_card(change: Change, threshold: float) -> dict[str, Any]:
    """A picture with the outlines of its truth and of what is found, before and now, and both maps."""
    image, truth = _pictured(change.case)
    before, now = change.preview_before, change.case.preview
    return {
        "name": change.case.pair.name,
        "s": f"{short(change.s_before)} → {short(change.case.measured.stretched.s)}",
        "mae": f"{short(change.mae_before)} → {short(change.case.measured.stretched.mae)}",
        "panels": [
            ("map before", _image_uri(before, ".png")),
            ("overlay before", _image_uri(_overlay(image, truth, before, threshold), ".jpg")),
            ("overlay now", _image_uri(_overlay(image, truth, now, threshold), ".jpg")),
            ("map now", _image_uri(now, ".png")),
        ],
    }


def short(value: float) -> str:
    """Three digits, as the papers write them: .886."""
    return f"{value:.3f}".removeprefix("0")


def data_uri(kind: str, data: bytes) -> str:
    """Bytes as an address that a page holds within itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _pictured(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Picture and truth at the preview's size."""
    return thumbnail(read_image(case.pair.image)), thumbnail(read_truth(case.pair.mask))


def _overlay(image: np.ndarray, truth: np.ndarray, saliency: np.ndarray, threshold: float) -> np.ndarray:
    """The picture with the outline of the truth and, over it, of what is found."""
    regions = [(truth >= 128, TRUTH_BGR), (saliency >= gray_level(threshold), FOUND_BGR)]
    return outlined(image, regions, thickness=2)


def _image_uri(image: np.ndarray, suffix: str) -> str:
    _, data = cv2.imencode(suffix, image)
    return data_uri("image/jpeg" if suffix == ".jpg" else "image/png", data.tobytes())
