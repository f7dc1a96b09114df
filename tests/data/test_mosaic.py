import cv2
import numpy as np
import pytest

from oculox.data.coco import CocoIndex
from oculox.data.image import read_image
from oculox.data.mosaic import (
    Mixup,
    blank,
    draw_mixup_plan,
    draw_tiles,
    mix_boxes,
    mix_image,
    plan_tiles,
    three_channels,
    tile_boxes,
    warp_into,
)
from oculox.data.transforms import random_affine, transform_boxes

SIZE = (320, 416)


def slow_mosaic(images, boxes, center, affine, size):
    """The two-canvas process: resize, paste into a double canvas, warp the whole of it.

    As the official code does it, but for objects outside the canvas, which are left out: there
    they become lines on its edge and, warped, labels of nothing.
    """
    height, width = size
    cx, cy = center
    canvas = np.full((2 * height, 2 * width, 3), 114, np.uint8)
    pasted = []
    for k, (image, rows) in enumerate(zip(images, boxes, strict=True)):
        ratio = min(height / image.shape[0], width / image.shape[1])
        h, w = int(image.shape[0] * ratio), int(image.shape[1] * ratio)
        small = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
        x0 = cx - w if k in (0, 2) else cx
        y0 = cy - h if k in (0, 1) else cy
        for y in range(max(y0, 0), min(y0 + h, 2 * height)):
            low, high = max(x0, 0), min(x0 + w, 2 * width)
            canvas[y, low:high] = small[y - y0, low - x0 : high - x0]
        for x1, y1, x2, y2 in rows:
            pasted.append([x1 * ratio + x0, y1 * ratio + y0, x2 * ratio + x0, y2 * ratio + y0])
    moved = []
    for x1, y1, x2, y2 in pasted:
        x1, x2 = np.clip([x1, x2], 0, 2 * width)
        y1, y2 = np.clip([y1, y2], 0, 2 * height)
        if x1 == x2 or y1 == y2:
            continue
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]]) @ affine.T
        xs, ys = np.clip(corners[:, 0], 0, width), np.clip(corners[:, 1], 0, height)
        moved.append([xs.min(), ys.min(), xs.max(), ys.max()])
    out = cv2.warpAffine(canvas, affine, (width, height), borderValue=(114, 114, 114))
    return out, np.array(moved).reshape(-1, 4)


def slow_mixup(image, other, boxes, plan, size):
    """Letterbox, resize the whole letterbox, mirror it, pad with black, crop, take the mean."""
    height, width = size
    ratio = min(height / other.shape[0], width / other.shape[1])
    canvas = np.full((height, width, 3), 114, np.uint8)
    h, w = int(other.shape[0] * ratio), int(other.shape[1] * ratio)
    canvas[:h, :w] = cv2.resize(other, (w, h))
    full_h, full_w = int(height * plan.jitter), int(width * plan.jitter)
    canvas = cv2.resize(canvas, (full_w, full_h))
    if plan.flip:
        canvas = canvas[:, ::-1]
    padded = np.zeros((max(height, full_h), max(width, full_w), 3), np.uint8)
    padded[:full_h, :full_w] = canvas
    x, y = plan.offset_xy
    crop = padded[y : y + height, x : x + width]
    rows = np.clip(boxes * ratio * plan.jitter, 0, [full_w, full_h] * 2)
    if plan.flip:
        rows[:, [0, 2]] = full_w - rows[:, [2, 0]]
    rows = np.clip(rows - [x, y, x, y], 0, [width, height] * 2)
    return 0.5 * image + 0.5 * crop, rows


def smooth(index: CocoIndex, i: int) -> np.ndarray:
    """A real image without its finest detail, on which every interpolation agrees."""
    return cv2.GaussianBlur(read_image(index.image_path(i)), (0, 0), 4)


