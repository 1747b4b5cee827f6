"""The rules, on masks drawn to lie just inside and just outside of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sdi.train.evaluation.failure_classes import FAILURE_CLASSES, failure_classes

Box = tuple[int, int, int, int]  # left, top, width, height


def drawn(*boxes: Box) -> np.ndarray:
    """Rectangles on a picture of 200x200, as SD-saliency-900's."""
    mask = np.zeros((200, 200), np.uint8)
    for left, top, width, height in boxes:
        mask[top : top + height, left : left + width] = 255
    return mask


CASES = [
    ("a patch", [(50, 50, 90, 80)], set()),
    ("800 pixels, 2 %", [(50, 50, 40, 20)], {"tiny defects"}),
    ("840 pixels", [(50, 50, 42, 20)], set()),
    ("8 pixels between", [(20, 20, 40, 60), (68, 20, 40, 60)], {"close defects"}),
    ("9 pixels between", [(20, 20, 40, 60), (69, 20, 40, 60)], set()),
    ("two of three close", [(20, 20, 40, 40), (20, 65, 40, 40), (120, 140, 40, 40)], {"close defects"}),
    ("corner to corner is one defect", [(20, 20, 40, 40), (60, 60, 40, 40)], set()),
    ("8 wide, 150 long", [(20, 20, 8, 150)], {"fine scratches"}),
    ("10 wide, 150 long", [(20, 20, 10, 150)], set()),
    ("8 wide, 40 long", [(20, 20, 8, 40)], {"tiny defects"}),
    ("3 wide, 50 long", [(20, 20, 3, 50)], {"tiny defects", "fine scratches"}),
    ("along the edge", [(0, 0, 8, 200)], {"fine scratches"}),
    ("with a patch it is no fine scratch", [(20, 20, 4, 150), (100, 100, 50, 50)], set()),
    ("a scratch close to another", [(20, 20, 4, 150), (30, 20, 4, 150)], {"close defects", "fine scratches"}),
    ("nothing", [], set()),
    ("all", [(0, 0, 200, 200)], set()),
]


@pytest.mark.parametrize(("what", "boxes", "expected"), CASES, ids=[case[0] for case in CASES])
def test_rules(what: str, boxes: list[Box], expected: set[str]) -> None:
    assert set(failure_classes(drawn(*boxes))) == expected


def test_a_slanting_scratch_is_as_fine_as_an_upright_one() -> None:
    mask = drawn()
    cv2.line(mask, (30, 30), (150, 160), 255, 4)
    assert "fine scratches" in failure_classes(mask)


@pytest.mark.parametrize("times", [2, 5])
def test_rules_mean_the_same_at_every_resolution(times: int) -> None:
    for _, boxes, expected in CASES:
        large = np.kron(drawn(*boxes), np.ones((times, times), np.uint8))
        assert set(failure_classes(large)) == expected


def test_each_class_tells_its_rule() -> None:
    assert [kind.name for kind in FAILURE_CLASSES] == ["tiny defects", "close defects", "fine scratches"]
    assert all("%" in kind.rule for kind in FAILURE_CLASSES)
