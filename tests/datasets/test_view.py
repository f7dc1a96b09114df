"""The page that shows a dataset."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_formats import voc, voc_list, voc_object, yolo

from oculox import api
from oculox.datasets.view import write_view


def page(root: Path, target: Path) -> tuple[str, dict[str, Any]]:
    write_view(api.check_data(root), target, title="a <dataset>")
    text = target.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return text, json.loads(found[1])


def test_images_boxes_and_faults(tmp_path: Path) -> None:
    root = tmp_path / "v"
    voc(root, "a", voc_object("cat", 11, 21, 30, 60), voc_object("dog", 5, 5, 5, 5))
    voc(root, "bb", voc_object("dog", 1, 1, 100, 80))
    (root / "JPEGImages/bb.jpg").write_bytes(b"no image")
    voc_list(root, "train", ["a"])
    voc_list(root, "val", ["bb"])
    text, data = page(root, tmp_path / "out/view.html")
    assert data["title"] == "a <dataset>"
    assert data["classes"] == ["cat"]  # bb cannot be read, and a's dog is empty
    first, second = data["images"]
    assert (first["name"], first["split"], first["path"]) == (
        "a.jpg",
        "train",
        "../v/JPEGImages/a.jpg",
    )
    assert (first["width"], first["height"]) == (100, 80)
    assert first["boxes"] == [[0, 10, 20, 20, 40, 1]]
    assert [code for code, _ in first["faults"]] == ["box-empty"]
    assert "object 2 (dog)" in first["faults"][0][1]
    assert first["thumb"].startswith("UklGR")  # RIFF, of a WebP
    assert second["thumb"] == ""
    assert [code for code, _ in second["faults"]] == ["image-unreadable"]
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) == {"http://www.w3.org/2000/svg"}


def test_nothing_in_the_data_ends_its_element(tmp_path: Path) -> None:
    yolo(tmp_path / "y", "train", "a", "0 0.5 0.5 0.2 0.5", "0 0.5 0.5 -0.2 0.5")
    (tmp_path / "y/classes.txt").write_text("</script><script>alert(1)</script>\n")
    text, data = page(tmp_path / "y", tmp_path / "view.html")
    assert data["classes"] == ["</script><script>alert(1)</script>"]
    assert text.count("<script") == 2


def test_unusable_boxes_are_marked(tmp_path: Path) -> None:
    images, annotations = tmp_path / "train", tmp_path / "annotations/train.json"
    yolo(tmp_path / "y", "train", "a")
    images.mkdir()
    (tmp_path / "y/images/train/a.png").rename(images / "a.png")
    annotations.parent.mkdir()
    boxes = [[10, 20, 30, 40], [60, 20, -30, 40], [500, 1, 9, 9]]
    tree = {
        "categories": [{"id": 3, "name": "cat"}],
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 3, "bbox": box} for i, box in enumerate(boxes)
        ],
    }
    annotations.write_text(json.dumps(tree))
    _, data = page(tmp_path, tmp_path / "view.html")
    assert data["images"][0]["boxes"] == [
        [0, 10, 20, 30, 40, 1],
        [0, 30, 20, 30, 40, 0],
        [0, 500, 1, 9, 9, 0],
    ]


def test_copies_in_two_splits_are_faults_of_the_second(tmp_path: Path) -> None:
    for split in ("train", "val"):
        yolo(tmp_path / "y", split, "a", "0 0.5 0.5 0.2 0.5")
    (tmp_path / "y/classes.txt").write_text("cat\nnever\n")
    _, data = page(tmp_path / "y", tmp_path / "view.html")
    assert [[f[0] for f in i["faults"]] for i in data["images"]] == [[], ["split-leak"]]
    assert [text.partition(":")[0] for text in data["faults"]] == ["class-empty", "class-empty"]


@pytest.mark.parametrize("side", [32, 64])
def test_thumbnails_are_small(tmp_path: Path, tiny_data: Path, side: int) -> None:
    write_view(api.check_data(tiny_data), tmp_path / "view.html", title="", side=side)
    assert (tmp_path / "view.html").stat().st_size < 16 * side**2 + 40_000
