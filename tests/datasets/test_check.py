import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from oculox.data.coco import find_splits, load_coco
from oculox.data.faults import count_faults
from oculox.datasets.check import CheckReport, SplitReport, check_data
from oculox.datasets.clean import write_clean
from oculox.datasets.demo.dataset import write_demo
from oculox.errors import DataError, UsageError

NAN = math.nan


def tree() -> dict[str, Any]:
    """Three images of 100 x 80, four objects, two classes."""
    return {
        "info": {"description": "kept"},
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 80, "width": 100} for i in (1, 2, 3)
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 300},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [50, 10, 20, 20], "area": 400},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [0, 0, 100, 80], "area": 8000},
            {"id": 4, "image_id": 3, "category_id": 2, "bbox": [5, 5, 40, 30], "area": 1200},
        ],
    }


def write(root: Path, split: str, coco: dict[str, Any]) -> tuple[Path, Path]:
    images, annotations = root / f"{split}2017", root / f"annotations/instances_{split}2017.json"
    images.mkdir(parents=True)
    annotations.parent.mkdir(exist_ok=True)
    seed = {"train": 0, "val": 100, "test": 200}[split]
    for i in (1, 2, 3):
        image = np.random.default_rng(seed + i).integers(0, 256, (80, 100, 3), np.uint8)
        cv2.imwrite(str(images / f"{i}.png"), image)
    annotations.write_text(json.dumps(coco))
    return images, annotations


def check_all(images: Path, annotations: Path, *, deep: bool = True) -> CheckReport:
    return check_data(annotations, images=images, deep=deep)


def check(images: Path, annotations: Path, *, deep: bool = True) -> SplitReport:
    return check_all(images, annotations, deep=deep).splits["train"]


