"""The golden record."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sdi.runtime.engine.golden import golden_check, golden_frames, golden_record


def _black(height: int, width: int) -> np.ndarray:
    return np.zeros((2, height, width), np.uint8)


def test_the_frames_are_the_same_everywhere() -> None:
    """Manifests in the field were made with these bytes: they may never change."""
    waves, flat = golden_frames(37, 53)
    assert waves.shape == flat.shape == (37, 53, 3)
    assert waves.dtype == flat.dtype == np.uint8
    expected = [[[(x * a + y * b + x * y // c) % 256 for a, b, c in ((1, 2, 7), (3, 1, 11), (2, 5, 13))]
                 for x in range(53)] for y in range(37)]  # fmt: skip
    assert waves.tolist() == expected
    assert (flat == 128).all()
    digest = hashlib.sha256(golden_frames(368, 368)[0].tobytes()).hexdigest()
    assert digest == "56ae02d38d9731f5b15fae9ea517a4143db8e5bcec6417f24ce69875d44c454b"


def test_the_record_holds_the_means_of_tiles() -> None:
    saliency = np.repeat(np.repeat(np.arange(128, dtype=np.uint8).reshape(2, 8, 8), 4, 1), 6, 2)
    record = golden_record((32, 48), saliency, 1.5)
    assert record["frame_hw"] == [32, 48]
    assert record["tolerance"] == 1.5
    assert record["tile_means"] == np.arange(128.0).reshape(2, 8, 8).tolist()


def test_a_size_that_eight_does_not_divide() -> None:
    means = np.array(golden_record((13, 21), np.full((2, 13, 21), 9, np.uint8), 1.0)["tile_means"])
    assert means.shape == (2, 8, 8)
    assert (means == 9).all()


@pytest.mark.parametrize("which", [0, 1])
def test_the_difference_is_that_of_the_worst_tile(which: int) -> None:
    saliency = np.full((2, 32, 32), 100, np.uint8)
    record = golden_record((32, 32), saliency, 1.0)
    same = golden_check(record, lambda frames: saliency)
    assert (same.difference, same.tolerance, same.passed) == (0, 1, True)
    saliency[which, :4, 4:8] += 16  # one tile of 4 x 4
    saliency[which, 8, 8] += 16  # a sixteenth of another
    other = golden_check(record, lambda frames: saliency)
    assert (other.difference, other.passed) == (16, False)


def test_the_pictures_that_are_asked_about_are_those_in_the_record() -> None:
    record = golden_record((24, 40), _black(24, 40), 1.0)
    asked = []
    golden_check(record, lambda frames: asked.extend(frames) or _black(24, 40))
    assert record["frame_sha256"] == hashlib.sha256(b"".join(frame.tobytes() for frame in asked)).hexdigest()
    with pytest.raises(ValueError, match="not the ones that this sdi draws"):
        golden_check(record | {"frame_sha256": "0" * 64}, lambda frames: _black(24, 40))


@pytest.mark.parametrize("digest", [True, False])
def test_records_of_the_first_picture_alone_serve(digest: bool) -> None:
    """As the first manifests had them, at first without a digest."""
    record = golden_record((24, 40), _black(24, 40), 1.0)
    record["tile_means"] = record["tile_means"][0]
    record["frame_sha256"] = hashlib.sha256(golden_frames(24, 40)[0].tobytes()).hexdigest()
    if not digest:
        del record["frame_sha256"]
    asked = []
    assert golden_check(record, lambda frames: asked.extend(frames) or np.zeros(frames.shape[:3], np.uint8)).passed
    assert len(asked) == 1


@pytest.mark.parametrize("means", [[[0.0] * 8] * 7, [[[0.0] * 8] * 8] * 3, []])
def test_a_record_of_another_shape_is_damaged(means: list[object]) -> None:
    record = golden_record((24, 40), _black(24, 40), 1.0) | {"tile_means": means}
    del record["frame_sha256"]
    with pytest.raises(ValueError, match=r"reshape|answers to \d pictures"):
        golden_check(record, lambda frames: np.zeros(frames.shape[:3], np.uint8))
