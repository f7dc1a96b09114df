"""Any number of images into Parquet files, in this process."""

import io
import json
import pickle
import shutil
import sys

import cv2
import numpy as np
import pytest

from oculox.addresses import Address, AddressError
from oculox.errors import DataError, MissingExtraError, OculoxError, UsageError
from oculox.predict.many import predict_parts
from oculox.predict.on_ray import worker_shares
from oculox.predict.parquet import PartWorker
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import list_images
from oculox.predict.table import predict_table, table_schema
from red_images import RedBackend, red_image, save_image, save_red_images

pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")


@pytest.fixture
def images(tmp_path):
    """Seven images and one that is none, in a folder."""
    return save_red_images(tmp_path / "images", 7, step=10, bad="3b.png")


@pytest.fixture
def run(images, tmp_path):
    """Runs with parts of three images; `settings` are the model's."""

    def call(sources=(), *, settings=None, part_size=3, **options):
        output = options.setdefault("output", tmp_path / "out")
        opened = Pipeline(RedBackend(), batch=2), settings or {"model": "red", "imgsz": (64, 96)}
        return predict_parts(
            PartWorker(lambda: opened, output),
            [str(source) for source in sources or [images]],
            part_size=part_size,
            **options,
        )

    return call


def rows(folder):
    return pq.read_table(folder).to_pylist()


def test_the_columns_are_a_promise():
    assert [(field.name, str(field.type), field.nullable) for field in table_schema()] == [
        ("image", "string", False),
        ("width", "int32", True),
        ("height", "int32", True),
        ("boxes", "list<item: list<item: float>>", True),
        ("scores", "list<item: float>", True),
        ("class_ids", "list<item: int32>", True),
        ("names", "list<item: string>", True),
        ("truncated", "bool", True),
        ("error", "string", True),
    ]


def test_every_image_is_a_row(run, images, tmp_path):
    told = []
    summary = run(progress=lambda done, total: told.append((done, total)))
    assert (summary.images, summary.parts, summary.kept_parts) == (8, 3, 0)
    assert (summary.unreadable, summary.detections, summary.ok) == (1, 7, True)
    assert summary.images_per_second > 0
    assert told == [(3, 8), (6, 8), (8, 8)]
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert names[2:] == ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
    assert names[:2] == ["_images.parquet", "_manifest.json"], "which readers of folders leave out"
    schemas = [pq.read_schema(path) for path in summary.output.glob(summary.predictions.name)]
    assert all(schema.equals(table_schema()) for schema in schemas)
    found = rows(tmp_path / "out")
    assert [row["image"] for row in found] == [str(path) for path in sorted(images.iterdir())]
    bad = found.pop(4)
    assert bad == {
        "image": str(images / "3b.png"), "width": None, "height": None, "boxes": [], "scores": [],
        "class_ids": [], "names": [], "truncated": False, "error": bad["error"],
    }  # fmt: skip
    assert bad["error"].startswith(f"{images / '3b.png'}: ")
    for row, box in zip(found, range(0, 70, 10), strict=True):
        assert (row["width"], row["height"]) == (120, 48)
        assert row["boxes"] == [pytest.approx([box, 12, box + 20, 30], abs=2)]
        assert row["scores"] == pytest.approx([0.9])
        assert (row["class_ids"], row["names"]) == ([0], ["square"])
        assert (row["truncated"], row["error"]) == (False, None)


def test_a_table_holds_exactly_what_was_found(images):
    paths = [str(images / f"{i}.png") for i in range(7)]
    pipeline = Pipeline(RedBackend(), batch=1)
    table = predict_table(pipeline, paths).to_pylist()
    for row, path in zip(table, paths, strict=True):
        [found] = pipeline([cv2.imread(path)])
        assert np.array_equal(np.float32(row["boxes"]), found.xyxy)
        assert np.array_equal(np.float32(row["scores"]), found.scores)
    assert predict_table(pipeline, []).schema.equals(table_schema())


def test_an_image_without_its_end_is_marked(tmp_path):
    data = save_image(tmp_path / "whole.jpg", red_image(200, 300)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:-40])
    paths = [str(tmp_path / name) for name in ("whole.jpg", "cut.jpg")]
    table = predict_table(Pipeline(RedBackend()), paths)
    assert table["truncated"].to_pylist() == [False, True]
    assert table["error"].null_count == 2


