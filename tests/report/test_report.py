"""The page of an evaluation and of a comparison: whole in itself, and true to the metrics."""

import base64
import dataclasses
import hashlib
import html
import json

import cv2
import numpy as np
import pytest

from html_page import Page, check_alone
from oculox import compare, evaluate
from oculox.data.coco import load_coco
from oculox.errors import DataError, UsageError
from oculox.evaluation.coco_metrics import FoundObjects, evaluate_boxes
from oculox.evaluation.evaluate import evaluate as evaluate_backend
from oculox.evaluation.metrics import METRICS
from oculox.postprocess import DetectSettings
from oculox.report.comparison import compare_evaluations
from oculox.report.diagnosis import diagnose
from oculox.report.drawings import draw_image
from oculox.report.evaluation_report import write_report
from red_images import RedBackend, red_image


@pytest.fixture
def index(tmp_path):
    """Three images with one red square and one without; one square has no red, one is a disc."""
    images, annotations = [], []
    for i, file_name in enumerate(("a.png", "<b>&.png", "c.png", "d.png")):
        image = red_image() if i != 1 else np.full((48, 120, 3), 20, np.uint8)
        cv2.imwrite(str(tmp_path / file_name), image)
        images.append({"id": i + 5, "file_name": file_name, "width": 120, "height": 48})
        if i != 3:
            annotations.append(
                {
                    "id": i + 1,
                    "image_id": i + 5,
                    "category_id": 70 if i == 2 else 30,
                    "bbox": [40, 12, 40, 24],
                    "area": 960,
                    "iscrowd": 0,
                }
            )
    # The class names are texts that a page must escape.
    categories = [{"id": 30, "name": "square"}, {"id": 70, "name": "<script>alert(1)</script>"}]
    path = tmp_path / "val.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return load_coco(path, tmp_path)


@pytest.fixture
def result(index):
    return evaluate_backend(RedBackend(), index)


def test_every_detection_and_object_is_judged(index, result):
    found = diagnose(result, index)
    counts = found.images()
    # a: found; b: missed; c: a square where a disc is; d: a square where nothing is.
    assert counts.found.tolist() == [1, 0, 0, 0]
    assert counts.missed.tolist() == [0, 1, 1, 0]
    assert counts.false.tolist() == [0, 0, 1, 1]
    assert counts.f1.tolist() == [1, 0, 0, 0]
    assert found.found_at.tolist() == pytest.approx([0.9, -1, -1])
    above = found.images(0.95)
    assert above.found.sum() == above.false.sum() == 0
    assert above.missed.tolist() == [1, 1, 1, 0]
    assert above.f1.tolist() == [0, 0, 0, 1]
    # Of three detections one is right, of three objects one is found.
    assert found.f1_curve(np.array([0.5, 0.95])).tolist() == pytest.approx([1 / 3, 0])
    assert found.f1_curve(np.array([0.5]), 0).tolist() == pytest.approx([2 / 5])


def test_what_lies_on_a_crowd_region_does_not_count(index, result):
    crowd = np.array([False, False, True])
    truth = dataclasses.replace(index.truth, crowd=crowd, labels=np.array([0, 0, 0]))
    counts = diagnose(result, dataclasses.replace(index, truth=truth)).images()
    assert (counts.found[2], counts.false[2], counts.missed[2]) == (0, 0, 0)


def test_images_that_were_left_out_do_not_count(index, result):
    less = dataclasses.replace(
        result, found=result.found.of_images([0, 1, 3]), left_out_ids=frozenset({7})
    )
    counts = diagnose(less, index).images()
    assert (counts.false[2], counts.missed[2]) == (0, 0)
    assert counts.missed[1] == 1


def test_the_figure_of_an_image_marks_what_is_right(index, result):
    def green(drawn):
        blue, green_, red = drawn.astype(int).transpose(2, 0, 1)
        return ((green_ > 150) & (red < 120) & (blue < 180)).any()

    found = diagnose(result, index)
    right, wrong = draw_image([found], 0), draw_image([found], 2)
    assert right.shape == (48, 2 * 120 + 6, 3)
    for part in (slice(0, 120), slice(126, 246)):
        assert green(right[:, part])
        assert not green(wrong[:, part])
    assert draw_image([found, found], 0).shape == (48, 3 * 120 + 12, 3)


