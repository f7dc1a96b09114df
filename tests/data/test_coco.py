import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_coco import write_coco

from oculox.config.schema import DataConfig, SplitConfig
from oculox.data.coco import (
    CocoIndex,
    _stable_order,
    find_split,
    find_splits,
    load_coco,
    load_split,
)
from oculox.data.coco_columns import PackedStrings
from oculox.datasets.splits import open_split
from oculox.errors import ConfigError, DataError, UsageError

MakeCoco = Callable[..., CocoIndex]


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> tuple[Path, Path]:
    annotations, images = write_coco(folder)
    tree = json.loads(annotations.read_text())
    change(tree)
    annotations.write_text(json.dumps(tree))
    return annotations, images


def test_index_of_a_small_set(make_coco: MakeCoco) -> None:
    index = make_coco(boxes=[[(4, 5, 20, 15), (10, 8, 12, 20)], [], [(0, 0, 33, 33)]])
    assert len(index) == 3
    assert index.image_ids == (1, 2, 3)
    assert index.class_names == ("kind1", "kind2")
    assert index.sizes_hw.tolist() == [[40, 60], [64, 48], [33, 33]]
    assert index.sizes_hw.dtype == np.int32
    assert index.boxes(0).tolist() == [[4, 5, 24, 20], [10, 8, 22, 28]]
    assert index.boxes(0).dtype == np.float32
    assert index.labels(0).tolist() == [0, 1]
    assert index.labels(0).dtype == np.int64
    assert index.boxes(1).shape == (0, 4)
    assert index.labels(1).shape == (0,)
    assert [index.num_objects(i) for i in range(3)] == [2, 0, 1]
    assert index.image_path(2).is_file()
    with pytest.raises(ValueError, match="read-only"):
        index.boxes(0)[:] = 0


def test_no_annotations_at_all(make_coco: MakeCoco) -> None:
    index = make_coco(boxes=[[], [], []])
    assert index.all_boxes.shape == (0, 4)
    assert [index.num_objects(i) for i in range(3)] == [0, 0, 0]


def test_boxes_are_clipped_and_empty_ones_dropped(make_coco: MakeCoco) -> None:
    boxes = [(-5, -5, 10, 10), (50, 30, 100, 100), (70, 5, 9, 9), (5, 5, 0, 9), (9, 9, -4, 5)]
    beyond_float32 = (20, -1e99, 1e99, 2e99)
    index = make_coco(sizes_hw=[(40, 60)], boxes=[[*boxes, beyond_float32]])
    assert index.boxes(0).tolist() == [[0, 0, 5, 5], [50, 30, 60, 40], [20, 0, 60, 40]]
    assert index.labels(0).tolist() == [0, 1, 1]


def test_objects_are_sorted_by_image_and_then_as_they_stand() -> None:
    owners = np.random.default_rng(0).integers(0, 3 << 16, 5000)
    assert np.array_equal(_stable_order(owners), np.argsort(owners, kind="stable"))
    assert len(_stable_order(owners[:0])) == 0


def test_sparse_category_ids_become_contiguous_in_ascending_order(make_coco: MakeCoco) -> None:
    index = make_coco(category_ids=[90, 7, 13])
    assert index.category_ids == (7, 13, 90)
    assert index.class_names == ("kind7", "kind13", "kind90")
    assert index.labels(0).tolist() == [2, 0]


@pytest.mark.parametrize("ids", [("a", "ü-2", "3"), (10**20, -1, 0), ("1", 1, "x")])
def test_ids_come_back_as_they_were(make_coco: MakeCoco, ids: tuple[int | str, ...]) -> None:
    index = make_coco(ids=ids)
    assert index.image_ids == ids
    assert [index.num_objects(i) for i in range(3)] == [2, 2, 2]


def test_names_may_hold_folders_and_any_letters(make_coco: MakeCoco) -> None:
    files = ["a/b/1.png", "ü ..x.png", "./3.png"]
    index = make_coco(files=files)
    assert [index.file_name(i) for i in range(3)] == files
    assert all(index.image_path(i).is_file() for i in range(3))


