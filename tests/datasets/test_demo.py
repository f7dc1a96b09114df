import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.datasets.demo.dataset import CLASSES, write_demo
from oculox.datasets.demo.scene import render_scene
from oculox.datasets.demo.shapes import KINDS, make_frame
from oculox.errors import OculoxError, UsageError


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo(folder, train=24, val=6)
    return folder


def test_summary_counts_what_the_files_hold(tmp_path: Path) -> None:
    seen = []
    summary = write_demo(
        tmp_path / "d", train=5, val=2, size=(160, 120), on_image=lambda: seen.append(1)
    )
    read = {
        split: json.loads((tmp_path / f"d/annotations/instances_{split}2017.json").read_text())
        for split in ("train", "val")
    }
    assert summary.images == {"train": 5, "val": 2}
    assert len(seen) == 7
    assert summary.objects == {split: len(read[split]["annotations"]) for split in read}
    assert [c["name"] for c in read["val"]["categories"]] == list(summary.classes) == list(CLASSES)
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [
        "annotations",
        "train2017",
        "val2017",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["d"]  # no temporary folder is left


def test_same_seed_same_bytes_and_larger_sets_start_alike(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again", train=24, val=6)
    assert digests(tmp_path / "again") == digests(demo)
    write_demo(tmp_path / "less", train=3, val=1)
    images = {k: v for k, v in digests(tmp_path / "less").items() if k.endswith(".jpg")}
    assert len(images) == 4
    assert images.items() <= digests(demo).items()
    write_demo(tmp_path / "other", train=3, val=1, seed=1)
    assert not set(digests(tmp_path / "other").values()) & set(digests(demo).values())


def test_boxes_lie_inside_and_images_agree(demo: Path) -> None:
    coco = json.loads((demo / "annotations/instances_train2017.json").read_text())
    by_id = {i["id"]: i for i in coco["images"]}
    assert len(by_id) == 24
    for entry in coco["images"]:
        image = cv2.imread(str(demo / "train2017" / entry["file_name"]))
        assert image.shape == (entry["height"], entry["width"], 3) == (240, 320, 3)
        assert image.std() > 5
    assert {a["category_id"] for a in coco["annotations"]} == set(range(1, 7))
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + w <= 320
        assert y + h <= 240
        assert 0 < annotation["area"] <= w * h
        assert max(w, h) >= 16


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
@pytest.mark.parametrize("size", [24, 96])
def test_every_object_fills_its_patch_within_the_edge(kind, size: int) -> None:
    for seed in range(6):
        frame = make_frame(size, angle=0.0, flip=bool(seed % 2))
        sketch = kind.paint(frame, np.random.default_rng(seed), (0.3, -0.6, 0.73))
        solid = sketch.alpha > 0.5
        assert np.isfinite(sketch.color).all()
        assert 0.2 < solid.mean() < 0.95
        ring = np.concatenate((solid[0], solid[-1], solid[:, 0], solid[:, -1]))
        assert not ring.any()


def test_some_scenes_are_empty_and_their_labels_have_shape() -> None:
    scenes = [render_scene(np.random.default_rng((3, i)), (60, 80)) for i in range(60)]
    empty = [s for s in scenes if len(s.boxes) == 0]
    assert 0 < len(empty) < 15
    assert empty[0].boxes.shape == (0, 4)
    assert empty[0].labels.shape == empty[0].areas.shape == (0,)


def test_refuses_a_folder_in_use(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("keep")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"used already holds files.*new or empty folder"):
            write_demo(used, train=1, val=1, overwrite=overwrite)
    assert (used / "mine.txt").read_text() == "keep"
    with pytest.raises(UsageError, match=r"mine\.txt: the output must be a folder"):
        write_demo(used / "mine.txt", train=1, val=1)


def test_overwrite_replaces_a_demo_and_keeps_other_files(tmp_path: Path) -> None:
    write_demo(tmp_path / "d", train=3, val=2, size=(64, 48))
    (tmp_path / "d" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="`overwrite`"):
        write_demo(tmp_path / "d", train=1, val=1, size=(64, 48))
    write_demo(tmp_path / "d", train=1, val=1, size=(64, 48), overwrite=True)
    assert [p.name for p in (tmp_path / "d/train2017").iterdir()] == ["000001.jpg"]
    assert (tmp_path / "d" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize(
    "values", [{"train": 0}, {"val": 0}, {"seed": -1}, {"size": (16, 240)}], ids=str
)
def test_refuses_numbers_that_are_too_small(tmp_path: Path, values: dict) -> None:
    with pytest.raises(UsageError, match="got train="):
        write_demo(tmp_path / "d", **values)
    assert not (tmp_path / "d").exists()


def test_reports_when_the_disk_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OculoxError, match="could not be written"):
        write_demo(tmp_path / "file" / "d", train=1, val=1)
