"""`oculox predict`."""

import collections
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest

from oculox import Detector


@pytest.fixture
def images(tiny_data):
    return sorted((tiny_data / "val2017").iterdir())


@pytest.fixture
def predict(oculox, eager_pt, tmp_path):
    def run(*words, output=tmp_path / "out", code=0):
        outcome = oculox("predict", eager_pt, *words, "--output", output, "--device", "cpu")
        assert outcome.code == code, outcome.err
        return outcome

    return run


def entries(folder):
    return json.loads((folder / "predictions.json").read_text("utf-8"))


def test_a_folder(predict, images, tmp_path):
    summary = predict(images[0].parent, "--json").json
    assert summary["images"] == 4
    assert summary["detections"] > 0
    assert summary["unreadable"] == summary["videos"] == []
    found = entries(tmp_path / "out")
    assert [entry["source"] for entry in found] == [str(p) for p in images]
    assert sum(len(entry["detections"]) for entry in found) == summary["detections"]
    for entry in found:
        drawn = cv2.imread(str(tmp_path / "out" / entry["annotated"]))
        assert drawn.shape == (entry["height"], entry["width"], 3)
        for detection in entry["detections"]:
            assert 0.3 <= detection["score"] <= 1
            assert detection["name"] in ("ball", "fish", "leaf")


def test_for_people(predict, images, tmp_path):
    outcome = predict(images[0], "--max-det", 5)
    [entry] = entries(tmp_path / "out")
    table, (count, _) = outcome.out.splitlines()[:-2], outcome.out.splitlines()[-2:]
    assert table[0].split() == ["class", "score", "left", "top", "right", "bottom"]
    for line, found in zip(table[1:], entry["detections"], strict=True):
        name, score, *box = line.split()
        assert (name, float(score)) == (found["name"], round(found["score"], 3))
        assert [float(side) for side in box] == pytest.approx(found["box"], abs=0.06)
    assert re.fullmatch(r"1 image, \d+ detections", count), "one image alone has no speed"
    none = predict(images[0], "--overwrite", "--conf", 1)
    assert "1 image, 0 detections with a score of 1.0 or more (--conf)" in none.out
    several = predict(*images, "--overwrite")
    assert re.search(
        r"^4 images, \d+ detections; median ms per image: decode \d", several.out, re.M
    )
    for line, entry in zip(several.out.splitlines(), entries(tmp_path / "out"), strict=False):
        counts = collections.Counter(found["name"] for found in entry["detections"])
        text = ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing found"
        assert line == f"{entry['source']}: {text}"
    assert f"predictions.json in {tmp_path / 'out'}" in outcome.out


def test_a_long_table_is_cut(predict, images, tmp_path):
    for i in range(30):
        shutil.copy(images[0], tmp_path / f"{i:02}.jpg")
    lines = predict(*sorted(tmp_path.glob("*.jpg")), "--no-draw").out.splitlines()
    assert lines[25] == "... and 5 more in predictions.json"
    assert lines[26].startswith("30 images, ")


