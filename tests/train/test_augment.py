from __future__ import annotations

import cv2
import numpy as np
import pytest

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