def test_an_interrupted_run_goes_on(run, tmp_path):
    whole = tmp_path / "whole"
    run(output=whole)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt)
    out = tmp_path / "out"
    assert len(list(out.glob("part-*"))) == 1
    before = (out / "part-000000.parquet").stat()
    summary = run(resume=True)
    assert (summary.images, summary.kept_parts, summary.detections) == (8, 1, 7)
    assert (out / "part-000000.parquet").stat() == before
    assert rows(out) == rows(whole)
    again = run(resume=True)
    assert (again.kept_parts, again.unreadable, again.images_per_second) == (3, 1, 0)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "foreign", "another part"])
def test_parts_that_are_not_whole_are_written_again(run, tmp_path, damage):
    run()
    part = tmp_path / "out/part-000001.parquet"
    whole, expected = part.read_bytes(), rows(tmp_path / "out")
    if damage == "gone":
        part.unlink()
    elif damage == "foreign":
        pq.write_table(pa.table({"a": [1, 2, 3]}), part)
    elif damage == "another part":
        part.write_bytes((tmp_path / "out/part-000002.parquet").read_bytes())
    else:
        part.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    assert run(resume=True).kept_parts == 2
    assert rows(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"settings": {"model": "blue", "imgsz": (64, 96)}}, "model red, not blue"),
        ({"settings": {"model": "red", "imgsz": (64, 64)}}, r"imgsz \[64, 96\], not \[64, 64\]"),
        ({"settings": {"model": "red", "imgsz": (64, 96), "conf": 0.1}}, "conf None, not 0.1"),
        ({"part_size": 2}, "part_size 3, not 2"),
        ({"recursive": True}, "recursive False, not True"),
        ({"sources": ["other"]}, "sources"),
    ],
)
def test_a_run_goes_on_with_the_same_settings_alone(run, tmp_path, changes, key):
    run()
    with pytest.raises(UsageError, match=f"made with {key}.*pass `overwrite`"):
        run(resume=True, **changes)
    assert len(rows(tmp_path / "out")) == 8


def test_an_occupied_folder(run, images, tmp_path):
    out = tmp_path / "out"
    run(part_size=2)
    with pytest.raises(UsageError, match="parts of another run; pass `resume` to continue"):
        run()
    assert run([images / "0.png"], overwrite=True).parts == 1
    assert [row["image"] for row in rows(out)] == [str(images / "0.png")]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    for choice in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UsageError, match="already holds files"):
            run(output=tmp_path / "mine", **choice)
    with pytest.raises(UsageError, match="pass one"):
        run(resume=True, overwrite=True)
    with pytest.raises(UsageError, match="part_size must be at least 1, got 0"):
        run(part_size=0, resume=True)


def test_a_run_that_was_killed_while_it_listed_the_images(run, tmp_path):
    (tmp_path / "out" / "._images.parquet-x7f").mkdir(parents=True)
    (tmp_path / "out" / "_images.parquet").write_bytes(b"half")
    assert run(resume=True).images == 8
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(UsageError, match="already holds files"):
        run(resume=True, output=tmp_path / "other")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"images": "many", "parts": 1}'])
def test_a_damaged_manifest(run, tmp_path, text):
    run()
    (tmp_path / "out/_manifest.json").write_text(text)
    with pytest.raises(OculoxError, match=r"_manifest.json: cannot be read .*pass `overwrite`"):
        run(resume=True)
    assert run(overwrite=True).ok


def test_the_manifest_tells_what_was_run(run, images):
    manifest = json.loads(run(resume=True).manifest.read_text("utf-8"))
    assert manifest.pop("oculox")
    assert manifest == {
        "format": 1, "sources": [str(images)], "recursive": False, "part_size": 3,
        "settings": {"model": "red", "imgsz": [64, 96]}, "images": 8, "parts": 3,
    }  # fmt: skip


