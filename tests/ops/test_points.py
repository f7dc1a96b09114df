"""Prediction cells, and boxes to and from deltas."""

import pytest
import torch

from oculox.ops.points import decode_boxes, encode_boxes, level_sizes_of, make_cells

STRIDES = (8, 16, 32)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (32, 32, ((4, 4), (2, 2), (1, 1))),
        (416, 640, ((52, 80), (26, 40), (13, 20))),
    ],
)
def test_level_sizes(height, width, expected):
    assert level_sizes_of(height, width, STRIDES) == expected


def test_cells_are_row_major_and_fine_levels_come_first():
    cells = make_cells(((2, 3), (1, 2)), (8, 16))
    assert cells.corners.tolist() == [
        [0, 0],
        [1, 0],
        [2, 0],
        [0, 1],
        [1, 1],
        [2, 1],
        [0, 0],
        [1, 0],
    ]
    assert cells.strides.tolist() == [8] * 6 + [16] * 2
    assert cells.centers[1].tolist() == [12, 4]
    assert cells.centers[7].tolist() == [24, 8]
    assert cells.corners.dtype == cells.strides.dtype == torch.float32


def test_each_level_has_one_stride():
    with pytest.raises(ValueError):
        make_cells(((2, 3),), STRIDES)


def test_decode_by_hand():
    cells = make_cells(((2, 3), (1, 2)), (8, 16))
    deltas = torch.zeros(8, 4)
    deltas[7] = torch.tensor([0.5, 0.25, 0.0, 1.0])
    boxes = decode_boxes(deltas, cells)
    assert boxes[0].tolist() == [0, 0, 8, 8]
    assert boxes[7].tolist() == pytest.approx([24, 4, 16, 16 * 2.718281828], rel=1e-6)


def test_encode_is_the_inverse_of_decode():
    cells = make_cells(level_sizes_of(96, 64, STRIDES), STRIDES)
    deltas = torch.randn(2, len(cells.strides), 4, generator=torch.Generator().manual_seed(0))
    back = encode_boxes(decode_boxes(deltas, cells), cells.corners, cells.strides)
    torch.testing.assert_close(back, deltas, rtol=1e-4, atol=1e-4)


def test_an_empty_box_encodes_to_finite_deltas():
    empty = encode_boxes(torch.zeros(1, 4), torch.zeros(1, 2), torch.full((1,), 8.0))
    assert empty.isfinite().all()
    assert empty[0, 2].item() == pytest.approx(-18.4207, abs=1e-3)
