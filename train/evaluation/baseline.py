"""An evaluation kept beside its report, for a later one of the same pictures to be compared with it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.files import write_text
from sdi.train.evaluation.evaluate import Case, Evaluation

__all__ = ["Baseline", "Change", "KeptPicture", "keep_evaluation", "read_baseline"]

_FILE = "evaluation.json"
_FORMAT = "sdi-evaluation"
_FORMAT_VERSION = 1
_EQUAL = 0.0005  # of S: less is no change worth a word


@dataclass(frozen=True)
class KeptPicture:
    """One picture of the earlier evaluation."""

    s: float
    mae: float
    truth_sha256: str
    preview: bytes  # PNG of the map, at most 200 pixels a side


@dataclass(frozen=True)
class Change:
    """One picture before and now."""

    case: Case
    s_before: float
    mae_before: float
    preview_before: np.ndarray  # the earlier map, (h, w) uint8, as `Case.preview`

    @property
    def gain(self) -> float:
        """How much S rose."""
        return self.case.measured.stretched.s - self.s_before


@dataclass(frozen=True)
class Baseline:
    """An earlier evaluation of the same pictures against the same masks."""

    label: str
    detail: str
    scores: dict[str, dict[str, float]]  # by group, stretched
    unstretched: dict[str, dict[str, float]]
    pictures: Mapping[str, KeptPicture]

    def changes(self, evaluation: Evaluation) -> list[Change]:
        """Every picture before and now, the greatest gain in S first.

        Raises:
            InputError: pictures or masks are not the same.
        """
        names = {case.pair.name for case in evaluation.cases}
        if others := sorted(names ^ set(self.pictures)):
            raise InputError(
                f"--baseline was made of other pictures: {len(others)} are in one of the two alone: {some_of(others)}; "
                "score both on the same data"
            )
        redrawn = [c.pair.name for c in evaluation.cases if c.truth_sha256 != self.pictures[c.pair.name].truth_sha256]
        if redrawn:
            raise InputError(
                f"--baseline was made with other masks of {len(redrawn)} pictures: {some_of(redrawn)}; score the "
                "earlier network again, with --report"
            )
        changes = [_change(case, self.pictures[case.pair.name]) for case in evaluation.cases]
        return sorted(changes, key=lambda change: (-change.gain, change.case.pair.name))

    def counts(self, evaluation: Evaluation) -> tuple[int, int]:
        """How many pictures have a higher and a lower S than before, by .0005 or more."""
        gains = [change.gain for change in self.changes(evaluation)]
        return sum(gain >= _EQUAL for gain in gains), sum(gain <= -_EQUAL for gain in gains)


def keep_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Write what a later `--baseline` reads into a report's folder, whole or not at all; answer its path."""
    value = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "label": evaluation.label,
        "detail": evaluation.detail,
        "scores": evaluation.table(),
        "unstretched": evaluation.table(stretched=False),
        "pictures": {case.pair.name: _kept(case) for case in evaluation.cases},
    }
    path = folder / _FILE
    write_text(path, json.dumps(value))
    return path


def read_baseline(folder: Path) -> Baseline:
    """What `keep_evaluation` wrote.

    Raises:
        InputError: there is none, it is damaged, or of another format.
    """
    path = folder / _FILE
    how = "make it first: sdi-eval ... --report DIR"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--baseline {folder} is no report of sdi-eval: {path}: {error.strerror}; {how}") from error
    except ValueError as error:
        raise InputError(f"--baseline: {path} is damaged ({error}); {how}") from error
    found = value.get("format_version") if isinstance(value, dict) and value.get("format") == _FORMAT else None
    if found != _FORMAT_VERSION:
        raise InputError(f"--baseline: {path} has format {found}, this sdi reads {_FORMAT_VERSION}; {how}")
    try:
        pictures = {
            str(name): KeptPicture(float(p["S"]), float(p["MAE"]), str(p["truth"]), base64.b64decode(p["map"]))
            for name, p in value["pictures"].items()
        }
        return Baseline(value["label"], value["detail"], value["scores"], value["unstretched"], pictures)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"--baseline: {path} is damaged ({error!r}); {how}") from error


def _kept(case: Case) -> dict[str, Any]:
    _, png = cv2.imencode(".png", case.preview)
    scores = case.measured.stretched
    return {
        "S": scores.s,
        "MAE": scores.mae,
        "truth": case.truth_sha256,
        "map": base64.b64encode(png.tobytes()).decode(),
    }


def _change(case: Case, kept: KeptPicture) -> Change:
    preview = cv2.imdecode(np.frombuffer(kept.preview, np.uint8), cv2.IMREAD_GRAYSCALE)
    if preview is None or preview.shape != case.preview.shape:
        raise InputError(f"--baseline: its map of {case.pair.name} is damaged; score the earlier network again")
    return Change(case, kept.s, kept.mae, np.asarray(preview, np.uint8))
