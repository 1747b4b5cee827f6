"""What the tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def steel_data() -> Path:
    """The folder of SD-saliency-900, which is not ours to ship."""
    folder = Path(os.environ.get("SDI_DATA") or _SHARED / "data" / "SD-saliency-900")
    if not (folder / "test.txt").is_file():
        pytest.skip(f"SD-saliency-900 is not at {folder}; set SDI_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of answers that the authors' own networks gave."""
    folder = Path(os.environ.get("SDI_REFERENCE") or _SHARED / "reference")
    if not (folder / "minet.io.npz").is_file():
        pytest.skip(f"the authors' answers are not at {folder}; set SDI_REFERENCE to their folder")
    return folder