def test_crowds_are_left_out(tmp_path: Path) -> None:
    annotations, images = edited(tmp_path, lambda t: t["annotations"][0].update(iscrowd=1))
    assert load_coco(annotations, images).num_objects(0) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("images"), "'images', got no such key"),
        (lambda t: t.update(annotations=None), "'annotations', got NoneType"),
        (lambda t: t.update(categories=[]), "'categories' is empty: there are no"),
        (lambda t: t.update(images=[]), "'images' is empty: there is"),
        (lambda t: t["images"][1].pop("file_name"), r"\(image 2\): file_name must be .* got None"),
        (lambda t: t["images"][1].pop("id"), r"images\[1\]: .* as 'id', got {'file_name': '1.png'"),
        (lambda t: t["images"].append(3), r"images\[3\]: expected an object .* got 3"),
        (lambda t: t["images"][1].update(id=1.5), r"images\[1\]: .* as 'id', .*1\.5"),
        (lambda t: t["images"][1].update(id=1), "image id 1 occurs twice"),
        (
            lambda t: t["images"][1].update(height=0),
            r"\(image 2\): height and width must be .* got 0 and 48",
        ),
        (
            lambda t: t["images"][1].update(width="48"),
            r"\(image 2\): height and .* got 64 and '48'",
        ),
        (
            lambda t: t["images"][1].update(width=float("nan")),
            r"\(image 2\): height and .* got 64 and nan",
        ),
        (
            lambda t: t["images"][0].update(file_name=""),
            r"\(image 1\): file_name must be .* got ''",
        ),
        (
            lambda t: t["images"][0].update(file_name="../x.png"),
            r"\(image 1\): file_name .* leads out",
        ),
        (
            lambda t: t["images"][0].update(file_name="a/../../x.png"),
            r"\(image 1\): file_name .* leads out",
        ),
        (
            lambda t: t["images"][0].update(file_name="/etc/x.png"),
            r"\(image 1\): file_name .* leads out",
        ),
        (
            lambda t: t["images"][0].update(file_name="..\\x.png"),
            r"\(image 1\): file_name .* leads out",
        ),
        (
            lambda t: t["images"][0].update(file_name="c:\\x.png"),
            r"\(image 1\): file_name .* leads out",
        ),
        (
            lambda t: t["annotations"][2].update(category_id=9),
            r"1\.png \(image 2, annotation 3\): .* 9 ",
        ),
        (lambda t: t["annotations"][2].update(image_id="2"), r"\(annotation 3\): .*image_id '2'"),
        (lambda t: t["annotations"][2].update(image_id=[2]), r"\(annotation 3\): .*image_id \[2\]"),
        (
            lambda t: t["annotations"][2].update(bbox=[1, 2, 3]),
            r"annotation 3\): .* four finite .* \[1, 2, 3\]",
        ),
        (
            lambda t: t["annotations"][2].update(bbox=[1, 2, float("inf"), 3]),
            r"four finite .* \[1, 2, inf, 3\]",
        ),
        (lambda t: t["annotations"][2].update(bbox=[1, 2, "3", 3]), "four finite"),
        (lambda t: t["annotations"][2].update(bbox=[1, 2, True, 3]), "four finite"),
        (lambda t: t["annotations"][2].update(bbox=[1, 2, 10**400, 3]), "four finite"),
        (lambda t: t["annotations"][2].update(bbox={"x": 1}, iscrowd=1), "four finite"),
        (lambda t: t["annotations"][2].pop("bbox"), r"annotation 3\): .* four finite .* None"),
        (lambda t: t["annotations"].append(3), r"annotations\[6\]: expected an object"),
        (lambda t: t["categories"][0].update(id="1"), r"categories\[0\]: .* whole number 'id'"),
        (lambda t: t["categories"][0].update(id=2), "category id 2 occurs twice"),
        (lambda t: t["categories"][0].pop("name"), r"categories\[0\]: .* 'name', got {'id': 1}"),
    ],
)
def test_inconsistent_files_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(DataError, match=rf"labels\.json.*{message}") as caught:
        load_coco(*edited(tmp_path, change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00", "[" * 100_000])
def test_what_is_no_coco_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"labels\.json: not"):
        load_coco(path, tmp_path)


def test_missing_annotations_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such annotation file"):
        load_coco(tmp_path / "none.json", tmp_path)
    annotations, _ = write_coco(tmp_path)
    with pytest.raises(DataError, match="no such image folder"):
        load_coco(annotations, tmp_path / "elsewhere")


def test_missing_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    annotations, images = write_coco(tmp_path, files=["a/0.png", "1.png", "b/2.png"])
    (images / "a/0.png").unlink()
    (images / "b/2.png").rename(images / "2.png")
    with pytest.raises(DataError, match=r"2 of 3 images are missing .*'a/0\.png' and 1 more"):
        load_coco(annotations, images)


def test_packed_strings_round_trip() -> None:
    strings = ["", "abc", "ü", "\ud800", ""]
    packed = PackedStrings.pack(strings)
    assert [packed[i] for i in range(len(packed))] == list(packed) == strings
    assert len(PackedStrings.pack([])) == 0


def test_errors_are_counted_and_harmless_ones_let_through(tmp_path: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["categories"][1]["name"] = tree["categories"][0]["name"]
        tree["annotations"][0].pop("id")
        tree["annotations"][1]["id"] = tree["annotations"][2]["id"]
        tree["images"].append({**tree["images"][0], "id": "twin"})

    annotations, images = edited(tmp_path, change)
    index = load_coco(annotations, images)
    assert [index.num_objects(i) for i in range(4)] == [2, 2, 2, 0]
    tree = json.loads(annotations.read_text())
    for i in (1, 3, 5):
        tree["annotations"][i]["category_id"] = 77
    annotations.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"category_id 77 .*; 3 errors in all; `oculox data check`"):
        load_coco(annotations, images)


def test_reading_leaves_the_garbage_collector_as_it_was(tmp_path: Path) -> None:
    annotations, images = write_coco(tmp_path)
    load_coco(annotations, images)
    assert gc.isenabled()
    gc.disable()
    try:
        load_coco(annotations, images)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_truth_is_what_the_file_states(tmp_path: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        boxes = ([-5, 2, 10, 9], [50, 30, 100, 100], [4, 4, 8, 8], [1, 1, 0, 5], [2, 3, 4, 5])
        areas = (17.5, None, float("nan"), 3, 9)
        for entry, box, area in zip(tree["annotations"], boxes, areas, strict=False):
            entry.update(bbox=box, area=area)
        tree["annotations"][4]["iscrowd"] = 1
        tree["annotations"].reverse()

    index = load_coco(*edited(tmp_path, change))
    truth = index.truth
    assert truth.owners.tolist() == [2, 2, 1, 1, 0, 0]
    assert truth.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert truth.xywh[1:].tolist() == [
        [2, 3, 4, 5],
        [1, 1, 0, 5],
        [4, 4, 8, 8],
        [50, 30, 100, 100],
        [-5, 2, 10, 9],
    ]
    assert truth.areas.tolist() == [240, 9, 3, 64, 10000, 17.5]
    assert truth.crowd.tolist() == [False, True, False, False, False, False]
    assert [index.num_objects(i) for i in range(3)] == [2, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        truth.xywh[:] = 0


def test_real_coco(coco_train: CocoIndex) -> None:
    assert len(coco_train) == 369
    assert len(coco_train.class_names) == 80
    assert coco_train.category_ids[-1] == 90
    assert coco_train.image_ids[:3] == (9, 25, 30)
    assert coco_train.class_names[coco_train.labels(0)[0]] == "bowl"


@pytest.mark.parametrize(
    ("split", "images", "annotations"),
    [
        ("train", "train2017", "annotations/instances_train2017.json"),
        ("val", "val2017", "annotations/instances_val2017.json"),
        ("train", "train", "annotations/instances_train2017.json"),
        ("train", "train", "annotations/instances_train.json"),
        ("val", "val", "annotations/val.json"),
        ("val", "images/val", "annotations/val.json"),
        ("train", "images", "annotations/train.json"),
        ("train", "train", "train/_annotations.coco.json"),
        ("val", "valid", "valid/_annotations.coco.json"),
        ("val", ".", "_annotations.coco.json"),
        ("test", "test2017", "annotations/instances_test2017.json"),
        ("test", "test", "test/_annotations.coco.json"),
    ],
)
def test_usual_layouts_are_found(tmp_path: Path, split: str, images: str, annotations: str) -> None:
    (tmp_path / images).mkdir(exist_ok=True, parents=True)
    (tmp_path / annotations).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / annotations).write_text("{}")
    found = find_split(DataConfig(root=tmp_path), split)
    assert found == (tmp_path / images, tmp_path / annotations)


def test_stated_paths_win_and_may_be_relative_to_the_root(tmp_path: Path) -> None:
    for folder in ("train", "other", "annotations"):
        (tmp_path / folder).mkdir()
    for name in ("train", "mine"):
        (tmp_path / f"annotations/{name}.json").write_text("{}")
    labels = tmp_path / "annotations/mine.json"
    both = SplitConfig(images=tmp_path / "other", annotations=labels)
    assert find_split(DataConfig(train=both), "train") == (tmp_path / "other", labels)
    one = SplitConfig(annotations=Path("annotations/mine.json"))
    assert find_split(DataConfig(root=tmp_path, train=one), "train") == (
        tmp_path / "train",
        labels,
    )
    images = SplitConfig(images=Path("other"))
    assert find_split(DataConfig(root=tmp_path, train=images), "train") == (
        tmp_path / "other",
        tmp_path / "annotations/train.json",
    )


def test_the_root_may_be_the_image_folder(tmp_path: Path) -> None:
    labels = tmp_path / "a.json"
    labels.write_text("{}")
    data = DataConfig(root=tmp_path, train=SplitConfig(annotations=labels))
    assert find_split(data, "train") == (tmp_path, labels)


def test_unfound_splits_say_what_was_looked_for(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    with pytest.raises(ConfigError, match=r"no train data: set data\.root"):
        find_split(DataConfig(), "train")
    with pytest.raises(DataError, match=r"data\.root: .*nothing is not a folder"):
        find_split(DataConfig(root=nothing), "val")
    with pytest.raises(DataError, match=r"instances_val2017\.json, .*valid/_annot"):
        find_split(DataConfig(root=tmp_path), "val")
    with pytest.raises(DataError, match=r"no test split found; .*instances_test2017[^;]*$"):
        find_split(DataConfig(root=tmp_path), "test")
    with pytest.raises(DataError, match=r"data\.val\.images: .* is not a folder"):
        find_split(DataConfig(val=SplitConfig(images=nothing)), "val")
    with pytest.raises(DataError, match=r"data\.val\.annotations: .* is not a file"):
        find_split(DataConfig(val=SplitConfig(annotations=nothing)), "val")


def test_finds_the_splits_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train split"):
        find_splits(tmp_path)
    for split in ("test", "train"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "_annotations.coco.json").write_text("{}")
    found = find_splits(tmp_path)
    assert list(found) == ["train", "test"]
    assert list(find_splits(tmp_path, "test")) == ["test"]
    with pytest.raises(DataError, match="no val split"):
        find_splits(tmp_path, "val")
    assert found["test"] == (tmp_path / "test", tmp_path / "test/_annotations.coco.json")


def test_a_folder_inside_a_dataset_names_the_dataset(tiny_data: Path) -> None:
    said = rf"train2017: no train split found; .*; {tiny_data} holds a dataset: name that folder$"
    with pytest.raises(DataError, match=said):
        find_split(DataConfig(root=tiny_data / "train2017"), "train")


def test_one_file_for_all_is_one_split(tmp_path: Path) -> None:
    (tmp_path / "_annotations.coco.json").write_text("{}")
    assert find_splits(tmp_path) == {"train": (tmp_path, tmp_path / "_annotations.coco.json")}


def test_a_split_opens_by_its_folder_or_its_file(shared: Path) -> None:
    root = shared / "coco_mini"
    images, annotations = find_split(DataConfig(root=root), "val")
    by_folder, by_file = open_split(root, "val"), open_split(annotations, "val", images=images)
    assert by_folder.image_ids == by_file.image_ids
    with pytest.raises(UsageError, match="`images` goes with a COCO JSON file"):
        open_split(root, "val", images=images)


def test_load_split_reads_the_mini_coco(shared: Path) -> None:
    index = load_split(DataConfig(root=shared / "coco_mini"), "val")
    assert len(index) == 133
