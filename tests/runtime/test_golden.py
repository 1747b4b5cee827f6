"""The golden pair."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sdi.runtime.golden import golden_check, golden_frame, golden_record


def test_the_frame_is_the_same_everywhere() -> None:
    """Manifests in the field were made with these bytes: they may never change."""
    frame = golden_frame(37, 53)
    assert frame.shape == (37, 53, 3)
    assert frame.dtype == np.uint8
    expected = [[[(x * a + y * b + x * y // c) % 256 for a, b, c in ((1, 2, 7), (3, 1, 11), (2, 5, 13))]
                 for x in range(53)] for y in range(37)]  # fmt: skip
    assert frame.tolist() == expected
    digest = hashlib.sha256(golden_frame(368, 368).tobytes()).hexdigest()
    assert digest == "56ae02d38d9731f5b15fae9ea517a4143db8e5bcec6417f24ce69875d44c454b"


def test_the_record_holds_the_means_of_tiles() -> None:
    saliency = np.repeat(np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8), 4, 0), 6, 1)
    record = golden_record((32, 48), saliency, 1.5)
    assert record["frame_hw"] == [32, 48]
    assert record["tolerance"] == 1.5
    assert record["tile_means"] == np.arange(64.0).reshape(8, 8).tolist()


def test_a_size_that_eight_does_not_divide() -> None:
    means = np.array(golden_record((13, 21), np.full((13, 21), 9, np.uint8), 1.0)["tile_means"])
    assert means.shape == (8, 8)
    assert (means == 9).all()


def test_the_difference_is_that_of_the_worst_tile() -> None:
    saliency = np.full((32, 32), 100, np.uint8)
    record = golden_record((32, 32), saliency, 1.0)
    same = golden_check(record, lambda frame: saliency)
    assert (same.difference, same.tolerance, same.passed) == (0, 1, True)
    saliency[:4, 4:8] += 16  # one tile of 4 x 4
    saliency[8, 8] += 16  # a sixteenth of another
    other = golden_check(record, lambda frame: saliency)
    assert (other.difference, other.passed) == (16, False)


def test_the_picture_that_is_asked_about_is_the_one_in_the_record() -> None:
    record = golden_record((24, 40), np.zeros((24, 40), np.uint8), 1.0)
    asked = []
    golden_check(record, lambda frame: asked.append(frame) or np.zeros((24, 40), np.uint8))
    assert record["frame_sha256"] == hashlib.sha256(asked[0].tobytes()).hexdigest()
    with pytest.raises(ValueError, match="not the one that this sdi draws"):
        golden_check(record | {"frame_sha256": "0" * 64}, lambda frame: np.zeros((24, 40), np.uint8))


def test_a_record_made_before_pictures_had_digests_serves() -> None:
    record = golden_record((24, 40), np.zeros((24, 40), np.uint8), 1.0)
    del record["frame_sha256"]
    assert golden_check(record, lambda frame: np.zeros(frame.shape[:2], np.uint8)).passed
