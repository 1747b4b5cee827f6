from __future__ import annotations

import numpy as np

from sdi.train.outlines import FOUND_BGR, TRUTH_BGR, outlined


def test_outlines_are_where_regions_end_at_twice_the_size() -> None:
    truth, found = np.zeros((2, 20, 20), bool)
    truth[4:8, 4:8], found[12:16, 12:16] = True, True
    image = np.full((20, 20, 3), 90, np.uint8)
    drawn = outlined(image, [(truth, TRUTH_BGR), (found, FOUND_BGR)])
    assert drawn.shape == (40, 40, 3)
    assert (image == 90).all()
    for colour, first, last in ((TRUTH_BGR, 8, 15), (FOUND_BGR, 24, 31)):
        outline = (drawn == colour).all(axis=2)
        rows, columns = np.nonzero(outline)
        assert [rows.min(), rows.max(), columns.min(), columns.max()] == [first, last, first, last]
        assert not outline[first + 1 : last, first + 1 : last].any()


def test_the_later_region_lies_over_the_earlier() -> None:
    region = np.zeros((10, 10), bool)
    region[2:6, 2:6] = True
    drawn = outlined(np.zeros((10, 10, 3), np.uint8), [(region, TRUTH_BGR), (region, FOUND_BGR)])
    assert not (drawn == TRUTH_BGR).all(axis=2).any()