def test_a_page_tells_the_metrics(index, result, tmp_path):
    path = tmp_path / "report.html"
    write_report(path, result, index, title="<i>red</i>", settings={"conf": "<0.01>"})
    page = Page(path)
    check_alone(page)
    metrics = result.metrics
    shown = [float(row[1].replace("-", "-1", 1)) for row in page.tables["COCO metrics"]]
    assert shown == pytest.approx([metrics.as_dict()[name] for name in METRICS], abs=6e-4)
    assert [row[0] for row in page.tables["Metrics of each class"]] == list(index.class_names)
    square = page.tables["Metrics of each class"][0]
    assert square[1:3] == ["2", f"{metrics.classes[0].ap:.3f}"]
    assert page.tables["Most frequent confusions of classes"] == [
        ["<script>alert(1)</script>", "square", "1"]
    ]
    scores = {row[0]: row[1:] for row in page.tables["Precision by score at IoU 0.5"]}
    assert sum(int(row[0]) for row in scores.values()) == 3
    [full] = [row for row in scores.values() if row[0] == "3"]
    assert full[1:] == ["0.900", "0.333"]
    captions = [text for text in page.texts if "F1 " in text and ".png" in text]
    # Two errors, then one each; the best is the only one with something found.
    assert [text.partition(":")[0] for text in captions] == ["c.png", "<b>&.png", "d.png", "a.png"]
    assert captions[0] == "c.png: 0 found, 1 missed, 1 false, F1 0.00"
    assert "<i>red</i>" in page.texts
    assert "i" not in page.tags


@pytest.mark.parametrize("names", [("$a_$", "b$ & $c"), ("汽车", "飛行機")])
def test_figures_show_names_as_they_are(index, tmp_path, names):
    index = dataclasses.replace(index, class_names=names)
    path = tmp_path / "report.html"
    write_report(path, evaluate_backend(RedBackend(), index), index, title="a", settings={})
    page = Page(path)
    drawn = "".join(
        base64.b64decode(image["src"].partition(";base64,")[2]).decode()
        for image in page.images
        if "svg" in image["src"][:16]
    )
    for name in names:
        # In the curves, and at both sides of the confusion matrix.
        assert drawn.count(f">{html.escape(name)}</text>") >= 3, name


def test_nothing_labelled_and_nothing_found(index, result, tmp_path):
    truth = {name: column[:0] for name, column in vars(index.truth).items()}
    empty = dataclasses.replace(index, truth=dataclasses.replace(index.truth, **truth))
    found = FoundObjects.join([])
    nothing = dataclasses.replace(result, found=found, metrics=evaluate_boxes(empty, found))
    write_report(tmp_path / "report.html", nothing, empty, title="empty", settings={})
    page = Page(tmp_path / "report.html")
    check_alone(page)
    assert {row[1] for row in page.tables["COCO metrics"]} == {"-"}
    assert page.texts.count("There are none.") == 2


def test_an_image_that_cannot_be_read_is_not_drawn(index, result, tmp_path):
    index.image_path(2).unlink()
    write_report(tmp_path / "report.html", result, index, title="red", settings={})
    page = Page(tmp_path / "report.html")
    assert not [image for image in page.images if image["alt"].startswith("c.png")]
    assert [image for image in page.images if image["alt"].startswith("a.png")]


