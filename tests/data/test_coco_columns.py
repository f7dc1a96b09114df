"""The fast reader against the careful one, and what is kept of large files."""

import dataclasses
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_coco import write_coco

from oculox.data import coco_columns
from oculox.data.coco import load_coco
from oculox.data.coco_columns import CocoColumns, read_columns
from oculox.data.coco_scan import scan_coco

Change = Callable[[dict[str, Any]], object]


def flat(value: Any) -> Any:
    """Columns as plain values, with the type of each array."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tolist()
    return {k: flat(v) for k, v in vars(value).items()} if hasattr(value, "__dict__") else value


def edited(folder: Path, change: Change) -> Path:
    annotations, _ = write_coco(folder)
    tree = json.loads(annotations.read_text())
    change(tree)
    annotations.write_text(json.dumps(tree))
    return annotations


def placed(tree: dict[str, Any], **changes: Any) -> None:
    """Put the images into a shard of 3000 bytes."""
    places = [[0, 512, 100, 7], [0, 1536, 1464, 2**32 - 1], [1, 512, 0, 0]]
    tree["shard_bytes"] = [3000, 512]
    for image, place in zip(tree["images"], places, strict=True):
        image["shard"] = place
    tree["images"][1] |= {k: v for k, v in changes.items() if k == "shard"}
    tree |= {k: v for k, v in changes.items() if k != "shard"}


def first(tree: dict[str, Any]) -> Any:
    return tree["annotations"][0]


PLAIN: list[Change] = [
    lambda t: None,
    lambda t: t.update(annotations=[]),
    lambda t: t["annotations"].reverse(),
    lambda t: t["images"].reverse(),
    lambda t: t["categories"].reverse(),
    lambda t: t["categories"][0].update(name=7),
    lambda t: t["categories"].append({"id": 90, "name": "kind1"}),
    lambda t: t["images"][1].update(height=64.0, license=3, url="\u00fc"),
    lambda t: [t["images"][0].update(id="a"), *(a.update(image_id="a") for a in t["annotations"])],
    lambda t: first(t).update(bbox=[-5, 2.5, 10**20, -4], area=None),
    lambda t: first(t).update(area=3, iscrowd=1, segmentation=[[1, 2.5]], note=None),
    lambda t: first(t).pop("iscrowd"),
    lambda t: first(t).update(iscrowd=None, id=None),
    lambda t: first(t).pop("id"),
    lambda t: first(t).update(id=2),
    placed,
    lambda t: t["images"][0].update(shard=[1, 2, 3, 4]),
]


@pytest.mark.parametrize("change", PLAIN)
def test_what_is_read_fast_is_what_the_scan_finds(tmp_path: Path, change: Change) -> None:
    path = edited(tmp_path, change)
    columns = read_columns(path)
    assert columns is not None
    assert flat(columns) == flat(CocoColumns.from_scan(scan_coco(path)))


ODD: list[Change] = [
    lambda t: t.pop("images"),
    lambda t: t.update(images=[]),
    lambda t: t.update(categories=[]),
    lambda t: t["images"][0].update(id=2),
    lambda t: t["images"][0].update(id=1.0),
    lambda t: t["images"][0].update(id=True),
    lambda t: t["images"][0].update(width=0),
    lambda t: t["images"][0].update(width=60.5),
    lambda t: t["images"][0].update(width=2**31),
    lambda t: t["images"][0].pop("height"),
    lambda t: t["images"][0].update(file_name=""),
    lambda t: t["images"][0].update(file_name="../0.png"),
    lambda t: t["images"][0].update(file_name="\ud800"),
    lambda t: t["categories"][0].update(id=2),
    lambda t: t["categories"][0].update(id=1.0),
    lambda t: first(t).update(image_id=99),
    lambda t: first(t).update(image_id="1"),
    lambda t: first(t).update(image_id=1.0),
    lambda t: first(t).update(category_id=9),
    lambda t: first(t).update(category_id=1.0),
    lambda t: first(t).update(bbox=[1, 2, 3]),
    lambda t: first(t).update(bbox=[1, 2, 3, True]),
    lambda t: first(t).update(bbox=[1, 2, 3, float("nan")]),
    lambda t: first(t).update(bbox=[1, 2, 1e308, 1e308]),
    lambda t: first(t).update(area=float("inf")),
    lambda t: first(t).update(area=-1e301),
    lambda t: first(t).update(area="9"),
    lambda t: first(t).update(iscrowd="no"),
    lambda t: t["annotations"].append(3),
    lambda t: placed(t, shard=[0, 512, 100]),
    lambda t: placed(t, shard=[0, 1537, 1464, 7]),
    lambda t: placed(t, shard=[2, 0, 1, 7]),
    lambda t: placed(t, shard=[-1, 0, 1, 7]),
    lambda t: placed(t, shard=[0, -1, 1, 7]),
    lambda t: placed(t, shard=[0, 0, 1, 2**32]),
    lambda t: placed(t, shard=[0, 0, 1.0, 7]),
    lambda t: placed(t, shard=["../0", 0, 1, 7]),
    lambda t: placed(t, shard=None),
    lambda t: placed(t, shard_bytes="3000"),
]


@pytest.mark.parametrize("change", ODD)
def test_the_rest_is_left_to_the_scan(tmp_path: Path, change: Change) -> None:
    assert read_columns(edited(tmp_path, change)) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xef\xbb\xbf{}", b'{"images": "\xff"}'])
def test_what_is_no_coco_file_is_left_to_the_scan(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.json").write_bytes(content)
    assert read_columns(tmp_path / "labels.json") is None
    assert read_columns(tmp_path / "none.json") is None
    assert read_columns(tmp_path) is None


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Small files are kept too; gives the only kept file."""
    monkeypatch.setattr(coco_columns, "KEPT_FROM", 0)
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "cache"))

    def only() -> Path:
        [path] = (tmp_path / "cache/annotations").iterdir()
        return path

    return only