def test_without_drawing(predict, images, tmp_path):
    predict(*images, "--no-draw", "--batch", 3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]
    assert len(entries(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("classes", "names"),
    [("fish", {"fish"}), (" fish, 0", {"fish", "ball"}), ("car", set())],
)
def test_only_some_classes(predict, images, tmp_path, classes, names):
    predict(images[0], "--classes", classes)
    found = entries(tmp_path / "out")[0]["detections"]
    assert {detection["name"] for detection in found} == names


@pytest.mark.parametrize("words", [("--tta", "flip"), ("--tta", "full"), ("--tile", 64)])
def test_several_views(predict, images, tmp_path, words):
    predict(images[0], output=tmp_path / "plain")
    predict(images[0], *words, "--tile-overlap", 0.5)
    plain, several = (entries(tmp_path / name)[0]["detections"] for name in ("plain", "out"))
    assert several
    assert several != plain


def test_overwriting_has_to_be_allowed(predict, images, tmp_path):
    predict(images[0])
    assert "pass --overwrite" in predict(images[1], code=2).error
    assert entries(tmp_path / "out")[0]["source"] == str(images[0])
    predict(images[1], "--overwrite")
    assert entries(tmp_path / "out")[0]["source"] == str(images[1])


def test_unreadable_images_are_reported_in_json_too(predict, images, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(images[0].read_bytes()[:100])
    summary = predict(bad, images[1], "--json", code=1).json
    assert summary["images"] == 1
    assert [u["source"] for u in summary["unreadable"]] == [str(bad)]
    assert "truncated" in summary["unreadable"][0]["error"]


def test_standard_input(predict, images, tmp_path, monkeypatch):
    stream = types.SimpleNamespace(buffer=io.BytesIO(images[0].read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    predict("-")
    predict(images[0], output=tmp_path / "file")
    [piped], [read] = entries(tmp_path / "out"), entries(tmp_path / "file")
    assert piped["source"] == "stdin"
    assert piped["detections"] == read["detections"]


def test_a_camera_that_is_not_there_is_one_line_and_leaves_nothing(eager_pt, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "oculox", "predict", eager_pt, "97", "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == "error: camera-97: the camera cannot be opened; is it connected and free?\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_standard_input_of_a_process(eager_pt, images, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "oculox", "predict", eager_pt, "-", "--output", tmp_path, "--json"],
        input=images[0].read_bytes(),
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 1
    assert entries(tmp_path)[0]["source"] == "stdin"


@pytest.mark.parametrize("data", [b"", b"no image"])
def test_nothing_useful_on_standard_input(predict, monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    assert "standard input" in predict("-", code=1).error


def test_a_video(predict, tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for value in range(5):
        writer.write(np.full((48, 64, 3), 40 * value, np.uint8))
    writer.release()
    outcome = predict(path, "--max-frames", 3)
    assert "3 frames of" in outcome.out
    rows = (tmp_path / "out/clip.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(row)["frame"] for row in rows] == [0, 1, 2]


@pytest.fixture
def rows():
    """The rows of the Parquet files in a folder."""
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    return lambda folder: pq.read_table(folder).to_pylist()


def test_parquet(predict, rows, eager_pt, images, tmp_path):
    words = (images[0].parent, "--engine", "local", "--part-size", 3, "--json")
    summary = predict(*words).json
    assert (summary["images"], summary["parts"], summary["unreadable"]) == (4, 2, 0)
    assert summary["predictions"] == str(tmp_path / "out/part-*.parquet")
    found = rows(tmp_path / "out")
    detector = Detector(eager_pt, device="cpu", batch=1)
    assert [row["image"] for row in found] == [str(path) for path in images]
    assert detector.table(images).to_pylist() == found
    for row, single in zip(found, detector.stream(images), strict=True):
        assert np.array_equal(np.float32(row["boxes"]).reshape(-1, 4), single.xyxy)
        assert np.array_equal(np.float32(row["scores"]), single.scores)
        assert row["class_ids"] == single.class_ids.tolist()
        assert row["names"] == [one.name for one in single]
        assert (row["height"], row["width"]) == single.image.shape[:2]
    assert sum(len(row["scores"]) for row in found) == summary["detections"] > 0
    assert "pass --resume to continue" in predict(*words, code=2).error
    (tmp_path / "out/part-000001.parquet").unlink()
    assert predict(*words, "--resume", "--batch", 2).json["kept_parts"] == 1
    assert rows(tmp_path / "out") == found
    assert "conf 0.3, not 0.5" in predict(*words, "--resume", "--conf", 0.5, code=2).error
    assert predict(*words, "--overwrite", "--conf", 0.99).json["kept_parts"] == 0


def test_parquet_for_people(predict, rows, images, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.touch()
    words = (bad, *images[:2], "--engine", "local", "--part-size", 1)
    lines = predict(*words).out.splitlines()
    assert re.fullmatch(r"3 images \(1 unreadable\), \d+ detections; \d+\.\d images/s", lines[0])
    assert lines[1:] == ["3 parts", str(tmp_path / "out/part-*.parquet")]
    assert rows(tmp_path / "out")[0]["error"].startswith(str(bad))
    again = predict(*words, "--resume").out.splitlines()
    assert again[1] == "3 parts, 3 of them from before"


def test_the_model_of_parts_is_known_by_its_content(
    predict, rows, eager_pt, three_classes_pt, images, oculox, tmp_path
):
    words = (images[0], "--engine", "local", "--output", tmp_path / "out", "--device", "cpu")
    predict(images[0], "--engine", "local")
    copy = tmp_path / "copy.pt"
    shutil.copy(eager_pt, copy)
    assert oculox("predict", copy, *words, "--resume").code == 0
    other = oculox("predict", three_classes_pt, *words, "--resume")
    assert (other.code, "made with model sha256:" in other.error) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--resume",), "pass --engine too"),
        (("--workers", 2), "pass --engine too"),
        (("--workers", 2, "--engine", "local"), "pass --engine ray too"),
        (("--max-frames", 2, "--engine", "local"), "--max-frames is for videos"),
    ],
)
def test_options_of_many_images(predict, images, tmp_path, words, message):
    assert message in predict(images[0], *words, code=2).error
    assert not (tmp_path / "out").exists()


def test_resuming_without_a_folder(oculox, eager_pt, images):
    outcome = oculox("predict", eager_pt, images[0], "--engine", "local", "--resume")
    assert (outcome.code, "what is in --output: name it" in outcome.error) == (2, True)