def box(*values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda t: t["annotations"][0].update(bbox=list(values))


def obj(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda t: t["annotations"].append({**t["annotations"][0], "id": 9, **values})


def pic(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda t: t["images"].append({**t["images"][0], "id": 9, **values})


def size(width: int) -> Callable[[dict[str, Any]], None]:
    return lambda t: t["images"][0].update(width=width)


def category(i: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda t: t["categories"][i].update(values)


def append(section: str, entry: Any) -> Callable[[dict[str, Any]], None]:
    return lambda t: t[section].append(entry)


E, W, I = "error", "warning", "info"  # noqa: E741
JSON = "instances_train2017.json"
# what is done to the valid tree; code, severity, then file, image id and annotation id
FAULTS = {
    "box outside": (box(100, 10, 5, 5), "box-outside", E, "1.png", 1, 1),
    "box above": (box(10, -9, 5, 5), "box-outside", E, "1.png", 1, 1),
    "box beyond": (box(90, 10, 20, 5), "box-beyond", W, "1.png", 1, 1),
    "box empty": (box(10, 10, 0, 5), "box-empty", E, "1.png", 1, 1),
    "box inverted": (box(10, 10, 5, -5), "box-inverted", E, "1.png", 1, 1),
    "box nan": (box(NAN, 10, 5, 5), "box-not-finite", E, "1.png", 1, 1),
    "box infinite": (box(0, 0, math.inf, 5), "box-not-finite", E, "1.png", 1, 1),
    "box of three": (box(1, 2, 3), "box-malformed", E, "1.png", 1, 1),
    "box of text": (box(1, 2, 3, "4"), "box-malformed", E, "1.png", 1, 1),
    "box huge": (box(10**400, 2, 3, 4), "box-not-finite", E, "1.png", 1, 1),
    "box tiny": (box(10, 10, 1.5, 5), "box-tiny", W, "1.png", 1, 1),
    "box twice": (obj(), "box-duplicate", W, "1.png", 1, 9),
    "id twice": (obj(id=2, bbox=[1, 1, 9, 9]), "annotation-id-duplicate", E, JSON, None, 2),
    "id missing": (obj(id=None, bbox=[1, 1, 9, 9]), "annotation-id-missing", E),
    "unknown image": (obj(image_id=77), "image-unknown", E, JSON, None, 9),
    "unknown class": (obj(category_id=77), "category-unknown", E, "1.png", 1, 9),
    "class as text": (obj(category_id="1"), "category-unknown", E, "1.png", 1, 9),
    "object is a list": (append("annotations", []), "annotation-malformed", E),
    "image id twice": (pic(id=1, file_name="2.png"), "image-id-duplicate", E, "2.png", 1),
    "file twice": (pic(), "file-name-duplicate", E, "1.png", 9),
    "escape": (pic(file_name="../1.png"), "path-escape", E, "../1.png", 9),
    "absolute": (pic(file_name="/etc/x.png"), "path-escape", E, "/etc/x.png", 9),
    "drive": (pic(file_name="C:\\x.png"), "path-escape", E, "C:\\x.png", 9),
    "missing": (pic(file_name="no.png"), "image-missing", E, "no.png", 9),
    "no name": (pic(file_name=None), "image-malformed", E, JSON, 9),
    "image id is a list": (pic(id=[1]), "image-malformed", E),
    "wrong size": (size(50), "size-mismatch", E, "1.png", 1),
    "size 0": (size(0), "size-missing", E, "1.png", 1),
    "no categories": (lambda t: t["categories"].clear(), "no-categories", E),
    "category id": (category(0, id="1"), "category-malformed", E),
    "category twice": (category(1, id=1), "category-id-duplicate", E),
    "name twice": (category(1, name="cat"), "category-name-duplicate", E),
    "gaps": (append("categories", {"id": 7, "name": "fox"}), "category-gaps", I),
    "empty class": (append("categories", {"id": 3, "name": "fox"}), "class-empty", W),
    "no objects": (lambda t: t["annotations"].pop(), "no-objects", I),
    "crowd": (lambda t: t["annotations"][3].update(iscrowd=1), "crowds", I),
    "no images": (lambda t: t["images"].clear(), "no-images", E),
}


def test_a_valid_split_has_no_fault_and_counts_everything(tmp_path: Path) -> None:
    report = check(*write(tmp_path, "train", tree()))
    assert report.faults == ()
    assert report.stats.per_class == {"cat": 2, "dog": 2}
    assert (report.stats.images, report.stats.objects) == (3, 4)


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS.keys())
def test_every_fault_is_named_with_file_and_ids(tmp_path: Path, case: tuple[Any, ...]) -> None:
    change, code, severity, *where = case
    coco = tree()
    change(coco)
    report = check_all(*write(tmp_path, "train", coco))
    found = [f for f in report.faults if f.code == code]
    assert len(found) == 1, report.faults
    fault = found[0]
    assert fault.severity == severity
    where = [*(where or [JSON]), None, None][:3]
    assert [fault.file, fault.image_id, fault.annotation_id] == where
    assert where[0] in str(fault)
    assert report.ok == all(f.severity != "error" for f in report.faults)


def test_faults_do_not_hide_each_other(tmp_path: Path) -> None:
    coco = tree()
    for name in ("box outside", "unknown image", "unknown class", "escape", "missing"):
        FAULTS[name][0](coco) if name != "missing" else coco["images"].append(
            {"id": 11, "file_name": "no.png", "height": 5, "width": 5}
        )
    coco["annotations"][-1]["id"] = 10
    counts = count_faults(check(*write(tmp_path, "train", coco)).faults)
    expected = {
        "box-outside",
        "image-unknown",
        "category-unknown",
        "path-escape",
        "image-missing",
    }
    assert expected <= set(counts)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_images_are_found_by_decoding_alone(tmp_path: Path, damage: str) -> None:
    images, annotations = write(tmp_path, "train", tree())
    data = (images / "2.png").read_bytes()
    broken = {"truncated": data[: len(data) // 2], "text": b"no image at all", "empty": b""}
    (images / "2.png").write_bytes(broken[damage])
    (fault,) = (f for f in check(images, annotations).faults if f.severity == "error")
    assert (fault.code, fault.file, fault.image_id) == ("image-unreadable", "2.png", 2)
    assert check(images, annotations, deep=False).faults == ()


def test_swapped_sides_are_reported_and_the_file_counts(tmp_path: Path) -> None:
    coco = tree()
    coco["images"][0].update(height=100, width=80)
    coco["annotations"][0]["bbox"] = [85, 10, 10, 10]
    report = check(*write(tmp_path, "train", coco))
    assert count_faults(report.faults) == {"size-mismatch": 1}
    assert "swapped" in report.faults[0].message
    assert report.stats.objects == 4


def test_copies_within_and_between_splits(tmp_path: Path) -> None:
    train, val = write(tmp_path, "train", tree()), write(tmp_path, "val", tree())
    shutil.copy(train[0] / "1.png", train[0] / "3.png")
    shutil.copy(train[0] / "2.png", val[0] / "1.png")
    report = check_data(tmp_path)
    assert count_faults(report.faults) == {"image-duplicate": 1, "split-leak": 1}
    assert report.between[0].file == "val/1.png"
    assert "2.png" in report.between[0].message
    assert report.ok


def test_classes_must_agree_between_splits(tmp_path: Path) -> None:
    other = tree()
    other["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    write(tmp_path, "train", tree())
    write(tmp_path, "val", other)
    report = check_data(tmp_path)
    assert count_faults(report.faults) == {"categories-differ": 1}
    assert not report.ok
    assert json.loads(json.dumps(report.as_dict()))["counts"] == {"categories-differ": 1}


def test_remarks_name_their_split(tmp_path: Path) -> None:
    coco = tree()
    coco["categories"].append({"id": 3, "name": "fox"})
    write(tmp_path, "val", coco)
    coco["annotations"].clear()
    write(tmp_path, "train", coco)
    report = check_data(tmp_path)
    texts = [f.message for f in report.faults if f.code in ("class-empty", "no-objects")]
    assert "class 'fox' has no object in val" in texts
    assert "class 'fox' has no object in train" in texts
    assert any(text.startswith("images without objects in train: ") for text in texts)


@pytest.mark.parametrize("content", ["", "[1]", '{"images": []}', "{]", '{"images": 1}'])
def test_what_is_no_coco_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a\.json"):
        check(tmp_path, path)


def faulty() -> dict[str, Any]:
    """As many faults as one split can have."""
    coco = tree()
    coco["images"] += [
        {"id": 4, "file_name": "1.png", "height": 80, "width": 100, "license": 3},
        {"id": 5, "file_name": "no.png", "height": 80, "width": 100},
        {"id": 6, "file_name": "../2.png", "height": 80, "width": 100},
        {"id": 1, "file_name": "2.png", "height": 80, "width": 100},
    ]
    coco["images"][1].update(height=100, width=80)
    coco["images"][2].update(height=40, width=50)
    base = {"image_id": 1, "category_id": 1, "area": 1}
    coco["annotations"] += [
        {**base, "id": 1, "bbox": [1, 1, 8, 8]},
        {**base, "id": 5, "bbox": [90, 70, 30, 30], "note": "kept"},
        {**base, "id": 6, "bbox": [1, 1, 0, 8]},
        {**base, "id": 7, "bbox": [200, 1, 8, 8]},
        {**base, "id": 8, "bbox": [10, 10, 20, 20]},
        {**base, "id": 9, "image_id": 4, "bbox": [30, 40, 8, 8]},
        {**base, "id": 10, "image_id": 5, "bbox": [1, 1, 8, 8]},
        {**base, "id": 11, "category_id": 5, "bbox": [1, 1, 8, 8]},
    ]
    return coco


def test_the_clean_copy_is_valid_and_the_source_untouched(tmp_path: Path) -> None:
    coco = faulty()
    source = tmp_path / "source"
    paths = write(source, "train", copy.deepcopy(coco))
    before = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    report = check_all(*paths)
    assert not report.ok
    (summary,) = write_clean(report, tmp_path / "out").values()
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == before
    again = check_data(tmp_path / "out")
    assert [f for f in again.faults if f.severity != "info"] == []
    clean = json.loads((tmp_path / "out/annotations/instances_train2017.json").read_text())
    assert clean["info"] == coco["info"]
    assert [(i["id"], i["height"], i["width"]) for i in clean["images"]] == [
        (1, 80, 100),
        (2, 80, 100),
    ]
    by_id = {a["id"]: a for a in clean["annotations"]}
    assert by_id[5]["bbox"] == [90, 70, 10, 10]
    assert by_id[5]["note"] == "kept"
    assert by_id[9]["image_id"] == 1
    assert by_id[1]["area"] == 300  # smaller than its box, as of a mask: kept
    assert sorted(by_id) == [1, 2, 3, 5, 9, 12]
    assert by_id[12]["bbox"] == [1, 1, 8, 8]
    assert (summary.images, summary.objects, summary.clipped) == (2, 6, 1)
    assert (summary.renumbered, summary.merged, summary.resized) == (1, 1, 1)
    assert (summary.dropped_images, summary.dropped_objects) == (4, 6)
    index = load_coco(
        tmp_path / "out/annotations/instances_train2017.json", tmp_path / "out/train2017"
    )
    assert len(index.all_boxes) == 6


def test_a_clean_copy_may_link(tmp_path: Path) -> None:
    paths = write(tmp_path / "source", "train", tree())
    write_clean(check_all(*paths), tmp_path / "out", mode="symlink")
    link = tmp_path / "out/train2017/1.png"
    assert link.is_symlink()
    assert link.read_bytes() == (paths[0] / "1.png").read_bytes()


def test_a_clean_copy_needs_room_and_something_usable(tmp_path: Path) -> None:
    coco = tree()
    report = check_all(*write(tmp_path / "a", "train", coco))
    with pytest.raises(UsageError, match="already holds files"):
        write_clean(report, tmp_path / "a")
    coco["images"].clear()
    report = check_all(*write(tmp_path / "b", "train", coco))
    with pytest.raises(DataError, match="no usable image"):
        write_clean(report, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_demo_is_valid(tmp_path: Path) -> None:
    write_demo(tmp_path / "d", train=30, val=8, size=(160, 120))
    report = check_data(tmp_path / "d")
    assert report.ok
    assert set(count_faults(report.faults)) <= {"no-objects", "class-empty"}


def test_real_coco_has_no_errors(shared: Path) -> None:
    splits = find_splits(shared / "coco_mini")
    report = check_data(shared / "coco_mini", deep=False)
    assert report.ok
    for name, (images, annotations) in splits.items():
        index = load_coco(annotations, images)
        stats = report.splits[name].stats
        assert (stats.images, stats.objects) == (len(index), len(index.all_boxes))


JUNK = [None, True, -1, 0, 1, 2, 1.5, 1e300, NAN, math.inf, "", "1", "1.png", [], {}, [1, 2, 3, 4]]


@pytest.mark.parametrize("seed", range(40))
def test_the_clean_copy_of_any_file_loads(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coco = tree()
    for _ in range(rng.integers(1, 9)):
        section = coco[("images", "annotations", "categories")[rng.integers(3)]]
        entry = section[rng.integers(len(section))]
        junk = copy.deepcopy(JUNK[rng.integers(len(JUNK))])
        if not isinstance(entry, dict) or not entry or rng.uniform() < 0.15:
            section.append(junk)
            continue
        key = list(entry)[rng.integers(len(entry))]
        entry[key] = junk
    report = check_all(*write(tmp_path / "source", "train", coco))
    json.dumps(report.as_dict())
    out = tmp_path / "out"
    if not report.splits["train"].stats.images or not report.splits["train"].stats.per_class:
        with pytest.raises(DataError):
            write_clean(report, out)
        return
    write_clean(report, out)
    load_coco(out / "annotations/instances_train2017.json", out / "train2017")
    again = check_data(out)
    assert [f for f in again.faults if f.severity == "error"] == []
