"""`oculox data pack`: datasets in tar shards are read as their files are."""

import json
import os
import pickle
import shutil
import tarfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from test_formats import image, voc, voc_list, voc_object
from typer.testing import CliRunner

from oculox.addresses import Address
from oculox.cli.data import app
from oculox.config.schema import AugmentConfig, DataConfig, InputConfig
from oculox.data.cache import FileImages, build_images
from oculox.data.coco import load_coco
from oculox.data.faults import BadImages
from oculox.data.image_watch import watch_images
from oculox.data.loader import EvalLoader, TrainLoader
from oculox.data.shards import ShardImage
from oculox.data.train_set import TrainSet
from oculox.datasets.check import check_data
from oculox.datasets.clean import write_clean
from oculox.datasets.formats.convert import convert
from oculox.datasets.pack import pack_data
from oculox.datasets.splits import load_splits
from oculox.errors import DataError, OculoxError, UsageError

INPUT = InputConfig(size=(64, 96))
SMALL = 0.0205
"""Two records of a tar archive."""


def load(root, split="train"):
    return load_splits(DataConfig(root=root), split)[0]


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def shards(tiny_data, tmp_path_factory):
    """The demo dataset in shards of a few images."""
    root = tmp_path_factory.mktemp("pack") / "shards"
    assert pack_data(tiny_data, root, shard_mb=SMALL)["train"].shards > 2
    return root


@pytest.fixture
def copy(shards, tmp_path):
    """Shards to damage."""
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def train_batches(index, *, workers=0, cache="none", folder=None):
    images = build_images(index, cache=cache, input_config=INPUT, folder=folder)
    train_set = TrainSet(
        index, input_config=INPUT, augment=AugmentConfig(), max_labels=50, seed=3, images=images
    )
    loader = TrainLoader(train_set, batch=4, seed=3, workers=workers)
    try:
        return [*islice(loader.iterate(0, mosaic=True), 2), *loader.iterate(1, mosaic=False)]
    finally:
        loader.close()


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.images, b.images)
        assert all(torch.equal(x, y) for x, y in zip(a.targets, b.targets, strict=True))
        assert a.image_ids == b.image_ids
        assert not any(a.faults + b.faults)


@pytest.mark.parametrize(("workers", "cache"), [(0, "none"), (2, "none"), (0, "ram"), (0, "disk")])
def test_training_samples_are_those_of_the_files(tiny_data, shards, tmp_path, workers, cache):
    plain, packed = load(tiny_data), load(shards)
    assert not len(plain.places)
    assert isinstance(packed.image_file(0), ShardImage)
    ours = train_batches(packed, workers=workers, cache=cache, folder=tmp_path)
    assert_same(ours, train_batches(plain, cache=cache, folder=tmp_path))


def test_evaluation_batches_are_those_of_the_files(tiny_data, shards):
    ours, theirs = (
        list(EvalLoader(load(root, "val"), input_config=INPUT, batch=4))
        for root in (shards, tiny_data)
    )
    assert_same(ours, theirs)


def test_voc_keeps_its_ids(tmp_path):
    for name in ("a.b", "c"):
        voc(tmp_path / "voc", name, voc_object("cat", 11, 21, 30, 60))
    voc_list(tmp_path / "voc", "train", ["a.b", "c"])
    pack_data(tmp_path / "voc", tmp_path / "out")
    plain, packed = load(tmp_path / "voc"), load(tmp_path / "out")
    assert packed.image_ids == plain.image_ids
    assert packed.class_names == plain.class_names
    for i in range(2):
        assert packed.file_name(i) == plain.file_name(i)
        assert packed.image_file(i).read_bytes() == plain.image_path(i).read_bytes()
        np.testing.assert_array_equal(packed.boxes(i), plain.boxes(i))


def test_shards_are_bounded_tar_archives_in_webdataset_layout(tiny_data, tmp_path):
    summary = pack_data(tiny_data, tmp_path / "out", shard_mb=SMALL)["train"]
    assert summary.index == tmp_path / "out/annotations/instances_train2017.json"
    tree = json.loads(summary.index.read_text())
    source = json.loads((tiny_data / "annotations/instances_train2017.json").read_text())
    files = sorted(summary.folder.iterdir())
    assert [f.stat().st_size for f in files] == tree["shard_bytes"]
    assert max(tree["shard_bytes"]) <= 20_480
    assert summary.shards == len(files)
    assert summary.bytes == sum(tree["shard_bytes"])
    members = []
    for number, file in enumerate(files):
        with tarfile.open(file) as tar:
            members += [(number, m, tar.extractfile(m).read()) for m in tar]
    assert len(members) == 2 * len(tree["images"])
    for i, entry in enumerate(tree["images"]):
        (shard, picture, data), (_, text, sample) = members[2 * i : 2 * i + 2]
        assert [picture.name, text.name] == [f"{i:09d}.jpg", f"{i:09d}.json"]
        place = entry.pop("shard")
        assert place[:3] == [shard, picture.offset_data, picture.size]
        assert data == (tiny_data / "train2017" / entry["file_name"]).read_bytes()
        mine = [a for a in source["annotations"] if a["image_id"] == entry["id"]]
        assert json.loads(sample) == {**entry, "annotations": mine}
    del tree["shard_bytes"]
    assert tree == source


