"""COCO metrics against pycocotools, and the cases it does not take."""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco_rows import found_objects
from oculox.data.coco import index_scan, load_coco
from oculox.data.coco_scan import scan_tree
from oculox.errors import DataError
from oculox.evaluation import coco_metrics
from oculox.evaluation.coco_metrics import FoundObjects
from oculox.evaluation.metrics import METRICS


def evaluate_boxes(content, results, **options):
    """`oculox.evaluation.coco_metrics.evaluate_boxes` on a COCO tree."""
    tree = json.loads(json.dumps(content))  # plain numbers, as a file gives them
    index = index_scan(scan_tree(tree, Path("val.json")), Path())
    return coco_metrics.evaluate_boxes(index, found_objects(index, results), **options)


def make_data(seed=0, *, images=12, classes=3, crowds=True):
    """Random objects and detections around them, with ties in scores, misses and false ones."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image_id in range(1, images + 1):
        for _ in range(rng.integers(0, 9)):
            x, y = rng.uniform(0, 300, 2)
            w, h = rng.uniform(5, 200, 2)
            category = int(rng.integers(0, classes)) * 10 + 5
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h * rng.uniform(0.4, 1),
                    "iscrowd": int(crowds and rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 4)):
                shift = rng.normal(0, 0.08, 4) * [w, h, w, h]
                wrong = rng.random() < 0.15
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": 5 if wrong else category,
                        "bbox": [x + shift[0], y + shift[1], max(w + shift[2], 1), h],
                        "score": round(float(rng.random()), 2),
                    }
                )
    content = {
        "images": [
            {"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": c * 10 + 5, "name": f"kind-{c}"} for c in range(classes)],
    }
    return content, results


def reference(content, results):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator, text.getvalue()


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_pycocotools(seed):
    content, results = make_data(seed)
    evaluator, text = reference(content, results)
    metrics = evaluate_boxes(content, results)
    np.testing.assert_allclose(list(metrics.as_dict().values()), evaluator.stats, atol=1e-12)
    assert metrics.table() == "\n".join(text.splitlines()[-12:])
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    for k, row in enumerate(metrics.classes):
        assert row.name == f"kind-{k}"
        assert row.ap == pytest.approx(precision[:, :, k, 0, 2].mean())
        assert row.ap50 == pytest.approx(precision[0, :, k, 0, 2].mean())
        assert row.ar == pytest.approx(recall[:, k, 0, 2].mean())


def counted(evaluator, category_id, conf):
    """Precision, recall and F1 at a confidence, from pycocotools' own matches at IoU 0.5."""
    hits = inventions = objects = 0
    for e in evaluator.evalImgs:
        if e is None or e["category_id"] != category_id or e["aRng"] != [0, 1e10]:
            continue
        scores, ignored = np.array(e["dtScores"]), e["dtIgnore"][0].astype(bool)
        matched = e["dtMatches"][0] > 0
        counts = (scores >= conf) & ~ignored
        hits += int((matched & counts).sum())
        inventions += int((~matched & counts).sum())
        objects += int((np.asarray(e["gtIgnore"]) == 0).sum())
    precision, recall = hits / max(hits + inventions, 1), hits / objects
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_best_f1_is_what_counting_gives(seed):
    content, results = make_data(seed)
    # Distinct scores: with ties a threshold cannot cut between equal ones.
    results = [{**r, "score": 0.001 * (i + 1)} for i, r in enumerate(results)]
    evaluator, _ = reference(content, results)
    for row in evaluate_boxes(content, results).classes:
        expected = counted(evaluator, row.category_id, row.confidence)
        assert (row.precision, row.recall, row.f1) == pytest.approx(expected)
        best = max(counted(evaluator, row.category_id, r["score"])[2] for r in results)
        assert row.f1 == pytest.approx(best)


def test_confusion_counts_rows_of_objects():
    content, _ = make_data(images=1)
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": [100 * i, 0, 50, 50]}
        for i, c in enumerate([5, 5, 15])
    ]
    results = [
        {"image_id": 1, "category_id": 5, "bbox": [0, 0, 50, 50], "score": 0.9},
        {"image_id": 1, "category_id": 15, "bbox": [100, 0, 50, 50], "score": 0.8},
        {"image_id": 1, "category_id": 25, "bbox": [300, 300, 50, 50], "score": 0.7},
        {"image_id": 1, "category_id": 15, "bbox": [200, 0, 50, 50], "score": 0.1},
    ]
    confusion = evaluate_boxes(content, results, confusion_conf=0.25).confusion
    expected = np.zeros((4, 4), int)
    expected[0, 0] = 1  # found
    expected[0, 1] = 1  # taken for another class
    expected[1, 3] = 1  # missed: its detection is below the threshold
    expected[3, 2] = 1  # invented
    np.testing.assert_array_equal(confusion, expected)


