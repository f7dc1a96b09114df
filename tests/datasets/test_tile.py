"""`oculox data tile`: datasets cut into tiles."""

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.config.schema import DataConfig
from oculox.data.coco import load_split
from oculox.data.tiles import Tiling
from oculox.datasets.check import check_data
from oculox.datasets.demo.dataset import write_demo
from oculox.datasets.tile import tile_data
from oculox.errors import DataError, UsageError

SIZE = Tiling(100, 0.25)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tile") / "demo"
    write_demo(folder, train=4, val=2, size=(320, 240))
    return folder


def read(folder, split="train"):
    return json.loads((folder / f"annotations/instances_{split}2017.json").read_text("utf-8"))


def by_image(tree):
    found = defaultdict(list)
    for annotation in tree["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return [(image, found[image["id"]]) for image in tree["images"]]


def place(image):
    """Name of the source image, left and top of a tile."""
    stem, left, top = Path(image["file_name"]).stem.rsplit("_", 2)
    return f"{stem}.jpg", int(left), int(top)


def test_no_object_is_lost_and_boxes_lie_in_their_tiles(demo, tmp_path):
    summary = tile_data(demo, tmp_path / "t", tiling=SIZE, min_visible=0)
    assert summary.unseen == {"train": 0, "val": 0}
    assert summary.images == {"train": 4 * 12, "val": 2 * 12}
    assert check_data(tmp_path / "t").ok
    tree, source = read(tmp_path / "t"), read(demo)
    union = {}
    for image, annotations in by_image(tree):
        name, left, top = place(image)
        for one in annotations:
            x, y, w, h = one["bbox"]
            assert min(x, y) >= 0
            assert x + w <= image["width"] + 1e-3
            assert y + h <= image["height"] + 1e-3
            # The source's box that this is a part of.
            owner = next(i for i in source["images"] if i["file_name"] == name)
            for whole in (a for a in source["annotations"] if a["image_id"] == owner["id"]):
                sx, sy, sw, sh = whole["bbox"]
                clipped = (
                    max(sx - left, 0),
                    max(sy - top, 0),
                    min(sx + sw - left, 100),
                    min(sy + sh - top, 100),
                )
                if (
                    whole["category_id"] == one["category_id"]
                    and np.abs(np.subtract(clipped, (x, y, x + w, y + h))).max() < 0.01
                ):
                    corner = (x + left, y + top, x + w + left, y + h + top)
                    union.setdefault(whole["id"], []).append(corner)
                    break
            else:
                raise AssertionError(f"{one} is no part of an object of {name}")
    # Put together, the parts of each object are the whole object again.
    assert set(union) == {a["id"] for a in source["annotations"]}
    for whole in source["annotations"]:
        x, y, w, h = whole["bbox"]
        parts = np.array(union[whole["id"]])
        joined = [*parts[:, :2].min(axis=0), *parts[:, 2:].max(axis=0)]
        # A sliver of less than half a pixel is nobody's label.
        np.testing.assert_allclose(joined, [x, y, x + w, y + h], atol=0.51)


def test_pixels_are_those_of_the_source(demo, tmp_path):
    tile_data(demo, tmp_path / "t", tiling=SIZE)
    for image, _ in by_image(read(tmp_path / "t"))[:5]:
        name, left, top = place(image)
        whole = cv2.imread(str(demo / "train2017" / name)).astype(float)
        tile = cv2.imread(str(tmp_path / "t/train2017" / image["file_name"])).astype(float)
        assert tile.shape == (100, 100, 3)
        assert np.abs(tile - whole[top : top + 100, left : left + 100]).mean() < 3


@pytest.mark.parametrize("min_visible", [0.3, 0.9, 1.0])
def test_what_is_hardly_visible_is_left_out(demo, tmp_path, min_visible):
    loose = tile_data(demo, tmp_path / "all", tiling=SIZE, min_visible=0)
    strict = tile_data(demo, tmp_path / "some", tiling=SIZE, min_visible=min_visible)
    assert strict.objects["train"] < loose.objects["train"]
    assert strict.unseen["train"] > 0 or min_visible < 1
    largest = max(
        max(a["bbox"][2:]) for name in ("train", "val") for a in read(demo, name)["annotations"]
    )
    whole = tile_data(
        demo, tmp_path / "big", tiling=Tiling(200, min(0.9, largest / 200)), min_visible=1
    )
    assert whole.unseen == {"train": 0, "val": 0}


@pytest.mark.parametrize(("share", "kept"), [(0, 0), (0.25, 4), (0.5, 8), (1, 16)])
def test_empty_tiles(tmp_path, share, kept):
    write_plain(tmp_path / "src", objects=())
    write_plain(tmp_path / "src", split="val", objects=[[1, 1, 20, 20]])
    summary = tile_data(
        tmp_path / "src", tmp_path / "t", tiling=Tiling(64, 0), min_visible=1, keep_empty=share
    )
    assert summary.images == {"train": kept, "val": int(15 * share) + 1}


def write_plain(folder, *, split="train", objects=(), hw=(256, 256), crowd=0):
    (folder / f"{split}2017").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*hw, 3), np.uint8)
    cv2.imwrite(str(folder / f"{split}2017/a.png"), image)
    tree = {
        "images": [{"id": "a", "file_name": "a.png", "height": hw[0], "width": hw[1]}],
        "annotations": [
            {"id": i, "image_id": "a", "category_id": 7, "bbox": box, "iscrowd": crowd}
            for i, box in enumerate(objects)
        ],
        "categories": [{"id": 7, "name": "thing"}],
    }
    path = folder / f"annotations/instances_{split}2017.json"
    path.write_text(json.dumps(tree), "utf-8")
    return image