def test_packing_again_gives_the_same_files(tiny_data, shards, tmp_path):
    """From the files and from the shards themselves."""
    for source in (tiny_data, shards):
        pack_data(source, tmp_path / source.name, shard_mb=SMALL)
        for file in (*shards.rglob("*.tar"), *shards.rglob("*.json")):
            twin = tmp_path / source.name / file.relative_to(shards)
            assert twin.read_bytes() == file.read_bytes()


def test_any_name_makes_a_sample_and_a_large_image_has_its_own_shard(tmp_path):
    for name in ("a/x.y.JPG", "b/x.y.JPG", "plain.png"):
        image(tmp_path / "images" / name, hw=(80, 100))
    (tmp_path / "images/plain.png").rename(tmp_path / "images/plain")
    names = ("a/x.y.JPG", "b/x.y.JPG", "plain")
    tree = {
        "categories": [{"id": 1, "name": "thing"}],
        "images": [
            {"id": i, "file_name": name, "height": 80, "width": 100} for i, name in enumerate(names)
        ],
        "annotations": [],
    }
    (tmp_path / "labels.json").write_text(json.dumps(tree))
    out = tmp_path / "out"
    pack_data(tmp_path / "labels.json", out, images=tmp_path / "images", shard_mb=0.001)
    found = []
    for number in range(3):
        with tarfile.open(out / f"train2017/shard-{number:06d}.tar") as tar:
            found += tar.getnames()[::2]
    assert found == ["000000000.jpg", "000000001.jpg", "000000002.image"]
    index = load(out)
    for i, name in enumerate(names):
        assert index.image_file(i).read_bytes() == (tmp_path / "images" / name).read_bytes()


def test_shards_can_be_made_files_again(tiny_data, shards, tmp_path):
    convert(shards, tmp_path / "coco", source_format="coco")
    write_clean(check_data(shards), tmp_path / "clean")
    for target in ("coco", "clean"):
        for split in ("train", "val"):
            plain, again = load(tiny_data, split), load(tmp_path / target, split)
            assert not len(again.places)
            for i in range(len(plain)):
                assert again.image_path(i).read_bytes() == plain.image_path(i).read_bytes()
    with pytest.raises(UsageError, match="only files of this machine can be linked to"):
        convert(shards, tmp_path / "links", source_format="coco", mode="symlink")


def open_files():
    return sorted(Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="/proc lists no open files")
def test_reading_opens_no_file_for_good_and_travels_between_processes(shards):
    images = pickle.loads(pickle.dumps(FileImages(load(shards))))  # noqa: S301
    images(0)
    before = open_files()
    assert all(images(i).shape == (72, 96, 3) for i in range(12))
    assert open_files() == before


def edit(root, change):
    """Change the training index."""
    path = root / "annotations/instances_train2017.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def set_place(tree, at, value):
    tree["images"][5]["shard"][at] = value


