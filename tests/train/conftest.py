"""Small data sets and the means to run commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sdi.train.data import Sample


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """The networks here are tiny: threads would only wait for each other."""
    torch.set_num_threads(1)


def draw_sample(name: str, side: int = 40) -> Sample:
    """A gray strip with noise and one bright rectangle, which its mask shows; another for each name."""
    rng = np.random.default_rng(list(name.encode()))
    image = rng.integers(60, 120, (side, side), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    top, left = rng.integers(2, side // 2, 2)
    height, width = rng.integers(side // 5, side // 2, 2)
    mask[top : top + height, left : left + width] = 255
    image[mask > 0] += 100
    return Sample(name, cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), mask)


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Eight drawn samples of 40x40."""
    return [draw_sample(f"In_{i}") for i in range(8)]


@pytest.fixture
def steel_tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder in the SD-saliency-900 layout and answers its path."""

    def write(train: list[str], test: list[str] | None = None, side: int = 40) -> Path:
        folder = tmp_path / "steel"
        for part in ("Source Images", "Ground truth"):
            (folder / part).mkdir(parents=True)
        for name in train + (test or []):
            sample = draw_sample(name, side)
            cv2.imwrite(str(folder / "Source Images" / f"{name}.bmp"), sample.image[..., 0])
            cv2.imwrite(str(folder / "Ground truth" / f"{name}.png"), sample.mask)
        (folder / "train.txt").write_text("\n".join(train) + "\n")
        if test is not None:
            (folder / "test.txt").write_text("\n".join(test) + "\n")
        return folder

    return write


@pytest.fixture
def orssd_tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder in ORSSD's layout and answers its path; a name may be in both splits, for another picture."""

    def write(train: list[str], test: list[str], side: int = 40) -> Path:
        folder = tmp_path / "orssd"
        for split, names in (("train", train), ("test", test)):
            for name in names:
                sample = draw_sample(f"{split}{name}", side)
                for part, suffix, image in (("images", "jpg", sample.image), ("labels", "png", sample.mask)):
                    (folder / f"{split}-{part}").mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(folder / f"{split}-{part}" / f"{name}.{suffix}"), image)
        return folder

    return write


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls a command's entry point; answers its exit code, stdout and stderr."""
    monkeypatch.delenv("SDI_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(main: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        streams = capsys.readouterr()
        return int(exit_info.value.code or 0), streams.out, streams.err

    return run
