import math

import numpy as np
import pytest

from oculox.data.faults import check_boxes, stays_inside

BOXES = [
    ((0, 0, 10, 10), (0, 0, 10, 10), None),
    ((-1, 0, 101, 10), (0, 0, 100, 10), None),
    ((-1.5, 0, 10, 10), (0, 0, 10, 10), "box-beyond"),
    ((0, 0, 100, 1), (0, 0, 100, 1), "box-tiny"),
    ((0, 0, 0, 10), None, "box-empty"),
    ((5, 5, 4, 9), None, "box-inverted"),
    ((-9, 0, 0, 10), None, "box-outside"),
    ((0, 80, 5, 90), None, "box-outside"),
    ((0, 0, math.nan, 10), None, "box-not-finite"),
]


@pytest.mark.parametrize(("xyxy", "kept", "code"), BOXES)
def test_check_boxes(xyxy: tuple, kept: tuple | None, code: str | None) -> None:
    boxes, usable, faults = check_boxes(np.array([xyxy], np.float64), (80, 100))
    assert usable.tolist() == [kept is not None]
    assert kept is None or boxes.tolist() == [list(kept)]
    assert [(f.row, f.code) for f in faults] == ([] if code is None else [(0, code)])


def test_every_box_is_compared_with_its_own_image() -> None:
    xyxy = np.array([(0, 0, 50, 50)] * 3, np.float64)
    boxes, usable, (fault,) = check_boxes(xyxy, [(50, 50), (40, 60), (99, 99)])
    assert boxes.tolist() == [[0, 0, 50, 50], [0, 0, 50, 40], [0, 0, 50, 50]]
    assert usable.all()
    assert (fault.row, fault.severity) == (1, "warning")
    assert (
        fault.message
        == "box [0, 0, 50, 50] (xyxy) sticks out of the image of 60 x 40; it is clipped"
    )
    boxes, usable, faults = check_boxes(np.empty((0, 4)), np.empty((0, 2)))
    assert (boxes.shape, usable.shape, faults) == ((0, 4), (0,), [])


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a.jpg", True),
        ("a/b.jpg", True),
        ("a..b.jpg", True),
        ("", False),
        ("..", False),
        ("a/../../b.jpg", False),
        ("..\\b.jpg", False),
        ("/a.jpg", False),
        ("\\a.jpg", False),
        ("C:a.jpg", False),
        ("a\0.jpg", False),
    ],
)
def test_stays_inside(name: str, inside: bool) -> None:
    assert stays_inside(name) is inside
