import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oculox.data.coco import CocoIndex
from oculox.data.image import read_image
from oculox.data.preprocess import (
    apply_letterbox,
    boxes_to_input,
    boxes_to_source,
    clip_boxes,
    letterbox_geometry,
)
from oculox.data.transforms import (
    flip_boxes,
    flip_image,
    jitter_hsv,
    keep_boxes,
    random_affine,
    transform_boxes,
)

NO_BOXES = np.zeros((0, 4), np.float32)
SIDES = st.integers(1, 3000)
INPUTS = st.sampled_from([32, 64, 416, 640, 1280])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def affine(seed: int = 0, **changes: object) -> np.ndarray:
    values = {"degrees": 10.0, "scale": (0.1, 2.0), "translate": 0.1, "shear": 2.0} | changes
    return random_affine((64, 96), rng=np.random.default_rng(seed), **values)


@pytest.mark.parametrize(
    ("source", "size", "placement", "inner", "top_left"),
    [
        ((480, 640), (416, 416), "top_left", (312, 416), (0, 0)),
        ((480, 640), (416, 416), "center", (312, 416), (52, 0)),
        ((427, 640), (640, 640), "top_left", (427, 640), (0, 0)),
        ((427, 640), (640, 640), "center", (427, 640), (106, 0)),
        ((333, 500), (640, 640), "top_left", (426, 640), (0, 0)),
        ((333, 500), (640, 640), "center", (426, 640), (107, 0)),
        ((100, 50), (64, 128), "center", (64, 32), (0, 48)),
        ((1, 5000), (64, 64), "top_left", (1, 64), (0, 0)),
        ((5000, 1), (64, 64), "center", (64, 1), (0, 31)),
    ],
)
def test_letterbox_geometry(source, size, placement, inner, top_left) -> None:
    fit = letterbox_geometry(source, size, placement)
    assert fit.inner_hw == inner
    assert (fit.top, fit.left) == top_left
    assert fit.scale == min(size[0] / source[0], size[1] / source[1])


@given(
    source=st.tuples(SIDES, SIDES),
    size=st.tuples(INPUTS, INPUTS),
    placement=st.sampled_from(["top_left", "center"]),
)
def test_letterbox_fits_inside_the_input(source, size, placement) -> None:
    fit = letterbox_geometry(source, size, placement)
    for start, inner, full in zip((fit.top, fit.left), fit.inner_hw, size, strict=True):
        assert start >= 0
        assert inner >= 1
        assert start + inner <= full


@given(
    source=st.tuples(SIDES, SIDES),
    size=st.tuples(INPUTS, INPUTS),
    placement=st.sampled_from(["top_left", "center"]),
    corners=st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), max_size=4),
)
def test_boxes_return_from_the_letterbox(source, size, placement, corners) -> None:
    fit = letterbox_geometry(source, size, placement)
    boxes = np.array(corners, np.float32).reshape(-1, 4) * np.float32([source[1], source[0]] * 2)
    back = boxes_to_source(boxes_to_input(boxes, fit), fit)
    assert back.dtype == np.float32
    assert back.shape == boxes.shape
    tolerance = 1e-5 * max(*source, 1 / fit.scale * max(size))
    assert np.abs(back - boxes).max(initial=0) <= tolerance


def test_boxes_to_source_clips_to_the_image() -> None:
    fit = letterbox_geometry((50, 100), (64, 64), "center")
    far = np.array([[-90, -90, 900, 900]], np.float32)
    assert boxes_to_source(far, fit).tolist() == [[0, 0, 100, 50]]


@pytest.mark.parametrize("placement", ["top_left", "center"])
def test_letterboxed_image_lies_where_the_geometry_says(placement) -> None:
    image = noise(30, 60)
    fit = letterbox_geometry((30, 60), (64, 96), placement)
    out = apply_letterbox(image, fit, pad_value=7)
    assert out.shape == (64, 96, 3)
    height, width = fit.inner_hw
    inside = np.s_[fit.top : fit.top + height, fit.left : fit.left + width]
    assert np.array_equal(out[inside], cv2.resize(image, (width, height)))
    outside = np.ones((64, 96), bool)
    outside[inside] = False
    assert (out[outside] == 7).all()


def test_a_image_already_resized_is_only_padded() -> None:
    image = noise(100, 200)
    fit = letterbox_geometry((100, 200), (64, 64))
    kept = cv2.resize(image, fit.inner_hw[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(
        apply_letterbox(kept, fit, pad_value=114), apply_letterbox(image, fit, pad_value=114)
    )


def test_plain_path_equals_the_official_batch(shared, coco_train: CocoIndex) -> None:
    golden = np.load(shared / "golden/train_batch_nano416.npz")
    for i, expected in enumerate(golden["labels"]):
        assert coco_train.image_id(i) == golden["image_ids"][i]
        fit = letterbox_geometry(coco_train.source_hw(i), (416, 416))
        image = apply_letterbox(read_image(coco_train.image_path(i)), fit, pad_value=114)
        boxes, labels = keep_boxes(
            boxes_to_input(coco_train.boxes(i), fit), coco_train.labels(i), max_labels=120
        )
        real = expected[expected[:, 1:].any(axis=1)]
        cxcywh = np.hstack(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]))
        assert np.array_equal(labels, real[:, 0])
        np.testing.assert_allclose(cxcywh, real[:, 1:], atol=1e-3)
        # Equal to the last bit with the JPEG decoder that made the values; decoders of other
        # OpenCV builds may round some pixels differently by one or two.
        assert image.sum(dtype=np.float64) == pytest.approx(golden["image_sum"][i], rel=1e-3)
        if i == 0:
            np.testing.assert_allclose(image[100].T, golden["image0_row"], atol=3)


