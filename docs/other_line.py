"""A stand-in for a strip line that the shipped networks never saw: `python docs/other_line.py SD-saliency-900 FOLDER`.

Test pictures of the data set through another camera: darker, of less contrast, blurred and noisy. FOLDER gets
own/ (40 pictures with defects, 10 windows without) and own-test/ (100 other pictures), each with images and masks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from sdi.runtime.common.images import write_image
from sdi.train.clean import CleanSteel
from sdi.train.data import Sample, find_pairs, load_samples

OWN, CLEAN, TEST = 40, 10, 100


def as_the_other_camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 -> the same place under other light, through a softer lens and a noisier sensor."""
    light = 0.55 * (image / 255.0) ** 1.6 + 0.04
    soft = cv2.GaussianBlur(light, (0, 0), 1.0)
    noise = rng.normal(0, 0.015, image.shape[:2])[..., None]  # gray, as the sensor
    return np.rint((soft + noise).clip(0, 1) * 255).astype(np.uint8)


def write(folder: Path, samples: list[Sample], rng: np.random.Generator) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, sample in enumerate(samples):
        # Of one picture there may be several windows.
        stem = f"{sample.name.replace(' ', '-')}-{number}" if sample.name.startswith("background") else sample.name
        write_image(folder / "images" / f"{stem}.png", as_the_other_camera(sample.image, rng))
        write_image(folder / "masks" / f"{stem}.png", sample.mask)


def main(data: Path, folder: Path) -> None:
    rng = np.random.default_rng(0)
    samples = load_samples(find_pairs(data, "test"))
    chosen = [samples[i] for i in rng.permutation(len(samples))]
    own, test = chosen[:OWN], chosen[OWN : OWN + TEST]
    steel = CleanSteel(chosen[OWN + TEST :])
    write(folder / "own", own + [steel.window(rng) for _ in range(CLEAN)], rng)
    write(folder / "own-test", test, rng)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
