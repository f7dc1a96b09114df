"""Images with boxes on them and contact sheets."""

import numpy as np
import pytest

from oculox.draw import contact_sheet, draw_boxes, shrunk
from oculox.errors import DataError
from oculox.files import encode_image, write_image


def test_box_is_drawn_on_a_copy_in_its_class_colour():
    image = np.zeros((100, 120, 3), np.uint8)
    boxes = np.array([[20, 40, 60, 80], [70, 40, 110, 80]], np.float32)
    drawn = draw_boxes(image, boxes, np.array([0, 1]), captions=["cat 0.90", "dog 0.80"])
    assert not image.any()
    assert drawn.shape == image.shape
    left, right = drawn[60, 20], drawn[60, 70]
    assert left.any()
    assert right.any()
    assert (left != right).any()
    assert not drawn[60, 40].any()  # the inside stays visible


def test_nothing_found_leaves_the_image():
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    drawn = draw_boxes(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), captions=[])
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_box_outside_the_image():
    image = np.zeros((50, 50, 3), np.uint8)
    boxes = np.array([[-20, -20, 200, 200], [60, 60, 90, 90]], np.float32)
    drawn = draw_boxes(image, boxes, np.array([0, 5]), captions=["a", "b"])
    assert drawn.shape == image.shape


@pytest.mark.parametrize(
    "box",
    [[0, 0, 200, 100], [0, 4, 60, 50], [-30, 40, 60, 90], [180, 40, 199, 90]],
    ids=["whole", "top", "left", "right"],
)
def test_the_caption_stays_inside_the_image(box):
    image = np.zeros((100, 200, 3), np.uint8)

    def white(xyxy):
        """Pixels of the letters."""
        box = np.array([xyxy], np.float32)
        drawn = draw_boxes(image, box, np.array([0]), captions=["cup 0.90"])
        return (drawn.min(axis=-1) > 200).sum()

    assert white(box) == white([60, 40, 140, 90]) > 50


@pytest.mark.parametrize(
    ("count", "columns", "expected"), [(1, 4, (240, 320)), (5, 4, (480, 1280)), (4, 2, (480, 640))]
)
def test_contact_sheet_size(count, columns, expected):
    images = [np.full((30 + 10 * i, 90, 3), 200, np.uint8) for i in range(count)]
    sheet = contact_sheet(images, columns=columns)
    assert sheet.shape == (*expected, 3)
    assert (sheet == 200).sum() > 1000 * count


def test_contact_sheet_of_a_thin_image():
    assert contact_sheet([np.zeros((1, 5000, 3), np.uint8)]).shape == (240, 320, 3)


def test_contact_sheet_of_nothing():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


@pytest.mark.parametrize(
    ("hw", "suffix", "works"),
    [
        ((10, 20_000), ".webp", False),
        ((70_000, 2), ".jpg", False),
        ((70_000, 2), ".png", True),
        ((2, 2), ".webp", True),
    ],
)
def test_formats_have_a_largest_image(hw, suffix, works, tmp_path):
    image = np.zeros((*hw, 3), np.uint8)
    path = tmp_path / f"a{suffix}"
    if works:
        write_image(path, image)
        assert path.read_bytes() == encode_image(image, suffix)
        return
    with pytest.raises(DataError, match=rf"a{suffix}: an image of {hw[1]} x {hw[0]} pixels cannot"):
        write_image(path, image)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("hw", "longest", "expected"),
    [
        ((10, 20), 20, (10, 20)),
        ((40, 20), 10, (10, 5)),
        ((2, 70_000), 1024, (1, 1024)),
    ],
)
def test_an_image_that_is_shrunk_keeps_a_pixel(hw, longest, expected):
    assert shrunk(np.zeros((*hw, 3), np.uint8), longest=longest).shape == (*expected, 3)
