import dataclasses
import pickle
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from oculox.config.schema import AugmentConfig, InputConfig
from oculox.data.cache import FileImages
from oculox.data.coco import CocoIndex
from oculox.data.preprocess import apply_letterbox, letterbox_geometry
from oculox.data.train_set import Images, TrainSet
from oculox.errors import DataError
from oculox.types import Sample

MakeCoco = Callable[..., CocoIndex]
SIZE = (96, 128)
PLAIN = AugmentConfig(hsv_prob=0, flip_prob=0)


def train_set(index: CocoIndex, augment: AugmentConfig, **changes: object) -> TrainSet:
    values = {
        "input_config": InputConfig(size=SIZE),
        "max_labels": 120,
        "seed": 3,
        "images": FileImages(index),
    } | changes
    return TrainSet(index, augment=augment, **values)


def same(a: Sample, b: Sample) -> bool:
    return (
        np.array_equal(a.image, b.image)
        and np.array_equal(a.boxes, b.boxes)
        and np.array_equal(a.labels, b.labels)
        and (a.image_id, a.source_hw) == (b.image_id, b.source_hw)
    )


@pytest.mark.parametrize("mosaic", [True, False])
def test_sample_is_a_function_of_seed_epoch_and_position(make_coco: MakeCoco, mosaic: bool) -> None:
    index = make_coco()
    samples = train_set(index, AugmentConfig())
    first = samples.sample(2, 5, 1, mosaic=mosaic)
    samples.sample(0, 0, 0, mosaic=True)
    assert same(first, train_set(index, AugmentConfig()).sample(2, 5, 1, mosaic=mosaic))
    for other in (
        samples.sample(3, 5, 1, mosaic=mosaic),
        samples.sample(2, 6, 1, mosaic=mosaic),
        train_set(index, AugmentConfig(), seed=4).sample(2, 5, 1, mosaic=mosaic),
    ):
        assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("placement", ["top_left", "center"])
def test_plain_sample_is_the_letterboxed_image(make_coco: MakeCoco, placement) -> None:
    index = make_coco()
    padded = InputConfig(size=SIZE, placement=placement, pad_value=9)
    sample = train_set(index, PLAIN, input_config=padded).sample(0, 0, 1, mosaic=False)
    fit = letterbox_geometry((64, 48), SIZE, placement)
    expected = apply_letterbox(FileImages(index)(1), fit, pad_value=9)
    assert np.array_equal(sample.image, expected)
    np.testing.assert_allclose(
        sample.boxes[0], np.array([4, 5, 24, 20]) * 1.5 + [fit.left, fit.top] * 2
    )
    assert sample.labels.tolist() == [0, 1]
    assert (sample.image_id, sample.source_hw) == (2, (64, 48))