BROKEN = {
    "another number": (lambda t: set_place(t, 0, 99), "within the"),
    "an offset outside": (lambda t: set_place(t, 1, 10**9), "within the"),
    "a negative offset": (lambda t: set_place(t, 1, -1), "within the"),
    "a path": (lambda t: set_place(t, 0, "../../x"), "within the"),
    "no place": (lambda t: t["images"][5].pop("shard"), "got None"),
    "no sizes": (lambda t: t.update(shard_bytes={"a": 1}), "must be a list of whole numbers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_index_is_refused_by_image(copy, case):
    change, message = BROKEN[case]
    name = load(copy).file_name(5)
    edit(copy, change)
    with pytest.raises(DataError, match=message) as caught:
        load(copy)
    assert str(copy / "annotations/instances_train2017.json") in str(caught.value)
    assert name in str(caught.value) or case == "no sizes"
    assert not check_data(copy, split="train").ok


def test_a_missing_shard_is_refused(copy):
    (copy / "train2017/shard-000001.tar").unlink()
    with pytest.raises(DataError, match=r"1 of its shards are missing .*: shard-000001\.tar"):
        load(copy)
    faults = check_data(copy, split="train", deep=False).faults
    absent = [f for f in faults if f.code == "image-missing"]
    assert absent
    assert all("shard-000001.tar: " in f.message for f in absent)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place[1] + place[2] // 2] ^= 1
    path.write_bytes(data)


DAMAGED = {
    "one bit": (flip, "CRC-32 differs"),
    "cut off": (lambda path, place: os.truncate(path, place[1] + 9), "ends before the image does"),
    "gone": (lambda path, place: path.unlink(), "no such image"),
    "a folder": (lambda path, place: (path.unlink(), path.mkdir()), "cannot read the image"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_shards_are_bad_images(copy, case):
    index = load(copy)
    place = index.places[5].tolist()
    path = copy / f"train2017/shard-{place[0]:06d}.tar"
    change, message = DAMAGED[case]
    change(path, place)
    name = f"{path}: {index.file_name(5)}"
    with pytest.raises(DataError, match=message) as caught:
        FileImages(index)(5)
    assert str(caught.value).startswith(name)
    train_set = TrainSet(
        index,
        input_config=INPUT,
        augment=AugmentConfig(),
        max_labels=50,
        seed=3,
        images=FileImages(index),
    )
    bad = BadImages(12, setting="x")
    batches = list(TrainLoader(train_set, batch=4, seed=3, bad=bad).iterate(0, mosaic=False))
    assert any(fault.startswith(name) for batch in batches for one in batch.faults for fault in one)
    found = [f for f in check_data(copy, split="train").faults if f.severity == "error"]
    assert index.file_name(5) in {f.file for f in found}
    missing = case in ("gone", "a folder")
    assert {f.code for f in found} == {"image-missing" if missing else "image-unreadable"}


def test_damage_is_found_ahead_of_training(copy):
    index = load(copy)
    place = index.places[5].tolist()
    flip(copy / f"train2017/shard-{place[0]:06d}.tar", place)
    found, none = BadImages(1, setting="x"), BadImages(0, setting="y")
    lines = []
    with watch_images((index, found), (load(copy, "val"), none), report=lines.append) as look:
        for _ in range(1000):
            look(())
            if lines:
                break
            time.sleep(0.01)
    [line] = lines
    assert line.startswith("training image left out: ")
    assert f"{index.file_name(5)}: the bytes at {place[1]} are not those" in line


def test_training_and_evaluation_from_an_address_fetch_each_shard_once(shards, s3):
    s3.put_folder("shards", shards)
    here, away = load(shards), load(Address("s3://shards"))
    for workers in (0, 2):
        assert_same(train_batches(away, workers=workers), train_batches(here))
    batches = (
        list(EvalLoader(load(root, "val"), input_config=INPUT, batch=4))
        for root in (Address("s3://shards"), shards)
    )
    assert_same(*batches)
    fetched = [path for method, path in s3.requests if method == "GET" and path.endswith(".tar")]
    assert sorted(fetched) == sorted(
        f"/shards/{p.relative_to(shards).as_posix()}" for p in shards.rglob("*.tar")
    )
    assert check_data("s3://shards", split="val").ok


def test_a_shard_that_is_damaged_on_its_way_is_a_bad_image(shards, s3):
    s3.put_folder("damaged", shards)
    place = load(shards).places[5].tolist()
    key = f"train2017/shard-{place[0]:06d}.tar"
    content = bytearray(s3.get("damaged", key))
    content[place[1]] ^= 1
    s3.client().put_object(Bucket="damaged", Key=key, Body=bytes(content))
    index = load(Address("s3://damaged"))
    with pytest.raises(DataError, match=r"s3://damaged/train2017/shard-\d+\.tar: .*CRC-32 differs"):
        FileImages(index)(5)
    s3.client().delete_object(Bucket="damaged", Key=key)
    with pytest.raises(DataError, match=r"1 of its shards are missing from s3://damaged/train2017"):
        load(Address("s3://damaged"))


def test_shards_larger_than_the_cache_are_refused(shards, s3, monkeypatch):
    s3.put_folder("large", shards)
    load(Address("s3://large"))
    monkeypatch.setenv("OCULOX_CACHE_GB", "0.00001")
    with pytest.raises(DataError, match="set OCULOX_CACHE_GB to more"):
        load_coco(shards / "annotations/instances_train2017.json", Address("s3://large/train2017"))


def test_a_target_in_use_is_left_alone(tiny_data, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="already holds files"):
            pack_data(tiny_data, target, overwrite=overwrite)
    with pytest.raises(UsageError, match="above 0"):
        pack_data(tiny_data, tmp_path / "new", shard_mb=0)
    with pytest.raises(UsageError, match="already holds files"):
        pack_data(tiny_data, tiny_data, overwrite=True)
    assert not (tmp_path / "new").exists()


def test_an_image_that_cannot_be_read_leaves_nothing(tiny_data, tmp_path):
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    path = data / "val2017" / load(data, "val").file_name(2)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot read the image") as caught:
        pack_data(data, tmp_path / "new/out")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_the_command_packs_refuses_and_replaces(tiny_data, tmp_path):
    out = tmp_path / "out"
    result = run("pack", tiny_data, out, "--shard-mb", SMALL)
    assert result.exit_code == 0, result.output
    assert "12 train images" in result.stdout
    assert f"train on it with data.root={out}" in result.stdout
    before = len(list((out / "train2017").iterdir()))
    assert isinstance(run("pack", tiny_data, out).exception, UsageError)
    summary = json.loads(run("pack", tiny_data, out, "--overwrite", "--json").stdout)
    assert summary["output"] == str(out)
    assert summary["splits"]["train"]["shards"] == 1 < before
    assert summary["splits"]["train"]["folder"] == str(out / "train2017")
    assert [p.name for p in (out / "train2017").iterdir()] == ["shard-000000.tar"]
    assert isinstance(run("pack", tmp_path / "none", tmp_path / "x").exception, OculoxError)
