"""What the tests of several folders share."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from pathlib import Path

import cv2
import pytest

# Where SDI_NO_SKIPS is set, as in `.ci/run`, a test may be skipped for these reasons alone: a GPU that is or is not
# there, a measurement that is asked for by name, and data that is not ours to ship.
_ALLOWED = re.compile(r"GPU|CUDA device|has CUDA|^a measurement|^SDI_(DATA|REFERENCE) is not set")


def _folder(variable: str, what: str, holds: str) -> Path:
    given = os.environ.get(variable)
    if not given:
        pytest.skip(f"{variable} is not set: {what}")
    folder = Path(given)
    assert (folder / holds).is_file(), f"{variable}={folder} must name {what}: there is no {holds}"
    return folder


@pytest.fixture(scope="session")
def steel_data() -> Path:
    """The folder of SD-saliency-900, which is not ours to ship."""
    return _folder("SDI_DATA", "the folder of SD-saliency-900", "test.txt")


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of answers that the authors' own networks gave."""
    return _folder("SDI_REFERENCE", "the folder of the authors' answers", "minet.io.npz")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about another OpenCV than the one at hand; `make test-jetson` has the one with GStreamer."""
    other = "no_gstreamer" if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER) else "gstreamer"
    left_out = [item for item in items if item.get_closest_marker(other)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not item.get_closest_marker("gpu"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A test that does not run where all should is a failure."""
    if "SDI_NO_SKIPS" not in os.environ or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not _ALLOWED.search(reason):
        report.outcome = "failed"
        report.longrepr = f"it was skipped, and SDI_NO_SKIPS is set: {reason}"
