import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from oculox.data.coco import load_coco
from oculox.datasets.demo.dataset import write_demo
from oculox.datasets.stats import Percentiles, SizeHistogram, SplitStats, index_stats, split_stats


def make(
    boxes: list[tuple[float, ...]],
    labels: list[int],
    owners: list[int],
    *,
    hw: tuple[int, int] = (480, 640),
    images: int = 3,
    input_hw: tuple[int, int] = (640, 640),
) -> SplitStats:
    return split_stats(
        ["cat", "dog"],
        sizes_hw=np.array([hw] * images, np.int32).reshape(-1, 2),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        owners=np.array(owners, np.int64),
        input_hw=input_hw,
    )


def test_counts_and_measures() -> None:
    boxes = [(0, 0, 31, 32), (0, 0, 32, 32), (0, 0, 96, 95), (0, 0, 96, 96), (0, 0, 4, 200)]
    stats = make(boxes, [0, 0, 1, 0, 0], [0, 0, 0, 2, 2], input_hw=(320, 320))
    assert (stats.images, stats.objects, stats.backgrounds) == (3, 5, 1)
    assert stats.per_class == {"cat": 4, "dog": 1}
    assert stats.images_per_class == {"cat": 2, "dog": 1}
    assert stats.sizes == SizeHistogram(2, 2, 1)
    assert stats.sizes_at_input == SizeHistogram(3, 2, 0)  # half as wide and high
    assert stats.below_cell == 1
    assert stats.per_image == Percentiles(0, 0.4, 2, 2.8, 3)
    assert (stats.aspect.low, stats.aspect.high) == (0.02, 1.011)
    assert (stats.image_width.median, stats.image_height.median) == (640, 480)
    assert dataclasses.asdict(stats.sizes) == {"small": 2, "medium": 2, "large": 1}


@pytest.mark.parametrize("images", [0, 3])
def test_nothing_labelled(images: int) -> None:
    stats = make([], [], [], images=images)
    assert (stats.images, stats.objects, stats.backgrounds) == (images, 0, images)
    assert stats.sizes == stats.sizes_at_input == SizeHistogram(0, 0, 0)
    assert stats.aspect == Percentiles(0, 0, 0, 0, 0)
    assert stats.hints == ("no objects: there is nothing to learn",)


HINTS = [
    (400, (480, 640), "input.size=96 is enough: nine of ten objects measure at least 60 pixels"),
    (100, (480, 640), "input.size=128 is enough: nine of ten objects measure at least 20 pixels"),
    (41, (240, 320), "input.size=128 is enough: nine of ten objects measure at least 16 pixels"),
    (35, (480, 640), "input.size=320 is enough"),
    (25, (480, 640), "input.size=416 is enough"),
    (16, (480, 640), "input.size=640 is enough"),
    (6, (480, 640), "even at input.size=864 one in ten measures under 8 pixels"),
    (100, (360, 640), "input.size=[352,640]"),
    (100, (640, 360), "input.size=[640,352]"),
]


@pytest.mark.parametrize(("side", "hw", "hint"), HINTS)
def test_hints(side: int, hw: tuple[int, int], hint: str) -> None:
    stats = make([(0, 0, side, side)] * 30, [0] * 30, [0] * 30, hw=hw)
    assert any(hint in h for h in stats.hints), stats.hints


def test_hints_of_crowded_images_and_rare_classes() -> None:
    stats = make([(0, 0, 50, 50)] * 125, [0] * 121 + [1] * 4, [0] * 125)
    assert any("images with more than 120 objects: 1; raise" in h for h in stats.hints)
    assert any(h == "fewer than 20 examples of: dog" for h in stats.hints)


def test_index_stats_agree_with_the_file(tmp_path: Path) -> None:
    summary = write_demo(tmp_path / "d", train=25, val=1, size=(96, 72))
    path = tmp_path / "d/annotations/instances_train2017.json"
    coco = json.loads(path.read_text())
    stats = index_stats(load_coco(path, tmp_path / "d/train2017"), input_hw=(96, 96))
    assert (stats.images, stats.objects) == (25, summary.objects["train"])
    assert stats.backgrounds == 25 - len({a["image_id"] for a in coco["annotations"]})
    names = {c["id"]: c["name"] for c in coco["categories"]}
    assert stats.per_class == {
        name: sum(names[a["category_id"]] == name for a in coco["annotations"])
        for name in names.values()
    }
    assert stats.sizes == stats.sizes_at_input