def test_a_page_of_a_thousand_classes_is_a_few_megabytes(index, result, tmp_path):
    names = tuple(f"class number {k}" for k in range(1000))
    many = dataclasses.replace(index, class_names=names, category_ids=tuple(range(30, 1030)))
    truth = dataclasses.replace(
        many.truth,
        owners=np.arange(1000) % 3,
        labels=np.arange(1000),
        xywh=np.tile(index.truth.xywh[:1], (1000, 1)),
        areas=np.full(1000, 960.0),
        crowd=np.zeros(1000, np.bool_),
    )
    many = dataclasses.replace(many, truth=truth)
    found = FoundObjects(
        owners=np.zeros(1000, np.int64),
        labels=np.arange(1000),
        xywh=np.tile(np.array([40.0, 12, 40, 24]), (1000, 1)),
        scores=np.arange(1000) / 1000,
    )
    crowded = dataclasses.replace(result, found=found, metrics=evaluate_boxes(many, found))
    write_report(tmp_path / "report.html", crowded, many, title="many", settings={})
    check_alone(Page(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_any_model_has_a_page(eager_pt, tiny_data, tmp_path):
    path = tmp_path / "new/report.html"
    result = evaluate(eager_pt, tiny_data, workers=0, report=path)
    page = Page(path)
    check_alone(page)
    shown = {row[0]: row[1] for row in page.tables["COCO metrics"]}
    assert shown["AP"] == f"{result.metrics.ap:.3f}"
    settings = dict(page.tables["settings"])
    assert settings["conf"] == "0.01"
    assert settings["SHA-256 of the model"] == hashlib.sha256(eager_pt.read_bytes()).hexdigest()
    assert path.stat().st_size < 3e6


def test_the_hash_is_that_of_what_was_read(index, tmp_path):
    def hash_of(data):
        path = tmp_path / "report.html"
        result = evaluate_backend(RedBackend(), data, settings=DetectSettings())
        write_report(path, result, data, title="red", settings={})
        return dict(Page(path).tables["Data"])["SHA-256 of names, sizes and boxes"]

    first = hash_of(index)
    assert len(first) == 64
    # The annotations of Pascal VOC are a folder.
    assert hash_of(dataclasses.replace(index, annotations=tmp_path)) == first
    assert hash_of(dataclasses.replace(index, all_boxes=index.all_boxes + 1)) != first


@pytest.mark.parametrize("name", [".", "mine.pt"])
def test_a_place_in_use_is_refused_before_the_work(eager_pt, tmp_path, name):
    (tmp_path / "mine.pt").write_bytes(b"weights")
    refused = r"is a folder|mine\.pt exists; name another file"
    with pytest.raises(UsageError, match=refused):
        evaluate(eager_pt, "no such data", report=tmp_path / name)
    with pytest.raises(UsageError, match=refused):
        compare(eager_pt, eager_pt, "no such data", report=tmp_path / name)
    with pytest.raises(UsageError if name == "." else DataError):
        evaluate(eager_pt, "no such data", report=tmp_path / name, overwrite=True)
    assert (tmp_path / "mine.pt").read_bytes() == b"weights"


def test_two_models_on_the_same_images(index, result, tmp_path):
    """B loses the right detection of A: image a changes, the others do not."""
    found = result.found.of_images([1, 2, 3])
    less = dataclasses.replace(result, found=found, metrics=evaluate_boxes(index, found))
    found = compare_evaluations(("A", "B"), (result, less), index, draws=50)
    by_name = {one.name: one for one in found.metrics}
    assert [one.name for one in found.metrics] == list(METRICS)
    for name, one in by_name.items():
        assert one.a == pytest.approx(result.metrics.as_dict()[name])
        assert one.b == pytest.approx(less.metrics.as_dict()[name])
        if one.difference is not None:
            assert one.difference == pytest.approx(one.b - one.a)
            assert one.low <= one.high <= 0
    assert by_name["ap_large"].difference is by_name["ap_large"].low is None
    [image] = found.images
    assert (image.image_id, image.file_name, image.a, image.b) == (5, "a.png", 1, 0)
    assert found.classes[0].name == "square"


def test_a_model_equals_itself(index, result):
    found = compare_evaluations(("A", "A"), (result, result), index, draws=20)
    assert found.images == ()
    assert {one.difference for one in found.metrics} <= {0, None}
    assert not [one for one in found.metrics if one.clear]
    plain = compare_evaluations(("A", "A"), (result, result), index, draws=0)
    assert {one.low for one in plain.metrics} == {None}


def test_other_images_left_out_are_refused(index, result):
    other = dataclasses.replace(result, left_out_ids=frozenset({5}))
    with pytest.raises(DataError, match="left out different images"):
        compare_evaluations(("A", "B"), (result, other), index)