def test_small_images_are_copied_and_others_written_without_loss(tmp_path):
    pixels = write_plain(tmp_path / "src", objects=[[100, 100, 30, 30]], crowd=1)
    tile_data(tmp_path / "src", tmp_path / "same", tiling=Tiling(256))
    copied = (tmp_path / "same/train2017/a.png").read_bytes()
    assert copied == (tmp_path / "src/train2017/a.png").read_bytes()
    tile_data(tmp_path / "src", tmp_path / "cut", tiling=Tiling(128, 0))
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / "cut/train2017/a_128_0.png")), pixels[:128, 128:]
    )
    index = load_split(DataConfig(root=tmp_path / "cut"), "train")
    assert index.truth.crowd.tolist() == [True]
    assert len(index) == 4


@pytest.mark.parametrize("box", [[127.4, 50, 1.2, 9], [50, 127.8, 9, 0.4], [127.2, 127.5, 2, 1]])
def test_tiny_objects_on_a_border_are_not_lost(tmp_path, box):
    write_plain(tmp_path / "src", objects=[box])
    summary = tile_data(tmp_path / "src", tmp_path / "t", tiling=Tiling(128, 0), min_visible=0)
    assert summary.unseen == {"train": 0}
    assert len(load_split(DataConfig(root=tmp_path / "t"), "train").all_boxes) > 0


def test_tiles_and_images_of_one_name(tmp_path):
    write_plain(tmp_path / "src")
    tree = read(tmp_path / "src")
    tree["images"].insert(0, {"id": 1, "file_name": "a_0_0.png", "height": 9, "width": 9})
    (tmp_path / "src/annotations/instances_train2017.json").write_text(json.dumps(tree))
    cv2.imwrite(str(tmp_path / "src/train2017/a_0_0.png"), np.zeros((9, 9, 3), np.uint8))
    tile_data(tmp_path / "src", tmp_path / "t", tiling=Tiling(128, 0))
    names = [image["file_name"] for image in read(tmp_path / "t")["images"]]
    assert names[:2] == ["a_0_0.png", "a_0_0-2.png"]
    assert check_data(tmp_path / "t").ok


def test_bad_images_and_boxes_are_listed(tmp_path):
    write_plain(tmp_path / "src", objects=[[10, 10, 20, 20], [300, 10, 20, 20]])
    tree = read(tmp_path / "src")
    for name, content in (("cut.jpg", b"\xff\xd8\xff"), ("bad.png", None)):
        if content is None:  # whole by its header, but not by its pixels
            content = bytearray((tmp_path / "src/train2017/a.png").read_bytes())
            content[1000:90000] = bytes(89000)
        (tmp_path / "src/train2017" / name).write_bytes(content)
        tree["images"].append({"id": name, "file_name": name, "height": 256, "width": 256})
    (tmp_path / "src/annotations/instances_train2017.json").write_text(json.dumps(tree))
    summary = tile_data(tmp_path / "src", tmp_path / "t", tiling=Tiling(128, 0))
    assert sorted(f.code for f in summary.faults) == [
        "box-outside",
        "image-unreadable",
        "image-unreadable",
    ]
    assert summary.images == {"train": 4}
    assert json.loads(json.dumps(summary.as_dict()))["unseen"] == {"train": 0}


def test_only_tiles_are_replaced(demo, tmp_path):
    tile_data(demo, tmp_path / "t", tiling=SIZE)
    with pytest.raises(UsageError, match="pass `overwrite`"):
        tile_data(demo, tmp_path / "t", tiling=SIZE)
    again = tile_data(demo, tmp_path / "t", tiling=Tiling(160), overwrite=True)
    assert len(list((tmp_path / "t/train2017").iterdir())) == again.images["train"]
    before = sorted(demo.rglob("*"))
    with pytest.raises(UsageError, match="already holds files"):
        tile_data(tmp_path / "t", demo, tiling=SIZE, overwrite=True)
    assert sorted(demo.rglob("*")) == before


def test_wrong_values_leave_nothing(demo, tmp_path):
    for options in ({"min_visible": 1.1}, {"keep_empty": -1}):
        with pytest.raises(UsageError, match="must be between 0 and 1"):
            tile_data(demo, tmp_path / "t", tiling=SIZE, **options)
    write_plain(tmp_path / "src")
    (tmp_path / "src/train2017/a.png").write_bytes(b"")
    with pytest.raises(DataError, match="nothing could be cut into tiles; the first fault"):
        tile_data(tmp_path / "src", tmp_path / "new/t", tiling=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize(
    ("folders", "name"),
    [(("images", "labels"), "YOLO"), (("Annotations", "JPEGImages"), "Pascal VOC")],
)
def test_other_formats_are_to_be_converted_first(tmp_path, folders, name):
    for folder in folders:
        (tmp_path / "src" / folder).mkdir(parents=True)
    with pytest.raises(
        DataError, match=f"a {name} dataset.*convert it first with `oculox data conv"
    ):
        tile_data(tmp_path / "src", tmp_path / "t", tiling=SIZE)
    assert not (tmp_path / "t").exists()
