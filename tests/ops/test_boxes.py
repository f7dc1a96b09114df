"""Box conversion and overlap."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculox.ops.boxes import (
    box_area,
    cxcywh_to_xyxy,
    pairwise_iou,
    pairwise_iou_cxcywh,
    xyxy_to_cxcywh,
)

COORDINATE = st.floats(-1000, 1000, width=32)
SIDE = st.floats(0, 500, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(COORDINATE, COORDINATE, SIDE, SIDE), max_size=8))
def test_conversion_there_and_back(rows):
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    back = xyxy_to_cxcywh(cxcywh_to_xyxy(boxes))
    torch.testing.assert_close(back, boxes, rtol=1e-5, atol=1e-3)


def test_conversion_by_hand():
    box = torch.tensor([[[10.0, 20.0, 4.0, 8.0]]])
    assert cxcywh_to_xyxy(box).tolist() == [[[8, 16, 12, 24]]]
    assert xyxy_to_cxcywh(torch.tensor([8.0, 16, 12, 24])).tolist() == [10, 20, 4, 8]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1),
        ((0, 0, 4, 4), (2, 0, 6, 4), 1 / 3),
        ((0, 0, 4, 4), (2, 2, 6, 6), 4 / 28),
        ((0, 0, 4, 4), (1, 1, 3, 3), 1 / 4),
        ((0, 0, 4, 4), (4, 0, 8, 4), 0),
        ((0, 0, 4, 4), (100, 100, 101, 101), 0),
        ((0, 0, 4, 4), (2, 2, 2, 2), 0),
        ((2, 2, 2, 2), (2, 2, 2, 2), 0),
        ((4, 4, 0, 0), (0, 0, 4, 4), 0),
    ],
)
def test_iou(a, b, expected):
    a, b = (torch.tensor([x], dtype=torch.float32) for x in (a, b))
    assert pairwise_iou(a, b).item() == pytest.approx(expected, abs=1e-7)
    assert pairwise_iou(b, a).item() == pytest.approx(expected, abs=1e-7)


def test_iou_of_batches():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, n, 4, generator=rng) * 40 + 1 for n in (5, 7))
    by_corners = pairwise_iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))
    assert by_corners.shape == (3, 5, 7)
    torch.testing.assert_close(pairwise_iou_cxcywh(a, b), by_corners, rtol=1e-4, atol=1e-5)
    for i in range(3):
        one = pairwise_iou_cxcywh(a[i, 2:3], b[i, 4:5])
        torch.testing.assert_close(one[0, 0], by_corners[i, 2, 4], rtol=1e-4, atol=1e-5)


def test_iou_of_small_boxes_far_from_the_origin():
    # Corners near 4000 have steps of 1/4096; the areas must not come from them.
    boxes = torch.tensor([[4000.1, 4000.1, 0.01, 0.01]])
    assert box_area(cxcywh_to_xyxy(boxes)).item() != pytest.approx(1e-4, rel=1e-3)
    far = torch.tensor([[4000.1, 4000.1, 1.0, 1.0]])
    assert pairwise_iou_cxcywh(boxes, far).item() == pytest.approx(1e-4, rel=0.1)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_iou_of_no_boxes(n, m):
    assert pairwise_iou(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)
    assert pairwise_iou_cxcywh(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)


def test_area():
    boxes = torch.tensor([[0.0, 0, 2, 3], [5, 5, 5, 9], [3, 3, 1, 1]])
    assert box_area(boxes).tolist() == [6, 0, 0]
    assert box_area(torch.zeros(0, 4)).shape == (0,)