def test_a_refused_run_leaves_nothing(run, images, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        run([images, tmp_path / "none"], output=tmp_path / "new/out")
    assert not (tmp_path / "new").exists()


def test_from_an_address_to_an_address(run, images, s3):
    def stored():
        keys = [key for key in s3.keys("bucket") if key.startswith("out/part-")]
        return [
            row for k in keys for row in pq.read_table(io.BytesIO(s3.get("bucket", k))).to_pylist()
        ]

    s3.put_folder("bucket", images, below="images/")
    where = {"sources": ["s3://bucket/images"], "output": Address("s3://bucket/out")}
    from s3_server import Fault

    s3.faults.append(Fault("denied", "/bucket/images/4.png", ("GET",)))
    with pytest.raises(AddressError, match=r"4\.png: access is denied"):
        run(**where)
    assert len(stored()) == 3, "the part without that image"
    s3.faults.clear()
    summary = run(**where, resume=True)
    assert (summary.images, summary.unreadable, summary.kept_parts) == (8, 1, 1)
    assert [row["image"] for row in stored()] == [
        f"s3://bucket/images/{path.name}" for path in sorted(images.iterdir())
    ]
    assert [len(row["scores"]) for row in stored()] == [1, 1, 1, 1, 0, 1, 1, 1]
    assert run(**where, resume=True).kept_parts == 3
    # The cache of this machine has all of these images.
    s3.client().put_object(
        Bucket="bucket", Key="images/5.png", Body=(images / "3b.png").read_bytes()
    )
    changed = predict_table(
        Pipeline(RedBackend()), [f"s3://bucket/images/{n}.png" for n in (5, 6, 9)]
    )
    assert [len(scores) for scores in changed["scores"]] == [0, 1, 0]
    assert changed["error"].to_pylist()[2] == "s3://bucket/images/9.png: no such image"
    with pytest.raises(UsageError, match="pass `resume` to continue"):
        run(**where)
    run(["s3://bucket/images/0.png"], output=where["output"], overwrite=True)
    assert [row["image"] for row in stored()] == ["s3://bucket/images/0.png"]
    with pytest.raises(UsageError, match="already holds files"):
        run(output=Address("s3://bucket/images"))
    with pytest.raises(DataError, match="no images in this folder"):
        run(["s3://bucket/out"], output=Address("s3://bucket/new"))


def test_images_are_listed_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.JPG", "d/2.png", "d/1.png", "c/x.jpeg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in/notes.txt").touch()
    top = [str(tmp_path / "in" / name) for name in ("a.JPG", "b.png")]
    assert list(list_images(["in"])) == top
    below = [str(tmp_path / "in" / name) for name in ("c/x.jpeg", "d/1.png", "d/2.png")]
    assert list(list_images(["in"], recursive=True)) == [*top, *below]
    assert list(list_images(["in/d/*.png", "in", "in/b.png"])) == [*below[1:], *top]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], UsageError, "no sources given"),
        (["-"], UsageError, "stdin: expected images"),
        (["0"], UsageError, "camera-0: expected images, this is a camera"),
        (["clip.mp4"], UsageError, "clip.mp4: expected images, this is a video"),
        (["none.png"], DataError, "no such file"),
        (["empty"], DataError, "no images in this folder .*only with `recursive`"),
    ],
)
def test_what_cannot_be_listed(tmp_path, monkeypatch, given, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    save_image(tmp_path / "empty/deep/a.png", red_image())
    with pytest.raises(error, match=message):
        list(list_images(given))


def test_a_folder_that_cannot_be_listed(tmp_path):
    save_image(tmp_path / "a.png", red_image())
    save_image(tmp_path / "gone/b.png", red_image())
    found = list_images([tmp_path], recursive=True)
    next(found)
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(DataError, match="gone: this folder cannot be listed"):
        next(found)


def test_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oculox\[parquet\]'") as raised:
        predict_table(Pipeline(RedBackend()), [])
    moved = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 - our own
    assert (str(moved), moved.exit_code) == (str(raised.value), 2)


def node(cpus, gpus=0):
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


@pytest.mark.parametrize(
    ("machines", "number", "gpu", "expected"),
    [
        ([node(2)], None, True, (1, 2, 0)),
        ([node(2)], 2, True, (2, 1, 0)),
        ([node(2)], 3, True, (3, 0.6666, 0)),
        ([node(16), node(8)], None, True, (2, 8, 0)),
        ([node(16), node(8)], 3, True, (3, 4, 0)),
        ([node(16, 4), node(64)], None, True, (4, 4, 1)),
        ([node(16, 4), node(64)], None, False, (2, 16, 0)),
        ([node(16, 1)], 3, True, (3, 5, 0.3333)),
        ([node(16, 4)], 2, True, (2, 8, 1)),
        ([{}, node(4)], None, True, (1, 4, 0)),
    ],
)
def test_workers_share_the_machines(machines, number, gpu, expected):
    found, share = worker_shares(machines, number, gpu=gpu)
    assert (found, share["num_cpus"], share["num_gpus"]) == expected


def test_a_cluster_without_cpus():
    with pytest.raises(OculoxError, match="no machine with CPUs"):
        worker_shares([{"GPU": 1}], None, gpu=True)
