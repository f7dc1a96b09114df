import json
import os
import threading
import time
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from oculox.errors import DataError, UsageError
from oculox.postprocess import DetectSettings
from oculox.predict.folder import predict_to_folder
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import find_sources
from oculox.runtime.timing import Stopwatch
from oculox.types import ImageArray
from red_images import RedBackend, red_image

SHAPES = [
    (48, 120, (40, 12, 80, 36)),  # wide: shrunk
    (200, 60, (10, 100, 50, 160)),  # tall
    (64, 96, (0, 0, 96, 64)),  # as the input, all red
    (20, 20, (5, 5, 15, 15)),  # enlarged
    (7, 900, (300, 0, 600, 7)),  # very thin
]
"""Height and width of an image and its red block."""


@pytest.mark.parametrize("placement", ["top_left", "center"])
@pytest.mark.parametrize("color", ["bgr", "rgb"])
@pytest.mark.parametrize(("height", "width", "box"), SHAPES)
def test_boxes_come_back_in_source_pixels(red_backend, placement, color, height, width, box):
    backend = red_backend(placement=placement, color=color)
    found = Pipeline(backend)([red_image(height, width, box)])[0]
    assert len(found) == 1
    scale = min(64 / height, 96 / width)
    # Block edges are found to a pixel of the input, and colours blend over one more.
    np.testing.assert_allclose(found.xyxy[0], box, atol=1 + 1.5 / scale)
    left, top, right, bottom = found.xyxy[0]
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_rgb_input_finds_the_same(red_pipeline):
    image = red_image()
    as_said = red_pipeline([image[..., ::-1]], color="rgb")[0]
    np.testing.assert_array_equal(as_said.xyxy, red_pipeline([image])[0].xyxy)
    assert len(red_pipeline([image[..., ::-1]])[0]) == 0  # blue, where BGR is taken for granted


def test_batches_and_order(red_backend):
    backend = red_backend()
    images = [red_image(*shape) for shape in SHAPES]
    images.insert(2, np.zeros((30, 30, 3), np.uint8))
    watch = Stopwatch()
    found = Pipeline(backend, batch=4)(images, watch=watch)
    assert [shape[0] for shape in backend.batches] == [4, 2]
    assert [len(f) for f in found] == [1, 1, 0, 1, 1, 1]
    alone = [Pipeline(red_backend())([p])[0] for p in images]
    for together, single in zip(found, alone, strict=True):
        np.testing.assert_array_equal(together.xyxy, single.xyxy)
    times = watch.times()
    assert times.images == 6
    assert min(times.preprocess, times.network, times.postprocess) > 0


def test_no_images(red_pipeline):
    assert red_pipeline([]) == []


def test_wrong_image_is_named_by_its_place(red_pipeline):
    with pytest.raises(UsageError, match="image 1: expected uint8"):
        red_pipeline([red_image(), red_image().astype(float)])


def test_arguments_are_not_changed(red_pipeline):
    image = red_image()
    red_pipeline([image])
    np.testing.assert_array_equal(image, red_image())


@pytest.mark.parametrize(
    ("dynamic", "size", "message"),
    [
        (True, (60, 96), "multiples of 32, got 60 x 96"),
        (True, (0, 32), "multiples of 32"),
        (False, (128, 128), "built for 64 x 96"),
    ],
)
def test_wrong_size(red_backend, dynamic, size, message):
    with pytest.raises(UsageError, match=message):
        Pipeline(red_backend(dynamic_size=dynamic), size_hw=size)


@pytest.mark.parametrize(("dynamic", "size"), [(True, (128, 32)), (False, (64, 96))])
def test_chosen_size_reaches_the_network(red_backend, dynamic, size):
    backend = red_backend(dynamic_size=dynamic)
    Pipeline(backend, size_hw=size)([red_image()])
    assert backend.batches == [(1, 3, *size)]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(["disc"], (1,)), ([1, "square"], (1, 0)), (["0"], (0,)), (["disc", 1], (1,))],
)
def test_class_filter(red_backend, classes, expected):
    assert red_backend().spec.class_ids(classes) == expected


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["disk"], "no class 'disk'; did you mean 'disc'"),
        (["zebra"], "its classes: square, disc"),
        ([2], "class 2 does not exist; the model has 0-1"),
        ([-1], "no class '-1'"),
        ([], "empty"),
    ],
)
def test_unknown_classes(red_backend, classes, message):
    with pytest.raises(UsageError, match=message):
        red_backend().spec.class_ids(classes)


@pytest.mark.parametrize(
    ("settings", "batch", "message"),
    [(DetectSettings(class_ids=(5,)), 1, "class 5"), (DetectSettings(), 0, "batch must be")],
)
def test_wrong_settings(red_backend, settings, batch, message):
    with pytest.raises(UsageError, match=message):
        Pipeline(red_backend(), settings, batch=batch)


class Frame(NamedTuple):
    number: int
    image: ImageArray


@pytest.mark.parametrize("threads", [1, 3])
def test_each_item_with_its_result(set_threads, threads):
    set_threads(threads)
    used = set()

    def read(i):
        used.add(threading.current_thread().name)
        if i % 5 == 4:
            raise DataError(f"image {i} is damaged")
        time.sleep(0.002 * (i % 3))
        return Frame(i, red_image(48, 120, (i, 12, i + 40, 36)))

    results = list(
        Pipeline(RedBackend()).each(
            range(17), read=read, finish=lambda frame, found: (frame.number, found), batch=2
        )
    )
    assert [item for item, _ in results] == list(range(17))
    for i, result in results:
        if i % 5 == 4:
            assert str(result) == f"image {i} is damaged"
        else:
            number, found = result
            assert number == i
            assert found.xyxy[0, 0] == pytest.approx(i, abs=2)
    assert ("MainThread" in used, len(used) > 1) == (True, threads > 1)


def test_what_was_drawn_is_written_under_its_own_name(set_threads, tmp_path):
    set_threads(3)
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), red_image(40 + i, 120))
    mask = os.umask(0o022)
    try:
        summary = predict_to_folder(
            Pipeline(RedBackend(), batch=1), find_sources([tmp_path]), output=tmp_path / "out"
        )
        assert os.umask(0o022) == 0o022, "threads that write leave the process's mask alone"
    finally:
        os.umask(mask)
    assert summary.images == 12
    for i, entry in enumerate(json.loads(summary.predictions.read_text())):
        assert (entry["annotated"], entry["height"]) == (f"{i:02}.png", 40 + i)
        written = tmp_path / "out" / entry["annotated"]
        assert cv2.imread(str(written)).shape == (40 + i, 120, 3)
        assert written.stat().st_mode & 0o777 == 0o644
