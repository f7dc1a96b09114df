import multiprocessing
import time
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pytest

from oculox.data.coco import CocoIndex
from oculox.data.faults import BadImages, bad_training_images
from oculox.data.image_watch import watch_images
from oculox.errors import DataError

MakeCoco = Callable[..., CocoIndex]
SIZES = [(40, 60), (64, 48), (300, 400), (20, 30)]
# Larger than what is read of its ends.
LARGE = 2


@pytest.fixture
def index(make_coco: MakeCoco) -> CocoIndex:
    index = make_coco(sizes_hw=SIZES, boxes=[[]] * len(SIZES))
    noise = np.random.default_rng(0).integers(0, 256, (*SIZES[LARGE], 3), np.uint8)
    cv2.imwrite(str(index.image_path(LARGE)), noise)
    assert index.image_path(LARGE).stat().st_size > 200_000
    return index


def wait_for(look: Callable[[Iterable[str]], None], done: Callable[[], bool]) -> None:
    for _ in range(1000):
        look(())
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("nothing came in ten seconds")


def test_bad_images_of_both_splits_are_reported_once(index: CocoIndex) -> None:
    data = index.image_path(LARGE).read_bytes()
    index.image_path(LARGE).write_bytes(data[:-1000])
    index.image_path(1).write_bytes(b"")
    lines: list[str] = []
    allowed = [BadImages(2, setting="x") for _ in range(2)]
    with watch_images((index, allowed[0]), (index, allowed[1]), report=lines.append) as look:
        wait_for(look, lambda: len(lines) == 4)
        # The loader meets them too.
        look([lines[2].removeprefix("training image left out: ")])
    names = [line.split(": ")[:2] for line in lines]
    assert names == [
        [f"{kind} image left out", str(index.image_path(i))]
        for kind in ("validation", "training")
        for i in (1, LARGE)
    ]
    assert not multiprocessing.active_children()


def test_damage_in_the_middle_is_found_in_validation_images(index: CocoIndex) -> None:
    """Training images are met soon enough."""
    data = bytearray(index.image_path(LARGE).read_bytes())
    data[100_000:100_200] = bytes(200)
    index.image_path(LARGE).write_bytes(data)
    allowed = BadImages(0, setting="the.key")
    with (
        watch_images((index, allowed), (index, allowed), report=print) as look,
        pytest.raises(DataError, match=rf"{LARGE}\.png: .*bad images: 1, and the\.key allows 0"),
    ):
        wait_for(look, lambda: False)


def test_without_a_look_ahead_only_what_is_met_counts(index: CocoIndex) -> None:
    index.image_path(1).write_bytes(b"")
    lines: list[str] = []
    allowed = BadImages(1, setting="x")
    with watch_images((index, allowed), (index, allowed), report=lines.append, ahead=False) as look:
        assert not multiprocessing.active_children()
        look(["a.jpg: damaged"])
        assert lines == ["training image left out: a.jpg: damaged"]
        with pytest.raises(DataError, match=r"b\.jpg: damaged"):
            look(["a.jpg: damaged", "b.jpg: damaged"])


@pytest.mark.parametrize(
    ("stated", "images", "limit"), [(None, 300, 10), (None, 5000, 50), (3, 9, 3)]
)
def test_limits_of_training(stated: int | None, images: int, limit: int) -> None:
    bad = bad_training_images(stated, images=images)
    assert len(bad.add(str(i) for i in range(limit))) == limit
    assert bad.add(["0"]) == []
    with pytest.raises(DataError, match=f"max_bad_images allows {limit};"):
        bad.add(["one more"])