def test_flipping_twice_changes_nothing() -> None:
    image = noise(5, 9)
    boxes = np.array([[1, 2, 4, 5], [0, 0, 9, 5]], np.float32)
    assert np.array_equal(flip_image(flip_image(image)), image)
    assert flip_boxes(boxes, width=9).tolist() == [[5, 2, 8, 5], [0, 0, 9, 5]]
    assert np.array_equal(flip_boxes(flip_boxes(boxes, width=9), width=9), boxes)
    assert flip_boxes(NO_BOXES, width=9).shape == (0, 4)


def test_keep_boxes_drops_thin_ones_and_stops_at_the_limit() -> None:
    boxes = np.array([[0, 0, 1, 9], [0, 0, 2, 9], [0, 0, 9, 9], [3, 3, 9, 9]], np.float32)
    labels = np.arange(4)
    kept, names = keep_boxes(boxes, labels, max_labels=2)
    assert names.tolist() == [1, 2]
    assert np.array_equal(kept, boxes[1:3])
    kept, names = keep_boxes(NO_BOXES, np.zeros(0, np.int64), max_labels=2)
    assert kept.shape == (0, 4)
    assert names.shape == (0,)


@pytest.mark.parametrize("seed", range(6))
def test_hsv_jitter_equals_16_bit_arithmetic(seed: int) -> None:
    image = noise(20, 30)
    rng = np.random.default_rng(seed)
    shift = (rng.uniform(-1, 1, 3) * (5, 30, 30) * rng.integers(0, 2, 3)).astype(np.int16)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(np.int16) + shift
    hsv[..., 0] %= 180
    expected = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2BGR)
    before = image.copy()
    out = jitter_hsv(image, (5, 30, 30), rng=np.random.default_rng(seed))
    assert np.array_equal(out, expected if shift.any() else image)
    assert np.array_equal(image, before)


def test_hsv_jitter_of_nothing_is_nothing() -> None:
    image = noise(4, 4)
    assert jitter_hsv(image, (0, 0, 0), rng=np.random.default_rng(0)) is image


def test_affine_without_ranges_is_the_identity() -> None:
    matrix = affine(degrees=0.0, scale=(1.0, 1.0), translate=0.0, shear=0.0)
    np.testing.assert_allclose(matrix, np.eye(2, 3), atol=1e-12)


def test_affine_stays_in_its_ranges_and_turns_about_the_corner() -> None:
    matrices = np.stack([affine(seed, shear=0.0) for seed in range(500)])
    scale = np.sqrt(np.linalg.det(matrices[:, :, :2]))
    angle = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    assert 0.1 <= scale.min() < 0.2
    assert 1.9 < scale.max() <= 2.0
    assert -10 <= angle.min() < -9
    assert 9 < angle.max() <= 10
    # The corner (0, 0) moves only by the shift, at any rotation.
    assert np.abs(matrices[:, 0, 2]).max() <= 9.6
    assert np.abs(matrices[:, 1, 2]).max() <= 6.4
    sheared = np.stack([affine(s, degrees=0.0, scale=(1.0, 1.0)) for s in range(500)])
    limit = np.tan(np.radians(2))
    assert 0.9 * limit < np.abs(sheared[:, 0, 1]).max() <= limit
    assert 0.9 * limit < np.abs(sheared[:, 1, 0]).max() <= limit


@pytest.mark.parametrize("seed", range(4))
def test_transformed_boxes_hold_their_transformed_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = affine(seed)
    low = rng.uniform(0, 60, (9, 2))
    boxes = np.hstack((low, low + rng.uniform(0, 40, (9, 2)))).astype(np.float32)
    moved = transform_boxes(boxes, matrix, (64, 96))
    assert moved.dtype == np.float32
    for box, out in zip(boxes, moved, strict=True):
        points = rng.uniform(box[:2], box[2:], (200, 2)) @ matrix[:, :2].T + matrix[:, 2]
        inside = points[(points >= 0).all(1) & (points <= (96, 64)).all(1)]
        assert (inside >= out[:2] - 1e-3).all()
        assert (inside <= out[2:] + 1e-3).all()
    assert np.array_equal(moved, clip_boxes(moved, (64, 96)))


def test_no_boxes_stay_no_boxes() -> None:
    fit = letterbox_geometry((5, 5), (64, 64))
    for out in (
        transform_boxes(NO_BOXES, affine(), (64, 96)),
        boxes_to_input(NO_BOXES, fit),
        boxes_to_source(NO_BOXES, fit),
        clip_boxes(NO_BOXES, (5, 5)),
    ):
        assert out.shape == (0, 4)
        assert out.dtype == np.float32