@pytest.mark.parametrize("seed", range(12))
def test_mosaic_equals_the_two_canvas_process(coco_train: CocoIndex, seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = rng.integers(0, len(coco_train), 4).tolist()
    images = [smooth(coco_train, i) for i in members]
    boxes = [coco_train.boxes(i) for i in members]
    center = int(rng.uniform(0.5, 1.5) * SIZE[1]), int(rng.uniform(0.5, 1.5) * SIZE[0])
    affine = random_affine(SIZE, degrees=10, scale=(0.3, 2.0), translate=0.1, shear=2, rng=rng)
    expected, expected_boxes = slow_mosaic(images, boxes, center, affine, SIZE)

    tiles = plan_tiles([i.shape[:2] for i in images], center, SIZE)
    out = blank(SIZE, 114)
    draw_tiles(out, tiles, affine, read=[lambda _, i=i: i for i in images])
    numbers = [coco_train.labels(i) for i in members]
    parts = [tile_boxes(*row, SIZE) for row in zip(boxes, numbers, tiles, strict=True)]
    moved = np.concatenate([part for part, _ in parts])
    np.testing.assert_allclose(transform_boxes(moved, affine, SIZE), expected_boxes, atol=1e-2)
    difference = np.abs(three_channels(out).astype(int) - expected)
    # The edges of tiles are sharp here and blended there: a small part of the pixels.
    assert (difference > 8).mean() < 0.02
    assert np.median(difference) <= 1
    assert difference.mean() < 1.0


def test_objects_outside_the_canvas_are_left_out() -> None:
    """Four images meet left of and above the middle: those on the left lose their left sides."""
    tiles = plan_tiles([(100, 100)] * 4, (60, 60), (100, 100))
    boxes = np.array([[0, 0, 40, 90], [10, 50, 60, 80], [50, 50, 90, 90]], np.float32)
    kept, labels = tile_boxes(boxes, np.array([5, 6, 7]), tiles[0], (100, 100))
    assert labels.tolist() == [6, 7]
    np.testing.assert_allclose(kept, [[0, 10, 20, 40], [10, 10, 50, 50]])
    found = [tile_boxes(boxes, np.array([5, 6, 7]), t, (100, 100))[1].tolist() for t in tiles]
    assert found == [[6, 7], [5, 6, 7], [6, 7], [5, 6, 7]]


def test_tiles_meet_without_a_seam() -> None:
    """Four white images that fill the canvas: no grey line may show between them."""
    image = np.full((128, 128, 3), 255, np.uint8)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        affine = random_affine(
            (128, 128), degrees=10, scale=(0.6, 1.5), translate=0.0, shear=2, rng=rng
        )
        # The middle of the canvas goes to the middle of the output, so that all of it is covered.
        affine[:, 2] = 64 - affine[:, :2] @ (128, 128)
        tiles = plan_tiles([(128, 128)] * 4, (128, 128), (128, 128))
        out = blank((128, 128), 114)
        draw_tiles(out, tiles, affine, read=[lambda _: image] * 4)
        assert (out[32:96, 32:96] == 255).all()


def test_a_cached_smaller_copy_lands_in_the_same_place(coco_train: CocoIndex) -> None:
    image = smooth(coco_train, 0)
    tiles = plan_tiles([image.shape[:2]] * 4, (200, 150), SIZE)
    copy = cv2.resize(image, tiles[0].inner_hw[::-1], interpolation=cv2.INTER_LINEAR)
    affine = random_affine(
        SIZE, degrees=5, scale=(0.8, 0.8), translate=0.1, shear=2, rng=np.random.default_rng(3)
    )
    outs = []
    for shown in (image, copy):
        outs.append(blank(SIZE, 114))
        draw_tiles(outs[-1], tiles, affine, read=[lambda _, p=shown: p] * 4)
    difference = np.abs(outs[0].astype(int) - outs[1])[..., :3]
    assert difference.mean() < 0.5


def test_unseen_tiles_are_not_read() -> None:
    def refuse(_: float) -> np.ndarray:
        raise AssertionError("read an image that cannot be seen")

    image = np.full((64, 64, 3), 9, np.uint8)
    tiles = plan_tiles([(64, 64)] * 4, (90, 90), (64, 64))
    out = blank((64, 64), 114)
    # Only the canvas's top-left 64 x 64 shows, which the first tile alone reaches.
    draw_tiles(out, tiles, np.eye(2, 3), read=[lambda _: image, refuse, refuse, refuse])
    assert (three_channels(out)[26:, 26:] == 9).all()
    assert (out[:25] == 114).all()
    away = np.array([[1.0, 0, 500], [0, 1, 500]])
    draw_tiles(out, tiles, away, read=[refuse] * 4)


@pytest.mark.parametrize(
    ("source", "area"), [((1, 1), 1), ((1, 700), 1 / 64), ((700, 1), 1 / 64), ((2, 3), 2 / 3)]
)
def test_tiny_and_thin_images_keep_to_their_place(source, area: float) -> None:
    image = np.full((*source, 3), 250, np.uint8)
    tiles = plan_tiles([source] * 4, (64, 64), (64, 64))
    out = blank((100, 100), 114)
    affine = np.array([[0.5, 0, 18], [0, 0.5, 18]])
    draw_tiles(out, tiles, affine, read=[lambda _: image] * 4)
    assert (out > 180).all(axis=2).sum() == pytest.approx(64 * 64 * area, abs=140)  # a pixel around
    assert (out[:17] == 114).all()
    assert (out[:, 84:] == 114).all()


def test_warp_into_writes_only_where_the_image_is() -> None:
    out = blank((20, 20), 7)
    image = np.full((5, 5, 3), 200, np.uint8)
    warp_into(out, image, np.array([[1.0, 0, 3], [0, 1, 4]]))
    expected = np.full((20, 20, 3), 7, np.uint8)
    expected[4:9, 3:8] = 200
    changed = (three_channels(out) != expected).any(axis=2)
    assert not changed[4:9, 3:8].any()
    changed[3:10, 2:9] = False  # the repeated border, at most one pixel wide
    assert not changed.any()
    warp_into(out, image, np.array([[1.0, 0, 99], [0, 1, 4]]))
    warp_into(out, image, np.eye(2, 3), window=(3, 3, 3, 5))
    assert out[0, 0, 0] == 7


@pytest.mark.parametrize("seed", range(8))
def test_mixup_equals_the_two_resize_process(coco_train: CocoIndex, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, other = np.full((*SIZE, 3), 80, np.uint8), smooth(coco_train, seed)
    plan = draw_mixup_plan(SIZE, (0.5, 1.5), rng=rng)
    boxes = coco_train.boxes(seed)
    expected, expected_boxes = slow_mixup(image, other, boxes, plan, SIZE)
    out = mix_image(image, other, plan, other_hw=other.shape[:2], pad_value=114)
    moved = mix_boxes(boxes, plan, other_hw=other.shape[:2], size_hw=SIZE)
    np.testing.assert_allclose(moved, expected_boxes, atol=1e-2)
    difference = np.abs(out - expected).max(axis=2)
    assert (difference > 4).mean() < 0.02
    assert difference.mean() < 1.0


@pytest.mark.parametrize("source", [(400, 100), (100, 400), (1, 300), (300, 1), (1, 1)])
def test_mixup_of_long_and_tiny_images(source) -> None:
    """Some crops show nothing but padding."""
    rng = np.random.default_rng(0)
    image, other = np.full((*SIZE, 3), 80, np.uint8), np.full((*source, 3), 200, np.uint8)
    shares = []
    for _ in range(200):
        plan = draw_mixup_plan(SIZE, (0.5, 1.5), rng=rng)
        expected, _ = slow_mixup(image, other, np.zeros((0, 4)), plan, SIZE)
        out = mix_image(image, other, plan, other_hw=source, pad_value=114)
        shares.append((out == 140).mean())
        assert abs(shares[-1] - (expected == 140).mean()) < 0.02
    assert source != (400, 100) or min(shares) == 0


def test_mixup_draws_cover_jitter_flip_and_crop() -> None:
    rng = np.random.default_rng(0)
    plans = [draw_mixup_plan(SIZE, (0.5, 1.5), rng=rng) for _ in range(200)]
    assert {p.flip for p in plans} == {True, False}
    assert min(p.jitter for p in plans) < 0.6
    assert max(p.jitter for p in plans) > 1.4
    for plan in plans:
        assert plan.canvas_hw == tuple(int(s * plan.jitter) for s in SIZE)
        for offset, full, side in zip(
            plan.offset_xy, plan.canvas_hw[::-1], SIZE[::-1], strict=True
        ):
            assert 0 <= offset <= max(0, full - side)


def test_mixing_no_boxes_gives_none() -> None:
    plan = Mixup(jitter=1.0, flip=True, offset_xy=(0, 0), canvas_hw=SIZE)
    moved = mix_boxes(np.zeros((0, 4), np.float32), plan, other_hw=(9, 9), size_hw=SIZE)
    assert moved.shape == (0, 4)
