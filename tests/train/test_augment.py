from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.train.augment import Augmentation, augment

STILL = Augmentation(flips=False, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.0)


def blob(height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth spot off the centre, 0..255, so that every flip and turn of it differs."""
    spot = np.zeros((height, width), np.uint8)
    cv2.ellipse(spot, (width // 3, height // 4), (width // 4, height // 9), 20, 0, 360, 255, -1)
    return cv2.GaussianBlur(spot, (0, 0), 3)


def colour(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[:, :, None], 3, axis=2)


def cut(gray: np.ndarray) -> np.ndarray:
    return np.where(gray >= 128, np.uint8(255), np.uint8(0))


def test_zeros_change_nothing() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    mask = cut(rng.integers(0, 256, (32, 48), dtype=np.uint8))
    answer = augment(image, mask, (32, 48), STILL, np.random.default_rng(1))
    assert np.array_equal(answer[0], image)
    assert np.array_equal(answer[1], mask)


@pytest.mark.parametrize("size_hw", [(64, 64), (32, 96)])
def test_mask_moves_with_its_picture(size_hw: tuple[int, int]) -> None:
    moving = Augmentation(min_crop=0.5, gain=0.0, offset=0.0, salt_pepper=0.0)
    seen = set()
    for seed in range(24):
        image, mask = augment(colour(blob()), blob(), size_hw, moving, np.random.default_rng(seed))
        assert image.shape == (*size_hw, 3)
        assert mask.shape == size_hw
        assert np.array_equal(mask, cut(image[..., 1]))
        seen.add(mask.tobytes())
    assert len(seen) == 24


def test_all_eight_turns_and_flips_of_a_square_occur() -> None:
    flipping = Augmentation(flips=True, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.0)
    mask = cut(blob(64, 64))
    wanted = {np.rot90(m, k).tobytes() for k in range(4) for m in (mask, mask.T)}
    seen = {
        augment(colour(mask), mask, (64, 64), flipping, np.random.default_rng(seed))[1].tobytes() for seed in range(100)
    }
    assert seen == wanted
    assert len(wanted) == 8


def test_crop_keeps_at_least_the_given_share() -> None:
    """A ramp shows how wide a window was taken."""
    ramp = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    cropping = Augmentation(flips=False, min_crop=0.6, gain=0.0, offset=0.0, salt_pepper=0.0)
    spans = []
    for seed in range(50):
        image, _ = augment(colour(ramp), ramp, (64, 64), cropping, np.random.default_rng(seed))
        spans.append(int(image.max()) - int(image.min()) + 1)
    assert 0.58 * 200 <= min(spans) < 0.75 * 200
    assert 0.9 * 200 < max(spans) <= 200


def test_light_changes_within_its_bounds_and_masks_do_not() -> None:
    light = Augmentation(flips=False, min_crop=1.0, gain=0.2, offset=20.0, salt_pepper=0.0)
    flat, mask = np.full((32, 32, 3), 100, np.uint8), cut(blob(32, 32))
    levels = []
    for seed in range(200):
        image, answer = augment(flat, mask, (32, 32), light, np.random.default_rng(seed))
        assert image.min() == image.max()
        assert np.array_equal(answer, mask)
        levels.append(int(image[0, 0, 0]))
    assert 59 <= min(levels) < 75
    assert 125 < max(levels) <= 140


def test_salt_and_pepper_stays_under_its_share() -> None:
    noisy = Augmentation(flips=False, min_crop=1.0, gain=0.0, offset=0.0, salt_pepper=0.1)
    flat, mask = np.full((100, 100, 3), 100, np.uint8), np.zeros((100, 100), np.uint8)
    shares = []
    for seed in range(100):
        image, answer = augment(flat, mask, (100, 100), noisy, np.random.default_rng(seed))
        assert set(np.unique(image)) <= {0, 100, 255}
        assert not answer.any()
        shares.append(float((image[..., 0] != 100).mean()))
    assert max(shares) < 0.11
    assert max(shares) > 0.05
    assert 30 <= shares.count(0.0) <= 70  # half of the pictures stay clean


def test_same_seed_same_answer_and_inputs_untouched() -> None:
    image, mask = colour(blob()), blob()
    first = augment(image, mask, (64, 64), Augmentation(), np.random.default_rng(5))
    second = augment(image, mask, (64, 64), Augmentation(), np.random.default_rng(5))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == np.uint8
    assert np.array_equal(image, colour(blob()))
    assert np.array_equal(mask, blob())


def test_mirror_swaps_left_and_right_alone() -> None:
    mirroring = replace(STILL, mirror=True)
    mask = cut(blob(64, 64))
    seen = {augment(colour(mask), mask, (64, 64), mirroring, np.random.default_rng(s))[1].tobytes() for s in range(40)}
    assert seen == {mask.tobytes(), mask[:, ::-1].tobytes()}


def test_rotation_turns_picture_and_mask_within_its_bounds() -> None:
    """A long bar shows by how much: the angle of its main axis, from second moments."""
    bar = np.zeros((96, 96), np.uint8)
    bar[44:52, 16:80] = 255
    angles = []
    for seed in range(60):
        image, mask = augment(colour(bar), bar, (96, 96), replace(STILL, rotation=10.0), np.random.default_rng(seed))
        assert np.array_equal(mask, cut(image[..., 1]))
        y, x = np.nonzero(mask)
        covariance = np.cov(x, y)
        angles.append(np.degrees(0.5 * np.arctan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1])))
        assert np.count_nonzero(mask) == pytest.approx(np.count_nonzero(bar), rel=0.03)
    assert -10.5 < min(angles) < -7
    assert 7 < max(angles) < 10.5


def test_rotation_fills_the_edges_by_reflection() -> None:
    """Nothing black comes in, and a mask that covers all still does."""
    flat, full = np.full((64, 64, 3), 150, np.uint8), np.full((64, 64), 255, np.uint8)
    for seed in range(10):
        image, mask = augment(flat, full, (64, 64), replace(STILL, rotation=45.0), np.random.default_rng(seed))
        assert (image == 150).all()
        assert (mask == 255).all()


def test_contrast_stretches_about_the_mean() -> None:
    image = colour(np.tile(np.array([80, 120], np.uint8), (32, 16)))
    mask = np.zeros((32, 32), np.uint8)
    spans = []
    for seed in range(60):
        answer, _ = augment(image, mask, (32, 32), replace(STILL, contrast=0.5), np.random.default_rng(seed))
        assert answer.mean() == pytest.approx(100, abs=1)
        spans.append(int(answer.max()) - int(answer.min()))
    assert 20 <= min(spans) < 25
    assert 55 < max(spans) <= 60


def test_saturation_moves_towards_gray_and_away_and_leaves_gray_alone() -> None:
    mask = np.zeros((32, 32), np.uint8)
    coloured = np.full((32, 32, 3), (60, 100, 140), np.uint8)
    gray = cv2.cvtColor(coloured, cv2.COLOR_BGR2GRAY)
    spans = []
    for seed in range(60):
        vivid = replace(STILL, saturation=0.5)
        answer, _ = augment(coloured, mask, (32, 32), vivid, np.random.default_rng(seed))
        np.testing.assert_allclose(cv2.cvtColor(answer, cv2.COLOR_BGR2GRAY).astype(int), gray, atol=1)
        spans.append(int(answer[0, 0, 2]) - int(answer[0, 0, 0]))
        still, _ = augment(colour(gray), mask, (32, 32), vivid, np.random.default_rng(seed))
        assert np.array_equal(still, colour(gray))
    assert 38 <= min(spans) < 50
    assert 110 < max(spans) <= 122


def test_a_crop_is_a_window_of_the_resized_picture() -> None:
    rows, columns = np.meshgrid(np.arange(64), np.arange(96), indexing="ij")
    image = np.stack([rows, columns, rows], axis=2).astype(np.uint8)
    mask = cut(blob(64, 96))
    corners = set()
    for seed in range(40):
        window, part = augment(image, mask, (64, 96), STILL, np.random.default_rng(seed), (48, 64))
        assert window.shape == (48, 64, 3)
        top, left = int(window[0, 0, 0]), int(window[0, 0, 1])
        assert np.array_equal(window, image[top : top + 48, left : left + 64])
        assert np.array_equal(part, mask[top : top + 48, left : left + 64])
        corners.add((top, left))
    assert len(corners) > 30
    assert max(top for top, _ in corners) > 12


@pytest.mark.parametrize(
    ("name", "value"), [("gain", -0.1), ("salt_pepper", 1.5), ("min_crop", 0.0), ("rotation", 200.0), ("offset", 300.0)]
)
def test_amounts_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"augmentation.{name} must be .* got {value}"):
        Augmentation(**{name: value})
