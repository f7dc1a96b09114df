"""Detections as annotations, in the formats of labelling tools."""

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from defusedxml.ElementTree import parse

from oculox.data.coco import load_coco
from oculox.errors import DataError, UsageError
from oculox.postprocess import DetectSettings
from oculox.predict.label import label_images, write_labels
from oculox.predict.pipeline import Pipeline
from red_images import RedBackend, red_image

BOX = (40, 12, 80, 36)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images with a red block, one without and one that is broken."""
    folder = tmp_path / "my photos"
    (folder / "b").mkdir(parents=True)
    for name in ("a.png", "b/a.png"):
        cv2.imwrite(str(folder / name), red_image(48, 120, BOX))
    cv2.imwrite(str(folder / "empty.png"), red_image()[:, :, ::-1])
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def written(photos: Path, tmp_path: Path) -> Any:
    def write(label_format: Any) -> Path:
        calls: list[Any] = []
        pipeline = Pipeline(RedBackend(), DetectSettings(conf=0.3), batch=3)
        data = label_images(pipeline, photos, progress=lambda *done: calls.append(done))
        assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert [(f.code, Path(f.file).name) for f in data.all_faults] == [
            ("image-unreadable", "broken.jpg")
        ]
        write_labels(data, tmp_path / "out", label_format=label_format, root=photos.name)
        return tmp_path / "out"

    return write


def near(box: Any) -> Any:
    return pytest.approx(box, abs=1.5)


def test_coco(written: Any, photos: Path) -> None:
    path = written("coco") / "annotations.json"
    index = load_coco(path, photos)
    assert [index.file_name(i) for i in range(3)] == ["a.png", "b/a.png", "empty.png"]
    assert index.class_names == ("square", "disc")
    assert index.boxes(1)[0].tolist() == near(BOX)
    assert [index.num_objects(i) for i in range(3)] == [1, 1, 0]
    scores = [entry["score"] for entry in json.loads(path.read_text())["annotations"]]
    assert scores == [0.9, 0.9]


def test_yolo(written: Any) -> None:
    folder = written("yolo")
    assert (folder / "classes.txt").read_text() == "square\ndisc\n"
    label, *values = (folder / "labels/b/a.txt").read_text().split()
    assert label == "0"
    assert [float(v) for v in values] == pytest.approx(
        [60 / 120, 24 / 48, 40 / 120, 24 / 48], abs=0.04
    )
    assert (folder / "labels/empty.txt").read_text() == ""


def test_label_studio(written: Any) -> None:
    folder = written("labelstudio")
    tasks = json.loads((folder / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d=my%20photos/{name}" for name in ("a.png", "b/a.png", "empty.png")
    ]
    [prediction] = tasks[0]["predictions"]
    [result] = prediction["result"]
    assert prediction["score"] == result["score"] == 0.9
    assert (result["original_width"], result["original_height"]) == (120, 48)
    value = result["value"]
    assert value["rectanglelabels"] == ["square"]
    percent = [value[key] for key in ("x", "y", "width", "height")]
    assert percent == pytest.approx([100 * 40 / 120, 25, 100 * 40 / 120, 50], abs=4)
    assert tasks[2]["predictions"][0]["result"] == []
    view = parse(folder / "config.xml").getroot()
    labels = view.find("RectangleLabels")
    assert (labels.get("name"), labels.get("toName")) == (result["from_name"], result["to_name"])
    assert view.find("Image").attrib == {"name": result["to_name"], "value": "$image"}
    assert [label.get("value") for label in labels] == ["square", "disc"]


def test_cvat(written: Any) -> None:
    folder = written("cvat")
    tree = parse(folder / "annotations.xml").getroot()
    assert tree.findtext("version") == "1.1"
    assert [label.text for label in tree.iterfind("meta/task/labels/label/name")] == [
        "square",
        "disc",
    ]
    images = tree.findall("image")
    assert [one.attrib for one in images][1] == {
        "id": "1",
        "name": "b/a.png",
        "width": "120",
        "height": "48",
    }
    assert [len(one) for one in images] == [1, 1, 0]
    box = images[0][0]
    assert box.get("label") == "square"
    assert [float(box.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")] == near(BOX)
    assert [one["name"] for one in json.loads((folder / "labels.json").read_text())] == [
        "square",
        "disc",
    ]


def test_refusals(written: Any, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`format` must be one of coco, yolo"):
        written("voc")
    with pytest.raises(DataError, match="no such folder of images"):
        label_images(Pipeline(RedBackend()), tmp_path / "none")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no images found"):
        label_images(Pipeline(RedBackend()), tmp_path / "nothing")
    cv2.imwrite(str(photos / "a.bmp"), red_image())
    data = label_images(Pipeline(RedBackend()), photos)
    with pytest.raises(DataError, match=r"a\.png: another image has this name"):
        write_labels(data, tmp_path / "out", label_format="yolo", root="photos")
    assert not (tmp_path / "out").exists()
