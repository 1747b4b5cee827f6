"""What is seen of a picture: near copies are found, noise is told from steel."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.calibration.appearance import appearance_of, descriptors, near_copies
from sdi.runtime.common.images import list_images, read_image
from sdi.runtime.common.strip import DEFECTS, draw_strip


def strip(seed: int, kind: str = "patch") -> np.ndarray:
    return draw_strip(kind, seed, (64, 64))[0]


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_measurements_equal_numpys() -> None:
    image = strip(1)
    gray = image[..., 0].astype(np.float64)
    looks = appearance_of(image)
    assert looks.mean == pytest.approx(gray.mean(), rel=1e-5)
    assert looks.contrast == pytest.approx(gray.std(), rel=1e-4)
    steps = [np.abs(np.diff(gray, axis=axis)).mean() for axis in (0, 1)]
    assert looks.gradient == pytest.approx(np.mean(steps), rel=1e-4)
    oracle = max(
        np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]
        for values in (gray, gray.reshape(16, 4, 16, 4).mean(axis=(1, 3)))
        for ahead, behind in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1]))
    )
    assert looks.correlation == pytest.approx(oracle, abs=0.01)


@pytest.mark.parametrize("kind", [*DEFECTS, "clean"])
def test_steel_is_not_random_and_noise_is(kind: str) -> None:
    for seed in range(5):
        assert not appearance_of(strip(seed, kind)).is_random
        assert appearance_of(noise(seed)).is_random


def test_clean_steel_under_a_noisy_sensor_is_not_random() -> None:
    rng = np.random.default_rng(0)
    surface = np.repeat(np.linspace(60, 70, 64)[None], 64, axis=0)  # a little brighter on one side, and no more
    image = np.rint(surface + rng.normal(0, 5, (64, 64))).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert np.corrcoef(image[1:, :, 0].ravel(), image[:-1, :, 0].ravel())[0, 1] < 0.4
    assert not appearance_of(image).is_random
    still = np.rint(60 + rng.normal(0, 5, (64, 64))).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert appearance_of(still).is_random


def test_brushed_steel_that_varies_along_one_axis_is_not_random() -> None:
    lines = np.random.default_rng(0).integers(60, 200, (1, 64), dtype=np.uint8)
    assert not appearance_of(cv2.cvtColor(np.repeat(lines, 64, axis=0), cv2.COLOR_GRAY2BGR)).is_random


def test_stored_again_is_a_near_copy_and_another_picture_is_not() -> None:
    original = strip(1)
    encoded = cv2.imdecode(cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    assert encoded is not None
    assert not np.array_equal(encoded, original)
    looks = [appearance_of(image) for image in (strip(2), original, strip(3), encoded)]
    assert near_copies(looks) == [(3, 1)]
    assert near_copies(looks[:1], looks) == [(0, 0)]
    assert near_copies([], looks) == near_copies(looks, []) == []


def test_the_same_place_in_other_light_is_another_picture() -> None:
    darker = (strip(1) * 0.7).astype(np.uint8)
    assert near_copies([appearance_of(strip(1)), appearance_of(darker)]) == []


def test_descriptors_weigh_their_parts_alike() -> None:
    rows = descriptors([appearance_of(strip(seed, kind)) for seed in range(20) for kind in DEFECTS])
    assert rows.shape == (60, 3 + 256)
    spread = (rows**2).mean(axis=0)
    np.testing.assert_allclose([*spread[:3], spread[3:].sum()], 1, rtol=1e-6)


def test_equal_pictures_have_no_distance() -> None:
    rows = descriptors([appearance_of(strip(1))] * 3)
    assert (rows == 0).all()


def test_data_set_has_no_noise_and_one_pair(steel_data: Path) -> None:
    paths = list_images(steel_data / "Source Images")
    looks = [appearance_of(read_image(path)) for path in paths]
    assert not any(look.is_random for look in looks)
    assert [{paths[i].stem, paths[j].stem} for i, j in near_copies(looks)] == [{"Pa_101", "Pa_105"}]
