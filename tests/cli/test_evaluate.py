"""`oculox eval`."""

import json

import pytest

VAL = "annotations/instances_val2017.json"


@pytest.fixture
def evaluate(oculox, eager_pt, tiny_data):
    def run(*words, data=tiny_data):
        outcome = oculox("eval", eager_pt, "--data", data, "--workers", 0, *words)
        assert outcome.code == 0, outcome.err
        return outcome

    return run


def test_metrics_as_json(evaluate):
    printed = evaluate("--json").json
    assert len(printed["metrics"]) == 12
    assert [row["name"] for row in printed["classes"]][:2] == ["ball", "car"]
    assert printed["images"] == 4
    assert len(printed["confusion"]) == 7


def test_a_table_for_people(evaluate):
    out = evaluate().out
    assert "AP50" in out or "0.50" in out
    assert "leaf" in out
    assert "4 images" in out


def test_detections_are_coco_results(evaluate, tiny_data, tmp_path):
    evaluate("--detections", tmp_path / "found.json")
    rows = json.loads((tmp_path / "found.json").read_text("utf-8"))
    truth = json.loads((tiny_data / VAL).read_text("utf-8"))
    assert rows
    assert {row["image_id"] for row in rows} <= {image["id"] for image in truth["images"]}
    assert {row["category_id"] for row in rows} <= {c["id"] for c in truth["categories"]}
    assert all(len(row["bbox"]) == 4 and 0 <= row["score"] <= 1 for row in rows)


@pytest.mark.parametrize(
    "words",
    [
        ("--batch", 3),
        ("--device", "cpu"),
        ("--backend", "torch"),
        ("--workers", 1),
        pytest.param(("--devices", 2), marks=pytest.mark.slow),
    ],
)
def test_how_it_runs_does_not_change_the_metrics(evaluate, words):
    plain = evaluate("--json").json["metrics"]
    assert evaluate("--json", *words).json["metrics"] == pytest.approx(plain, abs=1e-6)


def test_data_that_is_elsewhere_was_named_by_the_training(oculox, quick, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    run, root = tmp_path / "run", quick[0].partition("=")[2]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-data").symlink_to(root)
    words = ("data.root=my-data", "train.max_steps=1", "--output", run)
    assert oculox("train", "yolox-nano", *quick, *words).code == 0
    assert oculox("eval", run / "best.pt", "--workers", 0).code == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = oculox("eval", run / "best.pt")
    assert outcome.code == 1
    assert "data.root: my-data is not a folder; " in outcome.error
    assert f"{run / 'best.pt'} was trained on this data" in outcome.error
    assert outcome.error.endswith("or other data, with --data")


def test_what_is_evaluated_can_be_chosen(evaluate, tiny_data):
    by_folder = evaluate("--split", "train", "--json").json
    assert by_folder["images"] == 12
    train = tiny_data / "annotations/instances_train2017.json"
    by_file = evaluate("--images", tiny_data / "train2017", "--json", data=train).json
    assert by_file["metrics"] == by_folder["metrics"]


@pytest.mark.parametrize(
    ("words", "devices"),
    [
        pytest.param(("--tta", "flip"), 2, marks=pytest.mark.slow),
        (("--tta", "full"), 1),
        pytest.param(("--tile", 64), 2, marks=pytest.mark.slow),
    ],
)
def test_several_views(evaluate, tmp_path, words, devices):
    found = []
    for more in ((), words, (*words, "--batch", 1, "--devices", devices)):
        evaluate("--detections", tmp_path / "found.json", "--overwrite", *more)
        rows = json.loads((tmp_path / "found.json").read_text("utf-8"))
        found.append(sorted(rows, key=lambda row: (row["image_id"], row["score"])))
    plain, together, alone = found
    assert plain != together
    assert len(together) == len(alone) > 0
    assert [r["score"] for r in together] == pytest.approx([r["score"] for r in alone], abs=1e-5)


def test_precision_and_size(evaluate):
    assert evaluate("--precision", "bf16", "--imgsz", 96, "--json").json["images"] == 4


def test_thresholds(evaluate, tmp_path):
    counts = []
    for words in ((), ("--conf", 0.99), ("--iou", 0.1)):
        evaluate("--detections", tmp_path / "found.json", "--overwrite", *words)
        counts.append(len(json.loads((tmp_path / "found.json").read_text("utf-8"))))
    assert counts[1] < counts[0]
    assert counts[2] < counts[0]
