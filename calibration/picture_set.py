"""The calibration set at rest: which pictures, with their hashes, in `calibration.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdi.runtime.common.errors import InputError, some_of
from sdi.runtime.common.files import sha256_of, write_text
from sdi.runtime.common.images import read_image

__all__ = ["SET_FILE", "CalibrationPicture", "CalibrationSet", "is_calibration_set", "read_calibration_set"]

SET_FILE = "calibration.json"
_FORMAT = "sdi-calibration"
_FORMAT_VERSION = 2


@dataclass(frozen=True)
class CalibrationPicture:
    """One chosen file; `defect_class` is its name before the last `_`."""

    file: str
    defect_class: str
    sha256: str
    mean: float  # gray level, 0..255
    contrast: float  # standard deviation of the gray levels


@dataclass(frozen=True)
class CalibrationSet:
    """The chosen pictures, in the order of their names."""

    images: str  # the folder they lie in, absolute
    seed: int
    pictures: tuple[CalibrationPicture, ...]
    left_out: tuple[str, ...] = ()  # what was not chosen from, each with its reason
    preprocessing: dict[str, Any] | None = None  # of the network that it is for; None: for any
    weights: str | None = None  # SHA-256 of that network's checkpoint

    @property
    def picture_fingerprint(self) -> str:
        """One SHA-256 over the pictures' contents; names and folders do not matter."""
        return hashlib.sha256("".join(sorted(p.sha256 for p in self.pictures)).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """One SHA-256 over pictures, preprocessing and weights."""
        parts = [self.picture_fingerprint, self.preprocessing, self.weights]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the set as JSON, whole or not at all."""
        value = {"format": _FORMAT, "format_version": _FORMAT_VERSION, "fingerprint": self.fingerprint, **asdict(self)}
        write_text(path, json.dumps(value, indent=2) + "\n")

    def verify(self) -> None:
        """Make sure that every picture is still there and is still what was chosen.

        Raises:
            InputError: pictures are missing or have other bytes (named).
        """
        problems = []
        for picture in self.pictures:
            path = Path(self.images) / picture.file
            if not path.is_file():
                problems.append(f"{picture.file} is missing")
            elif sha256_of(path) != picture.sha256:
                problems.append(f"{picture.file} has changed")
        if problems:
            raise InputError(
                f"{len(problems)} of {len(self.pictures)} calibration pictures in {self.images} are not what was "
                f"chosen: {some_of(problems)}; choose again: sdi-calibrate --images {self.images} --overwrite"
            )

    def read(self, picture: CalibrationPicture) -> np.ndarray:
        """One of the pictures, (H, W, 3) uint8 BGR."""
        return read_image(Path(self.images) / picture.file)


def is_calibration_set(path: Path) -> bool:
    """Whether a file is a calibration set of ours, of whatever version, and so may be replaced."""
    try:
        return json.loads(path.read_bytes()).get("format") == _FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read_calibration_set(path: Path) -> CalibrationSet:
    """Read `calibration.json`, or the one in a folder.

    Raises:
        InputError: it is not there, is not ours, or is damaged.
    """
    file = path / SET_FILE if path.is_dir() else path
    mend = f"make one: sdi-calibrate --images PICTURES -o {file.parent}"
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"no calibration set at {file} ({error.strerror}); {mend}") from error
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); {mend}") from error
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise InputError(f"{file} is not a calibration set of sdi; {mend}")
    if value.get("format_version") != _FORMAT_VERSION:
        raise InputError(f"{file} has format {value.get('format_version')}, this sdi reads {_FORMAT_VERSION}; {mend}")
    try:
        pictures = tuple(CalibrationPicture(**picture) for picture in value["pictures"])
        found = CalibrationSet(
            value["images"],
            value["seed"],
            pictures,
            tuple(value["left_out"]),
            value["preprocessing"],
            value["weights"],
        )
        if found.fingerprint != value["fingerprint"] or not pictures:
            raise ValueError("its fingerprint is not that of its pictures")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}); {mend}") from error
    return found
