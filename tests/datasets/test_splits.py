"""Datasets of every format, opened as they are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from test_formats import image, voc, voc_list, voc_object, yolo

from oculox import api
from oculox.config.schema import DataConfig, SplitConfig
from oculox.data.cache import FileImages
from oculox.data.coco import CocoIndex, Split, load_split
from oculox.data.faults import count_faults
from oculox.datasets.clean import write_clean
from oculox.datasets.formats.convert import convert
from oculox.datasets.splits import load_splits, open_split, recognise, scan_splits
from oculox.errors import DataError

GOOD = voc_object("cat", 11, 21, 30, 60)


def load(root: Path, split: str = "train") -> CocoIndex:
    return load_splits(DataConfig(root=root), split)[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def as_yolo(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("formats") / "yolo"
    convert(tiny_data, root, source_format="coco", target_format="yolo")
    return root


def assert_same(ours: CocoIndex, theirs: CocoIndex) -> None:
    assert ours.class_names == theirs.class_names
    assert ours.category_ids == theirs.category_ids
    for name in ("sizes_hw", "all_boxes", "all_labels", "offsets"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name, column in vars(ours.truth).items():
        np.testing.assert_array_equal(column, getattr(theirs.truth, name))
    for i in range(len(ours)):
        assert ours.image_path(i).read_bytes() == theirs.image_path(i).read_bytes()


def test_one_folder_is_not_both_splits(tiny_data: Path, tmp_path: Path) -> None:
    """As an export of one split, with its annotations beside the images."""
    root = tmp_path / "export/train"
    shutil.copytree(tiny_data / "train2017", root)
    annotations = tiny_data / "annotations/instances_train2017.json"
    place = shutil.copy(annotations, root / "_annotations.coco.json")
    with pytest.raises(DataError, match=r"is all that was found for train and val: an AP on the"):
        load_splits(DataConfig(root=root), "train", "val")
    assert len(load(root)) == len(load(root, "val")) == 12
    # Where somebody wants it.
    stated = SplitConfig(annotations=place, images=root)
    both = load_splits(DataConfig(root=root, val=stated), "train", "val")
    assert [len(index) for index in both] == [12, 12]


@pytest.mark.parametrize("source", ["folder", "data.yaml"])
def test_yolo_is_read_as_its_conversion(as_yolo: Path, tmp_path: Path, source: str) -> None:
    convert(as_yolo, tmp_path / "coco", source_format="yolo")
    root = as_yolo if source == "folder" else as_yolo / "data.yaml"
    both = load_splits(DataConfig(root=root), "train", "val")
    assert [len(index) for index in both] == [12, 4]
    for split, index in zip(("train", "val"), both, strict=True):
        assert_same(index, load_split(DataConfig(root=tmp_path / "coco"), split))  # type: ignore[arg-type]
        assert index.annotations == as_yolo / "data.yaml"


def test_voc_is_read_as_its_conversion(tmp_path: Path) -> None:
    root = tmp_path / "v"
    voc(root, "a", voc_object("dog", 1, 1, 20, 20), voc_object("cat", 5, 5, 30, 30))
    # What is left out silently, as from a COCO file, and what is corrected.
    voc(root, "bb", GOOD, voc_object("cat", 30, 5, 30, 5), voc_object("cat", 120, 5, 130, 9))
    voc(root, "ccc", voc_object("cow", 90, 5, 130, 9), size="")
    voc_list(root, "train", ["a"])
    voc_list(root, "val", ["bb", "ccc"])
    convert(root, tmp_path / "coco", source_format="voc")
    for split in ("train", "val"):
        ours, theirs = load(root, split), load_split(DataConfig(root=tmp_path / "coco"), split)  # type: ignore[arg-type]
        assert_same(ours, theirs)
        assert ours.class_names == ("cat", "cow", "dog")
    assert load(root, "val").image_ids == ("bb.jpg", "ccc.jpg")


def test_real_voc(shared: Path) -> None:
    train, val = load_splits(DataConfig(root=shared / "bccd/BCCD"), "train", "val")
    assert train.class_names == val.class_names == ("Platelets", "RBC", "WBC")
    assert (len(train), len(train.all_labels)) == (205, 2804)
    assert (len(val), len(val.all_labels)) == (87, 1137)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_named_folder_is_told_of_without_keys(
    tmp_path: Path, tiny_data: Path, split: Split
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / f"data/annotations/instances_{split}2017.json").unlink()
    with pytest.raises(DataError, match=rf"no {split} split found.*YOLO dataset$"):
        open_split(tmp_path / "data", split)
    with pytest.raises(DataError, match=rf"set data\.{split}\.images"):
        load(tmp_path / "data", split)


def test_formats_are_told_apart(tmp_path: Path, tiny_data: Path, as_yolo: Path) -> None:
    assert recognise(tiny_data) == "coco"
    assert recognise(as_yolo) == recognise(as_yolo / "data.yaml") == "yolo"
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "none") is None
    voc(tmp_path / "v", "a", GOOD)
    assert recognise(tmp_path / "v") == "voc"
    # With annotations of several formats COCO comes first.
    both = tmp_path / "both"
    shutil.copytree(tiny_data, both)
    shutil.copytree(as_yolo / "labels", both / "labels")
    assert recognise(both) == "coco"
    with pytest.raises(DataError, match=r"no train split found.*and for a Pascal VOC or YOLO"):
        load(tmp_path)


def test_lists_of_images_in_several_folders(tmp_path: Path) -> None:
    paths = []
    for folder in ("day", "night"):
        path = tmp_path / folder / "images/1.png"
        image(path, seed=len(folder))
        (tmp_path / folder / "labels").mkdir()
        (tmp_path / folder / "labels/1.txt").write_text("0 0.5 0.5 0.2 0.5\n")
        paths.append(path)
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "train.txt").write_text(f"{paths[0]}\n../night/images/1.png\n")
    (folder / "my.yaml").write_text("train: train.txt\nval: ../day/images\nnames: [cat]\n")
    index = load(folder / "my.yaml")
    assert [index.image_path(i) for i in range(2)] == [p.resolve() for p in paths]
    assert index.image_ids == ("1.png", "1-2.png")
    assert load(folder / "my.yaml", "val").file_name(0) == "1.png"


FAULTY_YOLO = {
    "number": ("0 0.5 half 0.2 0.5", "line 2: expected numbers"),
    "class": ("7 0.5 0.5 0.2 0.5", "line 2: class 7, but classes are 0 to 1"),
    "values": ("0 0.5 0.5", "line 2: expected class cx cy w h"),
}


@pytest.mark.parametrize("case", FAULTY_YOLO.values(), ids=FAULTY_YOLO.keys())
def test_the_first_fault_stops(tmp_path: Path, case: tuple[str, str]) -> None:
    line, message = case
    yolo(tmp_path, "train", "a", "0 0.5 0.5 0.2 0.5", line)
    yolo(tmp_path, "train", "b", line)
    yolo(tmp_path, "val", "c", "1 0.5 0.5 0.2 0.5")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    pattern = f"labels/train/a.txt: {message}.*; 2 errors in all; `oculox data check` lists"
    with pytest.raises(DataError, match=pattern):
        load(tmp_path)
    # Faults of one split do not forbid another.
    assert len(load(tmp_path, "val")) == 1


def test_missing_files_of_voc_stop(tmp_path: Path) -> None:
    voc(tmp_path, "a", GOOD)
    voc(tmp_path, "bb", GOOD)
    (tmp_path / "Annotations/bb.xml").unlink()
    voc_list(tmp_path, "train", ["a", "bb"])
    with pytest.raises(DataError, match=r"Annotations/bb.xml: no annotation of bb.jpg"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"no val split found in this Pascal VOC .*/Main/val\.txt"):
        load(tmp_path, "val")


def test_bad_images_stay_for_the_count_of_bad_images(tmp_path: Path) -> None:
    root = tmp_path / "v"
    for stem in ("a", "bb", "ccc"):
        voc(root, stem, GOOD, size=None if stem != "ccc" else "<size><width>5</width></size>")
    voc(root, "dddd", GOOD, size="<size><width>50</width><height>40</height></size>")
    (root / "JPEGImages/bb.jpg").write_bytes(b"no image")
    index = load(root)
    files = FileImages(index)
    assert [index.num_objects(i) for i in range(4)] == [1, 0, 1, 0]
    assert files(0).shape == files(2).shape == (80, 100, 3)
    with pytest.raises(DataError, match=r"bb\.jpg"):
        files(1)
    with pytest.raises(DataError, match=r"the image is 100 x 80, but .* says 50 x 40"):
        files(3)
    found = [(f.code, f.severity) for f in api.check_data(root).faults]
    assert sorted(found) == [
        ("image-unreadable", "error"),
        ("no-val-split", "info"),
        ("size-mismatch", "error"),
        ("size-missing", "warning"),
    ]


def test_the_check_names_lines_and_writes_a_clean_copy(tmp_path: Path) -> None:
    twice = "0 0.5 0.5 0.2 0.5"
    yolo(tmp_path / "y", "train", "a", twice, "1 0.1 0.1 0.01 0.01", "0 3 3 0.1 0.1", twice, "0 x")
    (tmp_path / "y/classes.txt").write_text("cat\ndog\n")
    report = api.check_data(tmp_path / "y")
    texts = [str(fault) for fault in report.faults]
    assert count_faults(report.faults) == {
        "box-malformed": 1,
        "box-outside": 1,
        "box-tiny": 1,
        "box-duplicate": 1,
        "no-val-split": 1,
    }
    assert any(t.endswith("labels/train/a.txt: line 5: expected numbers, got '0 x'") for t in texts)
    assert (
        "a.png (annotation 'a.png: line 4'): the same box and class as annotation 'a.png: line 1'"
    ) in texts
    write_clean(report, tmp_path / "clean")
    assert api.check_data(tmp_path / "clean").ok
    assert load(tmp_path / "clean").num_objects(0) == 2


def test_a_stated_split_is_coco(tmp_path: Path, as_yolo: Path, tiny_data: Path) -> None:
    stated = SplitConfig(
        images=tiny_data / "train2017",
        annotations=tiny_data / "annotations/instances_train2017.json",
    )
    train, val = load_splits(DataConfig(root=as_yolo, train=stated), "train", "val")
    assert train.annotations == stated.annotations
    assert val.annotations == as_yolo / "data.yaml"


def test_all_splits_that_are_there(tmp_path: Path, as_yolo: Path) -> None:
    assert list(scan_splits(as_yolo)) == ["train", "val"]
    assert list(scan_splits(as_yolo, "val")) == ["val"]
    with pytest.raises(DataError, match=r"no test split found in this YOLO .*\(test: FOLDER\)"):
        scan_splits(as_yolo, "test")