def test_a_kept_file_is_read_in_place_of_the_annotations(
    tmp_path: Path, kept: Callable[[], Path]
) -> None:
    path = edited(tmp_path, PLAIN[0])
    columns = read_columns(path)
    assert columns is not None
    before = kept().stat()
    assert flat(read_columns(path)) == flat(columns)
    assert kept().stat() == before
    # Written by other means, so that one can tell where it came from.
    stat = path.stat()
    facts = [2, str(path.resolve()), stat.st_size, stat.st_mtime_ns, coco_columns._checksum(path)]
    renamed = dataclasses.replace(columns, class_names=("seen", "again"))
    coco_columns._keep(kept(), facts, renamed)
    again = read_columns(path)
    assert again is not None
    assert again.class_names == ("seen", "again")
    index = load_coco(path, tmp_path / "images")
    assert index.class_names == ("seen", "again")
    with pytest.raises(ValueError, match="read-only"):
        index.truth.xywh[:] = 0


def test_a_damaged_kept_file_is_made_anew(tmp_path: Path, kept: Callable[[], Path]) -> None:
    path = edited(tmp_path, PLAIN[0])
    expected = flat(read_columns(path))
    content = kept().read_bytes()
    places = np.random.default_rng(0).integers(0, len(content), 25)
    damaged = [content[:p] + bytes([content[p] ^ 4]) + content[p + 1 :] for p in places]
    for wrong in (b"", content[:10], content[:-1], content + b" ", *damaged):
        kept().write_bytes(wrong)
        assert flat(read_columns(path)) == expected
        assert kept().read_bytes() == content


def test_a_changed_file_is_read_anew(tmp_path: Path, kept: Callable[[], Path]) -> None:
    path = edited(tmp_path, PLAIN[0])
    read_columns(path)
    stat = path.stat()
    # The same size at the same time; only the content tells.
    path.write_text(path.read_text().replace("kind1", "kindA"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    columns = read_columns(path)
    assert columns is not None
    assert columns.class_names == ("kindA", "kind2")
    # The same content in another place has a file of its own.
    other = tmp_path / "other.json"
    other.write_bytes(path.read_bytes())
    read_columns(other)
    assert len(list((tmp_path / "cache/annotations").iterdir())) == 2
    path.write_text("{}")
    assert read_columns(path) is None


def test_readers_at_the_same_time(tmp_path: Path, kept: Callable[[], Path]) -> None:
    path = edited(tmp_path, PLAIN[0])
    with ThreadPoolExecutor(8) as pool:
        results = [flat(one) for one in pool.map(read_columns, [path] * 64)]
    assert all(one == results[0] for one in results)
    assert flat(read_columns(path)) == results[0]
    assert kept().parent.exists()


def test_without_a_place_to_keep_it_a_file_is_read_all_the_same(
    tmp_path: Path, kept: Callable[[], Path]
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    path = edited(tmp_path, PLAIN[0])
    assert read_columns(path) is not None
    assert (tmp_path / "cache").is_file()


def test_small_files_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "cache"))
    assert read_columns(edited(tmp_path, PLAIN[0])) is not None
    assert not (tmp_path / "cache").exists()
