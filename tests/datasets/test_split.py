"""A dataset divided anew."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_formats import voc, voc_list, voc_object, yolo

from oculox.config.schema import DataConfig
from oculox.data.coco import load_split
from oculox.datasets.split import split_data
from oculox.errors import DataError, UsageError


def write_coco(root: Path, names: list[str], *, boxes: int = 1) -> Path:
    """A COCO file beside images of different pixels."""
    root.mkdir(parents=True)
    images, annotations = [], []
    for number, name in enumerate(names, start=1):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30, 3), np.uint8)
        cv2.imwrite(str(root / name), pixels)
        images.append({"id": number, "file_name": name, "height": 20, "width": 30})
        annotations += [
            {
                "id": len(annotations) + i,
                "image_id": number,
                "category_id": 1,
                "bbox": [1, 2, 10, 11],
                "area": 110,
                "iscrowd": 0,
            }
            for i in range(boxes)
        ]
    tree = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}],
    }
    path = root / "labels.json"
    path.write_text(json.dumps(tree))
    return path


def names_of(root: Path) -> dict[str, set[str]]:
    return {
        folder.name.removesuffix("2017"): {
            path.relative_to(folder).as_posix() for path in folder.rglob("*.*")
        }
        for folder in root.iterdir()
        if folder.name != "annotations"
    }


NAMES = [f"{i:02}.png" for i in range(20)]


def test_shares_are_exact_and_nothing_is_lost(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a", NAMES)
    summary = split_data(source, tmp_path / "out", val=0.2, test=0.1)
    assert summary.images == {"train": 14, "val": 4, "test": 2}
    assert summary.objects == {"train": 14, "val": 4, "test": 2}
    found = names_of(tmp_path / "out")
    assert {split: len(names) for split, names in found.items()} == summary.images
    assert set.union(*found.values()) == set(NAMES)
    for split in ("train", "val"):
        index = load_split(DataConfig(root=tmp_path / "out"), split)  # type: ignore[arg-type]
        assert index.class_names == ("cup", "dog")
        assert {index.file_name(i) for i in range(len(index))} == found[split]
        name = index.file_name(0)
        assert index.image_path(0).read_bytes() == (tmp_path / "a" / name).read_bytes()
        np.testing.assert_array_equal(index.boxes(0), [[1, 2, 11, 13]])
    said = [fault.message for fault in summary.faults]
    assert said == [f"class 'dog' has no object in {split}" for split in ("train", "val", "test")]


def test_the_seed_decides_and_one_more_image_moves_hardly_any(tmp_path: Path) -> None:
    first = write_coco(tmp_path / "a", NAMES)
    more = write_coco(tmp_path / "b", [*NAMES, "new.png"])
    found = {}
    for name, source, seed in (
        ("0", first, 0),
        ("again", first, 0),
        ("1", first, 1),
        ("b", more, 0),
    ):
        output = tmp_path / f"out-{name}"
        split_data(source, output, seed=seed)
        found[name] = names_of(output)["val"]
    assert found["0"] == found["again"]
    assert found["0"] != found["1"]
    assert len(found["0"] - found["b"]) <= 1


def test_groups_and_copies_stay_together(tmp_path: Path) -> None:
    names = [f"video{v}_{i}.png" for v in range(10) for i in range(3)]
    source = write_coco(tmp_path / "a", names)
    # Across two videos: so these are one group.
    shutil.copy(source.parent / "video3_0.png", source.parent / "video4_2.png")
    for group in ("^[^_]+", r"^(video\d+)_\d", r"video\d"):
        output = tmp_path / f"out{len(group)}"
        assert split_data(source, output, val=0.3, group=group).images == {"train": 21, "val": 9}
        found = names_of(output)
        videos = {split: {name[:6] for name in many} for split, many in found.items()}
        assert not videos["train"] & videos["val"]
        assert ("video3" in videos["val"]) == ("video4" in videos["val"])


def test_names_that_no_group_has_are_told_of(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a", [*NAMES, "video_1.png", "video_2.png"])
    faults = split_data(source, tmp_path / "out", group="^video").faults
    [said] = [fault for fault in faults if fault.code == "group-unmatched"]
    assert said.message == "`group` does not match 20 names, which are on their own"


def test_splits_of_the_source_are_joined(tiny_data: Path, tmp_path: Path) -> None:
    summary = split_data(tiny_data, tmp_path / "out", val=0.25)
    assert sum(summary.images.values()) == 16
    assert summary.images["val"] == 4
    # Names that both splits had: each image is there, with its own boxes.
    assert sum(map(len, names_of(tmp_path / "out").values())) == 16


def test_yolo_and_voc_without_a_validation_split(tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    for i in range(5):
        yolo(root, "train", "a" * (i + 1), "0 0.5 0.5 0.2 0.2")
    with pytest.raises(DataError, match="no class names"):
        split_data(root, tmp_path / "none")
    summary = split_data(root, tmp_path / "from-yolo", classes=["cup"])
    assert (summary.classes, summary.images) == (("cup",), {"train": 4, "val": 1})
    root = tmp_path / "voc"
    for i in range(5):
        voc(root, "a" * (i + 1), voc_object("cat", 11, 21, 30, 60))
    voc_list(root, "train", ["a" * (i + 1) for i in range(5)])
    assert split_data(root, tmp_path / "from-voc").images == {"train": 4, "val": 1}


def test_an_image_counts_once_and_unlabelled_splits_stay_out(tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    for i in range(5):
        yolo(root, "train", "a" * (i + 1), "0 0.5 0.5 0.2 0.2")
        yolo(root, "test", "b" * (i + 9))
    for path in (root / "labels/test").iterdir():
        path.unlink()
    # As in the files of some projects, whose validation images are those of the training.
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cup]\n")
    summary = split_data(root, tmp_path / "out")
    assert summary.images == {"train": 4, "val": 1}
    (root / "data.yaml").write_text("names: [cup]\n")
    summary = split_data(root, tmp_path / "two")
    assert summary.images == {"train": 4, "val": 1}
    [fault] = summary.faults
    assert (fault.code, fault.severity) == ("split-unlabelled", "warning")
    assert fault.message == "the 5 test images have no labels and were left out"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val": 0.0}, "`val` and `test` are shares"),
        ({"val": 1.0}, "`val` and `test` are shares"),
        ({"val": -0.1, "test": 0.3}, "`val` and `test` are shares"),
        ({"val": float("nan")}, "`val` and `test` are shares"),
        ({"group": "("}, "no regular expression"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options, said: str) -> None:
    source = write_coco(tmp_path / "a", NAMES)
    with pytest.raises(UsageError, match=said):
        split_data(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_divided(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a", NAMES)
    said = "20 usable images in 1 group cannot be divided so that val gets one"
    with pytest.raises(DataError, match=said):
        split_data(source, tmp_path / "out", group="png")
    one = write_coco(tmp_path / "b", ["0.png"])
    with pytest.raises(DataError, match="1 usable image in 1 group cannot be divided so that tr"):
        split_data(one, tmp_path / "out")
    with pytest.raises(
        DataError, match=r"no usable image; the first fault: .*no such image.*`images`"
    ):
        split_data(source, tmp_path / "out", images=tmp_path)
    with pytest.raises(UsageError, match=r"`group` 'zzz' matches none of the names, such as '00"):
        split_data(source, tmp_path / "out", group="zzz")
    with pytest.raises(DataError, match="no such dataset"):
        split_data(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="already holds files"):
        split_data(source, tmp_path / "a")
    with pytest.raises(UsageError, match="goes with a COCO JSON file"):
        split_data(tmp_path / "a", tmp_path / "out", images=tmp_path)
    assert not (tmp_path / "out").exists()