@pytest.mark.parametrize("placement", ["top_left", "center"])
def test_mirrored_boxes_follow_the_image(make_coco: MakeCoco, placement) -> None:
    """A box painted white stays white after the flip and the letterbox."""
    index = make_coco(sizes_hw=[(48, 80)], boxes=[[(8, 8, 24, 16)]])
    image = np.zeros((48, 80, 3), np.uint8)
    image[8:24, 8:32] = 255
    augment = AugmentConfig(hsv_prob=0, flip_prob=1)
    samples = train_set(
        index,
        augment,
        images=lambda i, _: image,
        input_config=InputConfig(size=SIZE, placement=placement, pad_value=0),
    )
    sample = samples.sample(0, 0, 0, mosaic=False)
    x1, y1, x2, y2 = sample.boxes[0].round().astype(int)
    assert sample.image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() == 255
    sample.image[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = 0
    assert sample.image.max() == 0


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_mosaic_boxes_follow_their_objects(make_coco: MakeCoco, mixup: float) -> None:
    """Every kept box lies on pixels of its object, which alone is bright in its image."""
    index = make_coco(sizes_hw=[(60, 90)] * 5, boxes=[[(30, 20, 30, 20)]] * 5)
    image = np.zeros((60, 90, 3), np.uint8)
    image[20:40, 30:60] = 255
    augment = AugmentConfig(
        hsv_prob=0, mosaic_scale=(0.5, 1.5), mixup_prob=mixup, degrees=3, shear=1
    )
    samples = train_set(
        index, augment, images=lambda i, _: image, input_config=InputConfig(size=SIZE, pad_value=0)
    )
    threshold, seen = (100 if mixup else 250), 0
    for position in range(30):
        sample = samples.sample(0, position, position % 5, mosaic=True)
        assert sample.image.shape == (*SIZE, 3)
        covered = np.zeros(SIZE, bool)
        for x1, y1, x2, y2 in sample.boxes:
            if min(x2 - x1, y2 - y1) > 8:
                middle = sample.image[int((y1 + y2) / 2), int((x1 + x2) / 2)]
                assert middle.min() >= threshold
                seen += 1
            covered[max(0, int(y1) - 2) : int(y2) + 3, max(0, int(x1) - 2) : int(x2) + 3] = True
        thin_leftovers = (sample.image.min(axis=2) >= threshold) & ~covered
        assert thin_leftovers.mean() < 0.01
    assert seen > 40


def test_every_label_of_a_rotated_mosaic_lies_on_an_object(make_coco: MakeCoco) -> None:
    """Objects that the canvas cuts off must not come back as labels of nothing."""
    index = make_coco(sizes_hw=[(90, 90)] * 4, boxes=[[(2, 20, 12, 50), (70, 20, 16, 40)]] * 4)
    image = np.zeros((90, 90, 3), np.uint8)
    image[20:70, 2:14] = image[20:60, 70:86] = 255
    augment = AugmentConfig(
        hsv_prob=0, flip_prob=0, mixup_prob=0, degrees=30, mosaic_scale=(0.5, 0.5)
    )
    samples = train_set(
        index, augment, images=lambda i, _: image, input_config=InputConfig(size=SIZE, pad_value=0)
    )
    empty = seen = 0
    for position in range(60):
        sample = samples.sample(0, position, position % 4, mosaic=True)
        for x1, y1, x2, y2 in sample.boxes.round().astype(int).tolist():
            seen += 1
            empty += bool(sample.image[y1 : y2 + 1, x1 : x2 + 1].max() < 60)
    assert seen > 200
    # The box around a rotated object may reach into the output where the object does not.
    assert empty <= 1


def test_the_second_phase_makes_no_mosaics(make_coco: MakeCoco) -> None:
    index = make_coco()
    tail = train_set(index, PLAIN)
    never = train_set(index, PLAIN.model_copy(update={"mosaic_prob": 0.0}))
    assert np.array_equal(
        tail.sample(0, 0, 0, mosaic=False).image, never.sample(0, 0, 0, mosaic=True).image
    )


@pytest.mark.parametrize("mosaic", [True, False])
def test_images_without_objects_stay_as_background(make_coco: MakeCoco, mosaic: bool) -> None:
    """Mixup looks for an image with objects; where there is none it must give up."""
    samples = train_set(make_coco(boxes=[[], [], []]), AugmentConfig())
    for position in range(5):
        sample = samples.sample(0, position, 0, mosaic=mosaic)
        assert sample.boxes.shape == (0, 4)
        assert sample.boxes.dtype == np.float32
        assert sample.labels.shape == (0,)
        assert sample.image.shape == (*SIZE, 3)


def test_a_mosaic_in_which_no_box_survives_is_background(make_coco: MakeCoco) -> None:
    index = make_coco(boxes=[[(4, 5, 1, 20)]] * 3)
    small = AugmentConfig(mosaic_scale=(0.3, 0.3), mixup_prob=0, degrees=0, shear=0)
    for position in range(5):
        sample = train_set(index, small).sample(0, position, 0, mosaic=True)
        assert sample.boxes.shape == (0, 4)
        assert sample.labels.shape == (0,)


def test_an_image_drawn_small_is_read_small(make_coco: MakeCoco) -> None:
    index = make_coco(sizes_hw=[(800, 1100)], boxes=[[(40, 50, 500, 400)]])
    seen = []

    def read(i: int, scale: float) -> np.ndarray:
        image = FileImages(index)(i, scale)
        seen.append((scale, image.shape[0]))
        return image

    augment = AugmentConfig(mosaic_scale=(0.3, 3), degrees=0, shear=0)
    for position in range(12):
        small = train_set(index, augment, images=read).sample(0, position, 0, mosaic=True)
        whole = train_set(index, augment, images=lambda i, _: FileImages(index)(i))
        plain = whole.sample(0, position, 0, mosaic=True)
        assert np.array_equal(small.boxes, plain.boxes)
        # The same things at the same place, with less noise of sampling.
        soft = [cv2.blur(s.image, (15, 15)).astype(int) for s in (small, plain)]
        assert np.abs(soft[0] - soft[1]).mean() < 4
    heights = {height for _, height in seen}
    assert heights >= {100, 200, 400}
    # There are never fewer pixels than are drawn.
    assert all(height >= 800 * scale for scale, height in seen if scale <= 1)


def test_a_size_that_annotations_state_wrongly_is_found_in_small_copies(
    make_coco: MakeCoco,
) -> None:
    index = make_coco(sizes_hw=[(80, 110)])
    sizes = index.sizes_hw.copy()
    sizes[0] = (80, 118)
    wrong = dataclasses.replace(index, sizes_hw=sizes)
    with pytest.raises(DataError, match=r"110 x 80.*says 118 x 80"):
        FileImages(wrong)(0, 0.1)


def damaged(index: CocoIndex, *bad: int) -> Images:
    def read(i: int, scale: float) -> np.ndarray:
        if i in bad:
            raise DataError(f"{i}: damaged")
        return FileImages(index)(i, scale)

    return read


def test_the_next_stands_in_for_a_bad_image(make_coco: MakeCoco) -> None:
    index = make_coco()
    samples = train_set(index, PLAIN, images=damaged(index, 1, 2))
    sample = samples.sample(0, 5, 1, mosaic=False)
    assert sample.faults == ("1: damaged", "2: damaged")
    assert sample.image_id == 1
    good = train_set(index, PLAIN).sample(0, 5, 0, mosaic=False)
    assert np.array_equal(sample.image, good.image)
    with pytest.raises(DataError, match="1: damaged"):
        train_set(index, PLAIN, images=damaged(index, 0, 1, 2)).sample(0, 5, 1, mosaic=False)


def test_a_bad_tile_of_a_mosaic_stays_grey_without_boxes(make_coco: MakeCoco) -> None:
    index = make_coco(sizes_hw=[(96, 128)] * 2, boxes=[[(9, 9, 90, 70)], []])
    augment = AugmentConfig(hsv_prob=0, mosaic_scale=(0.5, 0.5), degrees=0, shear=0)
    for position in range(8):
        sample = train_set(index, augment, images=damaged(index, 0)).sample(
            0, position, 0, mosaic=True
        )
        assert sample.faults == ("0: damaged",)
        assert len(sample.boxes) == 0
    nothing = train_set(index, augment, images=damaged(index, 0, 1)).sample(0, 0, 0, mosaic=True)
    assert nothing.image.min() == nothing.image.max() == 114


def test_mixup_gives_up_where_labelled_images_are_too_rare(make_coco: MakeCoco) -> None:
    """One labelled image in many: the mosaic has labels, the draws find no second one."""
    index = make_coco(sizes_hw=[(40, 40)] * 200, boxes=[[(5, 5, 30, 30)]] + [[]] * 199)
    gentle = {"hsv_prob": 0, "flip_prob": 0, "mosaic_scale": (0.5, 0.5)}
    mixed = train_set(index, AugmentConfig(mixup_prob=1, **gentle))
    unmixed = train_set(index, AugmentConfig(mixup_prob=0, **gentle))
    equal = [
        same(mixed.sample(0, p, 0, mosaic=True), unmixed.sample(0, p, 0, mosaic=True))
        for p in range(20)
    ]
    assert sum(equal) > 15


def test_at_most_max_labels_are_kept(make_coco: MakeCoco) -> None:
    index = make_coco(sizes_hw=[(40, 40)], boxes=[[(2, 2, 30, 30)] * 9])
    for mosaic in (True, False):
        sample = train_set(index, AugmentConfig(), max_labels=4).sample(0, 0, 0, mosaic=mosaic)
        assert len(sample.boxes) == len(sample.labels) == 4


def test_sources_are_never_changed(make_coco: MakeCoco) -> None:
    index = make_coco()
    images = [FileImages(index)(i) for i in range(3)]
    for image in images:
        image.flags.writeable = False
    samples = train_set(index, AugmentConfig(), images=lambda i, _: images[i])
    for position in range(6):
        samples.sample(0, position, position % 3, mosaic=position % 2 == 0)


def test_set_travels_to_processes_that_are_not_forked(make_coco: MakeCoco) -> None:
    samples = train_set(make_coco(), AugmentConfig())
    copy = pickle.loads(pickle.dumps(samples))  # noqa: S301
    assert same(copy.sample(1, 2, 0, mosaic=True), samples.sample(1, 2, 0, mosaic=True))
