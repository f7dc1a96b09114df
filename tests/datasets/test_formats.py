import json
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from oculox.data.coco import load_coco
from oculox.data.faults import count_faults
from oculox.data.image import read_image
from oculox.datasets.demo.dataset import write_demo
from oculox.datasets.formats.convert import ConvertSummary, convert
from oculox.datasets.formats.voc import parse_xml
from oculox.datasets.formats.yolo import label_path
from oculox.datasets.image_facts import ImageFacts, look_at
from oculox.errors import DataError, UsageError


def image(path: Path, *, seed: int = 0, hw: tuple[int, int] = (80, 100)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def voc_object(name: str, *box: Any, difficult: int = 0) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, box, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def voc(root: Path, stem: str, *objects: str, size: str | None = None) -> None:
    stated = "<size><width>100</width><height>80</height></size>" if size is None else size
    xml = root / "Annotations" / f"{stem}.xml"
    xml.parent.mkdir(parents=True, exist_ok=True)
    xml.write_text(f"<annotation>{stated}{''.join(objects)}</annotation>")
    image(root / "JPEGImages" / f"{stem}.jpg", seed=len(stem))


def voc_list(root: Path, name: str, stems: Sequence[str]) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text("\n".join(stems) + "\n")


def from_voc(root: Path, target: Path, **options: Any) -> ConvertSummary:
    return convert(root, target, source_format="voc", **options)


def coco_tree(root: Path, split: str = "train") -> dict[str, Any]:
    return json.loads((root / f"annotations/instances_{split}2017.json").read_text())


def boxes(root: Path, split: str = "train") -> list[list[float]]:
    return [a["bbox"] for a in coco_tree(root, split)["annotations"]]


def test_voc_pixels_count_from_one_and_include_the_last(tmp_path: Path) -> None:
    voc(tmp_path / "v", "a", voc_object("cat", 1, 1, 100, 80), voc_object("cat", 11, 21, 30, 60))
    summary = from_voc(tmp_path / "v", tmp_path / "c")
    assert summary.faults == ()
    assert boxes(tmp_path / "c") == [[0, 0, 100, 80], [10, 20, 20, 40]]
    copied = tmp_path / "c/train2017/a.jpg"
    assert copied.read_bytes() == (tmp_path / "v/JPEGImages/a.jpg").read_bytes()


VOC_FAULTS = {
    "outside": (voc_object("cat", 120, 5, 130, 9), "box-outside", 1),
    "inverted": (voc_object("cat", 30, 5, 20, 9), "box-inverted", 1),
    "one pixel": (voc_object("cat", 30, 5, 30, 5), "box-empty", 1),
    "one column": (voc_object("cat", 30, 5, 30, 9), "box-empty", 1),
    "text": (voc_object("cat", "x", 5, 20, 9), "box-malformed", 1),
    "nan": (voc_object("cat", "nan", 5, 20, 9), "box-not-finite", 1),
    "missing corner": ("<object><name>cat</name></object>", "box-malformed", 1),
    "no name": (voc_object("", 1, 2, 20, 30), "class-unknown", 1),
    "beyond": (voc_object("cat", 90, 5, 130, 9), "box-beyond", 2),
    "from zero": (voc_object("cat", 0, 0, 20, 9), None, 2),
}


@pytest.mark.parametrize("case", VOC_FAULTS.values(), ids=VOC_FAULTS.keys())
def test_faulty_voc_objects_are_left_out_and_listed(tmp_path: Path, case: tuple[Any, ...]) -> None:
    broken, code, kept = case
    voc(tmp_path / "v", "a", broken, voc_object("cat", 11, 21, 30, 60))
    summary = from_voc(tmp_path / "v", tmp_path / "c")
    assert [f.code for f in summary.faults] == ([] if code is None else [code])
    assert all(f.file.endswith("a.xml") and "object 1" in f.message for f in summary.faults)
    assert len(boxes(tmp_path / "c")) == summary.objects["train"] == kept


def test_faulty_voc_images_are_left_out_and_listed(tmp_path: Path) -> None:
    root = tmp_path / "v"
    good = voc_object("cat", 11, 21, 30, 60)
    voc(root, "good", good)
    voc(root, "gone", good)
    (root / "JPEGImages/gone.jpg").unlink()
    voc(root, "broken", good)
    (root / "JPEGImages/broken.jpg").write_bytes(b"no image")
    voc(root, "other-size", good, size="<size><width>50</width><height>50</height></size>")
    voc(root, "no-size", good, size="")
    voc(root, "swapped", good, size="<size><width>80</width><height>100</height></size>")
    voc(root, "bad-xml", good)
    (root / "Annotations/bad-xml.xml").write_text("<annotation><object>")
    voc(root, "no-xml", good)
    (root / "Annotations/no-xml.xml").unlink()
    stems = ["good", "gone", "broken", "other-size", "no-size", "swapped", "bad-xml", "no-xml"]
    voc_list(root, "train", [*stems, "../good"])
    summary = from_voc(root, tmp_path / "c")
    found = {(Path(f.file).stem, f.code, f.severity) for f in summary.faults}
    assert found == {
        ("gone", "image-missing", "error"),
        ("broken", "image-unreadable", "error"),
        ("other-size", "size-mismatch", "error"),
        ("no-size", "size-missing", "warning"),
        ("swapped", "size-mismatch", "warning"),
        ("bad-xml", "labels-unreadable", "error"),
        ("no-xml", "labels-missing", "error"),
        ("train", "path-escape", "error"),
    }
    names = [i["file_name"] for i in coco_tree(tmp_path / "c")["images"]]
    assert names == ["good.jpg", "no-size.jpg", "swapped.jpg"]


def test_voc_lists_classes_and_difficult_objects(tmp_path: Path) -> None:
    root = tmp_path / "v"
    voc(root, "a", voc_object("dog", 1, 1, 20, 20), voc_object("cat", 5, 5, 30, 30, difficult=1))
    voc(root, "bb", voc_object("ant", 1, 1, 20, 20))
    voc(root, "ccc")
    voc_list(root, "trainval", ["a", "ccc"])
    voc_list(root, "test", ["bb"])
    plain = from_voc(root, tmp_path / "plain")
    assert plain.classes == ("ant", "cat", "dog")
    assert plain.images == {"train": 2, "test": 1}
    assert plain.objects == {"train": 2, "test": 1}
    chosen = from_voc(
        root,
        tmp_path / "chosen",
        classes=["dog", "cat"],
        splits={"test": "val", "trainval": "train"},
    )
    assert chosen.classes == ("dog", "cat")
    assert chosen.images == {"val": 1, "train": 2}
    assert chosen.objects == {"val": 0, "train": 2}
    assert [(f.code, Path(f.file).name) for f in chosen.faults] == [("class-unknown", "bb.xml")]
    easy = from_voc(root, tmp_path / "easy", skip_difficult=True)
    assert easy.classes == ("ant", "dog")
    with pytest.raises(DataError, match=r"val\.txt: no such list"):
        from_voc(root, tmp_path / "x", splits={"val": "val"})


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE a><a/>",
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "<a>&undefined;</a>",
        "<a><b></a>",
        "",
        "<a>" + " " * (16 << 20) + "</a>",
    ],
    ids=["doctype", "entity", "file", "undefined", "unclosed", "empty", "large"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_dangerous_xml_is_refused(text: str, encoding: str) -> None:
    with pytest.raises(DataError):
        parse_xml(text.encode(encoding))


def test_deep_xml_is_harmless() -> None:
    assert parse_xml(b"<a>" * 100_000 + b"</a>" * 100_000).findtext("b") is None


def test_xml_is_read_with_its_encoding() -> None:
    root = parse_xml(
        '<?xml version="1.0" encoding="latin-1"?><a b="1"><c>é</c>t</a>'.encode("latin-1")
    )
    assert (root.tag, root.attrib, root.findtext("c")) == ("a", {"b": "1"}, "é")


def yolo(root: Path, split: str, stem: str, *lines: str) -> None:
    image(root / "images" / split / f"{stem}.png", seed=len(stem))
    labels = root / "labels" / split / f"{stem}.txt"
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text("".join(f"{line}\n" for line in lines))


def from_yolo(root: Path, target: Path, **options: Any) -> ConvertSummary:
    return convert(root, target, source_format="yolo", **options)


YOLO_LINES = {
    "box": ("1 0.5 0.5 0.2 0.5", None, [40, 20, 20, 40]),
    "exponents": ("1.0 5e-1 .5 2e-1 .5", None, [40, 20, 20, 40]),
    "polygon": ("0 0.1 0.25 0.3 0.5 0.2 0.75", None, [10, 20, 20, 40]),
    "rounded": ("0 0.5 0.5 1.000001 1.000001", None, [0, 0, 100, 80]),
    "beyond": ("0 0.9 0.5 0.4 0.5", "box-beyond", [70, 20, 30, 40]),
    "pixels": ("0 50 40 20 40", "box-outside", None),
    "empty": ("0 0.5 0.5 0 0.5", "box-empty", None),
    "inverted": ("0 0.5 0.5 -0.2 0.5", "box-inverted", None),
    "nan": ("0 nan 0.5 0.2 0.5", "box-not-finite", None),
    "unknown class": ("2 0.5 0.5 0.2 0.5", "class-unknown", None),
    "negative class": ("-1 0.5 0.5 0.2 0.5", "class-unknown", None),
    "broken class": ("0.5 0.5 0.5 0.2 0.5", "class-unknown", None),
    "nan class": ("nan 0.5 0.5 0.2 0.5", "class-unknown", None),
    "four values": ("0 0.5 0.5 0.2", "box-malformed", None),
    "six values": ("0 0.5 0.5 0.2 0.5 0.9", "box-malformed", None),
    "words": ("cat 0.5 0.5 0.2 0.5", "box-malformed", None),
}


@pytest.mark.parametrize("case", YOLO_LINES.values(), ids=YOLO_LINES.keys())
def test_yolo_lines(tmp_path: Path, case: tuple[Any, ...]) -> None:
    line, code, box = case
    yolo(tmp_path / "y", "train", "a", "", line)
    summary = from_yolo(tmp_path / "y", tmp_path / "c", classes=["cat", "dog"])
    assert [f.code for f in summary.faults] == ([] if code is None else [code])
    assert all(f.file.endswith("a.txt") and "line 2" in f.message for f in summary.faults)
    found = boxes(tmp_path / "c")
    assert len(found) == (box is not None)
    if box is not None:
        np.testing.assert_allclose(found[0], box, atol=1e-3)


def test_files_of_windows_editors_begin_with_a_mark(tmp_path: Path) -> None:
    mark, root = "\ufeff", tmp_path / "y"
    yolo(root, "train", "a", f"{mark}0 0.5 0.5 0.2 0.5")
    yolo(root, "val", "b", f"{mark}1 0.5 0.5 0.2 0.5")
    (root / "classes.txt").write_text(f"{mark}cat\ndog\n", "utf-8")
    (root / "list.txt").write_text(f"{mark}images/train/a.png\n", "utf-8")
    for text in ("train: list.txt\nval: images/val\n", "names: [cat, dog]\n"):
        (root / "data.yaml").write_text(mark + text, "utf-8")
        summary = from_yolo(root, tmp_path / f"c{len(text)}")
        assert (summary.faults, summary.classes) == ((), ("cat", "dog"))
        assert summary.objects == {"train": 1, "val": 1}
    voc(tmp_path / "v", "a", voc_object("dog", 1, 1, 20, 20))
    voc_list(tmp_path / "v", "train", [f"{mark}a"])
    assert from_voc(tmp_path / "v", tmp_path / "cv").objects == {"train": 1}
    path = tmp_path / "cv/annotations/instances_train2017.json"
    path.write_text(mark + path.read_text("utf-8"), "utf-8")
    assert len(load_coco(path, tmp_path / "cv/train2017")) == 1


def test_yolo_images_without_labels_are_background(tmp_path: Path) -> None:
    yolo(tmp_path / "y", "train", "a")
    image(tmp_path / "y/images/train/b.png")
    (tmp_path / "y/images/train/c.png").write_bytes(b"")
    summary = from_yolo(tmp_path / "y", tmp_path / "c", classes=["cat"])
    assert summary.images == {"train": 2}
    assert count_faults(summary.faults) == {"image-unreadable": 1}
    assert (
        len(
            load_coco(tmp_path / "c/annotations/instances_train2017.json", tmp_path / "c/train2017")
        )
        == 2
    )


LAYOUTS = {
    "list": "train: images/train\nval: images/val\nnames: [cat, dog]\n",
    "mapping": "path: .\ntrain: [images/train]\nval: images/val\nnames: {0: cat, 1: dog}\n",
    "a folder up": "train: ../images/train\nval: ../images/val\nnames: [cat, dog]\nnc: 2\n",
    "listing": "train: train.txt\nval: images/val\nnames: [cat, dog]\n",
    "only names": "names: [cat, dog]\n",
}


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_yolo_layouts(tmp_path: Path, text: str) -> None:
    root = tmp_path / "y" / "set"
    yolo(root, "train", "a", "1 0.5 0.5 0.2 0.5")
    yolo(root, "val", "b", "0 0.5 0.5 0.2 0.5")
    (root / "data.yaml").write_text(text)
    (root / "train.txt").write_text("./images/train/a.png\n")
    for i, source in enumerate((root, root / "data.yaml")):
        summary = from_yolo(source, tmp_path / f"c{i}")
        assert summary.classes == ("cat", "dog")
        assert summary.objects == summary.images == {"train": 1, "val": 1}


def test_yolo_roboflow_layout_takes_each_split_once(tmp_path: Path) -> None:
    root = tmp_path / "y"
    for split in ("train", "valid"):
        image(root / split / "images" / "sub" / "a.png")
        label = root / split / "labels" / "sub" / "a.txt"
        label.parent.mkdir(parents=True)
        label.write_text("0 0.5 0.5 0.2 0.5")
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [cat]\n")
    summary = from_yolo(root, tmp_path / "c")
    assert summary.objects == {"train": 1, "val": 1}
    assert (tmp_path / "c/val2017/sub/a.png").is_file()
    renamed = from_yolo(root, tmp_path / "d", splits={"train": "train", "valid": "train"})
    assert renamed.images == {"train": 2}
    assert [i["file_name"] for i in coco_tree(tmp_path / "d")["images"]] == [
        "sub/a.png",
        "sub/a-2.png",
    ]


def test_the_format_that_a_folder_seems_to_have_is_told(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no class names; .* the format coco, not yolo$"):
        convert(tiny_data, tmp_path / "yolo", source_format="yolo")
    convert(tiny_data, tmp_path / "yolo", source_format="coco", target_format="yolo")
    with pytest.raises(DataError, match=r"no train split found; .* the format yolo, not coco$"):
        convert(tmp_path / "yolo", tmp_path / "new", source_format="coco")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", "cannot be read as YAML"),
        ("- a", "expected keys"),
        ("train: images/train", "no class names"),
        ("names: {1: cat}", "without gaps"),
        ("names: [cat]", "no images found"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_yolo_refusals(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        from_yolo(tmp_path, tmp_path / "out")


def test_images_that_exif_turns_are_measured_upright(tmp_path: Path) -> None:
    """A PNG says in a chunk of its own that it is to be turned by a quarter."""
    yolo(tmp_path / "yolo", "train", "a", "0 0.5 0.5 0.2 0.1")
    path = tmp_path / "yolo/images/train/a.png"
    chunk = b"eXIfMM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    length, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    data = path.read_bytes()
    path.write_bytes(data[:33] + length + chunk + check + data[33:])
    from_yolo(tmp_path / "yolo", tmp_path / "coco", classes=["cat"])
    (entry,) = coco_tree(tmp_path / "coco")["images"]
    assert (entry["height"], entry["width"]) == read_image(path).shape[:2]


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_images_are_measured_in_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_threads: Any, name: str
) -> None:
    stems = [f"{i}{'a' * i}" for i in range(9)]
    for stem in stems:
        voc(tmp_path / "voc", stem, voc_object("cat", 1, 1, 20, 20))
        yolo(tmp_path / "yolo", "train", stem, "0 0.5 0.5 0.2 0.5")
    seen = []

    def looked(path: Path) -> ImageFacts:
        seen.append(threading.current_thread())
        return look_at(path)

    monkeypatch.setattr(f"oculox.datasets.formats.{name}.look_at", looked)
    set_threads(2)
    summary = convert(tmp_path / name, tmp_path / "c", source_format=name, classes=["cat"])
    assert (summary.objects, summary.faults) == ({"train": 9}, ())
    assert [Path(i["file_name"]).stem for i in coco_tree(tmp_path / "c")["images"]] == stems
    assert len(seen) == 9
    assert threading.main_thread() not in seen


def test_label_path_replaces_the_last_images_folder() -> None:
    assert label_path(Path("images/x/images/a.b.jpg")) == Path("images/x/labels/a.b.txt")
    assert label_path(Path("photos/a.jpg")) == Path("photos/a.txt")


def test_coco_to_yolo_and_back_keeps_boxes_and_bytes(tmp_path: Path) -> None:
    source = tmp_path / "demo"
    write_demo(source, train=12, val=4, size=(200, 150))
    to_yolo = convert(source, tmp_path / "y", source_format="coco", target_format="yolo")
    assert to_yolo.faults == () or set(count_faults(to_yolo.faults)) == {"box-tiny"}
    back = from_yolo(tmp_path / "y", tmp_path / "c")
    assert (back.images, back.objects, back.classes) == (
        to_yolo.images,
        to_yolo.objects,
        to_yolo.classes,
    )
    for split in ("train", "val"):
        first, second = coco_tree(source, split), coco_tree(tmp_path / "c", split)
        assert [c["name"] for c in first["categories"]] == [c["name"] for c in second["categories"]]
        assert first["images"] == second["images"]
        rows = [
            [(a["image_id"], a["category_id"]) for a in t["annotations"]] for t in (first, second)
        ]
        assert rows[0] == rows[1]
        np.testing.assert_allclose(boxes(source, split), boxes(tmp_path / "c", split), atol=2e-3)
        for image in first["images"]:
            name = f"{split}2017/{image['file_name']}"
            assert (tmp_path / "c" / name).read_bytes() == (source / name).read_bytes()
    lines = [p.read_text() for p in (tmp_path / "y/labels/train").iterdir()]
    assert len(lines) == 12


def test_coco_crowds_go_to_coco_and_not_to_yolo(tmp_path: Path) -> None:
    write_demo(tmp_path / "d", train=6, val=1, size=(200, 150))
    path = tmp_path / "d/annotations/instances_train2017.json"
    tree = json.loads(path.read_text())
    tree["annotations"][0]["iscrowd"] = 1
    tree["annotations"][1]["category_id"] = 99
    path.write_text(json.dumps(tree))
    options: dict[str, Any] = {"source_format": "coco", "splits": {"train": "test"}}
    coco = convert(tmp_path / "d", tmp_path / "c", **options)
    yolo = convert(tmp_path / "d", tmp_path / "y", target_format="yolo", **options)
    assert coco.objects == yolo.objects == {"test": len(tree["annotations"]) - 2}
    assert count_faults(coco.faults) == {"category-unknown": 1}
    assert [a["iscrowd"] for a in coco_tree(tmp_path / "c", "test")["annotations"]][:2] == [1, 0]
    lines = "".join(p.read_text() for p in (tmp_path / "y/labels/test").iterdir()).splitlines()
    assert len(lines) == len(tree["annotations"]) - 2
    one = convert(tmp_path / "d", tmp_path / "one", classes=["fish"], source_format="coco")
    assert one.classes == ("fish",)
    with pytest.raises(DataError, match="no test split"):
        convert(tmp_path / "d", tmp_path / "no", source_format="coco", splits={"test": "test"})


def test_symlinks_point_to_the_source(tmp_path: Path) -> None:
    voc(tmp_path / "v", "a", voc_object("cat", 1, 1, 20, 20))
    from_voc(tmp_path / "v", tmp_path / "c", mode="symlink")
    link = tmp_path / "c/train2017/a.jpg"
    assert link.is_symlink()
    assert link.resolve() == (tmp_path / "v/JPEGImages/a.jpg").resolve()


def test_a_conversion_is_whole_or_absent(tmp_path: Path) -> None:
    voc(tmp_path / "v", "a", voc_object("cat", 1, 1, 20, 20))
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="used already holds files"):
        from_voc(tmp_path / "v", used)
    assert [p.name for p in used.iterdir()] == ["mine.txt"]
    (tmp_path / "v/JPEGImages/a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"nothing could be converted; the first fault: .*a\.jpg"):
        from_voc(tmp_path / "v", tmp_path / "c")
    with pytest.raises(DataError, match="not a Pascal VOC dataset"):
        from_voc(tmp_path, tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["used", "v"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": {"train": "dev"}}, "not dev"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"classes": [""]}, "different names"),
        ({"skip_difficult": True, "source_format": "yolo"}, "only Pascal VOC"),
        ({"source_format": "csv"}, "source_format must be one of voc, yolo, coco, got 'csv'"),
        ({"target_format": "voc"}, "target_format must be one of coco, yolo, got 'voc'"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(tmp_path, tmp_path / "c", **{"source_format": "voc", **options})


def test_bccd(shared: Path, tmp_path: Path) -> None:
    source = shared / "bccd" / "BCCD"
    summary = from_voc(source, tmp_path / "c")
    assert summary.classes == ("Platelets", "RBC", "WBC")
    assert summary.images == {"train": 205, "val": 87, "test": 72}
    # 4888 boxes, of which two are single clicks.
    assert sum(summary.objects.values()) == 4886
    assert [(f.code, Path(f.file).name) for f in summary.faults] == [
        ("box-empty", "BloodImage_00343.xml"),
        ("box-empty", "BloodImage_00338.xml"),
    ]
    for split, count in summary.images.items():
        index = load_coco(
            tmp_path / f"c/annotations/instances_{split}2017.json", tmp_path / f"c/{split}2017"
        )
        assert (len(index), len(index.all_boxes)) == (count, summary.objects[split])
        for i in (0, count - 1):
            original = source / "JPEGImages" / index.file_name(i)
            assert index.image_path(i).read_bytes() == original.read_bytes()
    yolo_summary = from_voc(source, tmp_path / "y", target_format="yolo", mode="symlink")
    assert yolo_summary.objects == summary.objects
    assert len(list((tmp_path / "y/labels/val").iterdir())) == 87