def test_annotation_id_zero_counts_like_any_other():
    content, _ = make_data(images=1)
    content["annotations"] = [{"id": 0, "image_id": 1, "category_id": 5, "bbox": [0, 0, 50, 50]}]
    results = [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 50, 50], "score": 0.9}]
    assert evaluate_boxes(content, results).ap == pytest.approx(1)


def test_text_ids_give_the_same_metrics():
    content, results = make_data()
    renamed = copy.deepcopy(content)
    for image in renamed["images"]:
        image["id"] = f"images/{image['id']:03d}"
    for row in renamed["annotations"]:
        row["image_id"] = f"images/{row['image_id']:03d}"
    rows = [{**r, "image_id": f"images/{r['image_id']:03d}"} for r in results]
    assert evaluate_boxes(renamed, rows).as_dict() == evaluate_boxes(content, results).as_dict()


@pytest.mark.parametrize(
    ("change", "results", "expected"),
    [
        ({}, "none", 0),
        ({"annotations": []}, "all", -1),
        ({"annotations": []}, "none", -1),
        ({"images": [], "annotations": []}, "none", -1),
        ({"images": [], "annotations": [], "categories": []}, "none", -1),
    ],
    ids=["no detections", "no objects", "nothing at all", "no images", "no categories"],
)
def test_empty_cases(change, results, expected, capfd):
    content, rows = make_data()
    content = {**content, **change}
    metrics = evaluate_boxes(content, rows if results == "all" else [])
    assert set(metrics.as_dict().values()) == {expected}
    assert tuple(metrics.as_dict()) == METRICS
    assert {c.ap for c in metrics.classes} <= {expected}
    assert {c.f1 for c in metrics.classes} <= {expected}
    assert metrics.confusion.shape == (len(content["categories"]) + 1,) * 2
    assert metrics.table().count("\n") == 11
    assert capfd.readouterr() == ("", "")


def test_class_without_objects_is_minus_one_and_left_out_of_the_mean():
    content, results = make_data()
    more = {**content, "categories": [*content["categories"], {"id": 99, "name": "unseen"}]}
    metrics = evaluate_boxes(more, results)
    assert metrics.as_dict() == evaluate_boxes(content, results).as_dict()
    unseen = metrics.classes[-1]
    assert (unseen.name, unseen.objects) == ("unseen", 0)
    assert (unseen.ap, unseen.ar, unseen.f1) == (-1, -1, -1)
    assert "unseen" in metrics.class_table()


def test_is_quiet_and_changes_nothing(capfd):
    content, results = make_data()
    before = copy.deepcopy((content, results))
    evaluate_boxes(content, results)
    assert (content, results) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0, 0, float("nan"), 1]}, r"finite numbers, got \[0.0, 0.0, nan, 1.0\] and 0"),
        ({"score": float("inf")}, "and inf"),
    ],
)
def test_numbers_that_are_not_finite_are_named(change, message):
    content, results = make_data()
    rows = [results[0], {**results[-1], **change}, results[1]]
    with pytest.raises(DataError, match=f"image {results[-1]['image_id']}: .*{message}"):
        evaluate_boxes(content, rows)


def test_columns_are_the_results_they_came_from():
    content, rows = make_data()
    content["images"][0]["id"] = "first"
    content["annotations"] = []
    rows = [{**r, "image_id": "first" if r["image_id"] == 1 else r["image_id"]} for r in rows]
    index = index_scan(scan_tree(content, Path("val.json")), Path())
    found = found_objects(index, rows)
    assert found.to_coco(index) == rows
    parts = [found.of_images([i]) for i in range(len(index))]
    assert FoundObjects.join(parts).to_coco(index) == rows  # they are sorted by image
    assert FoundObjects.join([]).to_coco(index) == []


def test_official_detections_give_the_official_metrics(shared):
    golden = json.loads((shared / "golden/eval_nano416_val2017.json").read_text())
    path = shared / "coco_mini/annotations/instances_val2017.json"
    index = load_coco(path, shared / "coco_mini/val2017")
    metrics = coco_metrics.evaluate_boxes(index, found_objects(index, golden["detections"]))
    np.testing.assert_allclose(list(metrics.as_dict().values()), golden["stats"], atol=1e-9)
    # Crowds are not objects to be found.
    objects = [a for a in json.loads(path.read_text())["annotations"] if not a["iscrowd"]]
    assert sum(c.objects for c in metrics.classes) == len(objects)
