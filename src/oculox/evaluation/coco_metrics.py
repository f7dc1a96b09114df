"""COCO metrics of detections: AP and AR, per class too, best-F1 operating points, confusion.

The matching is hotcoco's, a compiled evaluator that agrees with pycocotools. Metrics are counted
against the objects as the annotation file states them, not against the clipped boxes of training:
its crowd regions and areas decide which detections and objects are ignored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
import numpy.typing as npt

from oculox.data.coco import CocoIndex
from oculox.data.coco_scan import GroundTruth
from oculox.errors import DataError
from oculox.evaluation.metrics import METRICS, ClassMetrics, CocoMetrics
from oculox.types import ImageId, IntArray

CONFUSION_CONF = 0.25
"""Lowest score that counts in the confusion matrix by default."""

_IOU50 = 0  # index of IoU 0.5 among COCO's ten thresholds
_ALL_AREAS = 0
_MAX_100 = 2  # index of 100 among COCO's most detections per image, 1, 10, 100


def evaluate_boxes(
    index: CocoIndex,
    results: Sequence[Mapping[str, Any]],
    *,
    confusion_conf: float = CONFUSION_CONF,
    left_out: Collection[ImageId] = (),
) -> CocoMetrics:
    """COCO metrics of detections.

    Args:
        index: the images and the objects in them.
        results: COCO results: image_id, category_id, bbox (x, y, width, height), score. Ids of
            images are the file's own, numbers or texts.
        confusion_conf: lowest score that counts in the confusion matrix.
        left_out: ids of images that could not be read; their objects do not count, and there
            are no results of them.

    Raises:
        DataError: a result names an image or category that the index does not have, or its box
            or score is not a finite number.
    """
    index = without_objects(index, left_out)
    evaluator = match_boxes(index, results)
    stats = [float(v) for v in evaluator.stats]
    return CocoMetrics(
        **dict(zip(METRICS, stats, strict=True)),
        classes=_class_metrics(evaluator.eval, index),
        confusion=_confusion(evaluator, index, confusion_conf),
        confusion_conf=confusion_conf,
        images=len(index) - len(left_out),
        detections=len(results),
    )


def match_boxes(index: CocoIndex, results: Sequence[Mapping[str, Any]]) -> hotcoco.COCOeval:
    """Match detections with objects and count the metrics.

    Args:
        index: the images and the objects in them.
        results: as for `evaluate_boxes`.

    Returns:
        The evaluator, with `stats` and curves. Its annotation i + 1 is object i of `index.truth`,
        its detection i + 1 is result i.

    Raises:
        DataError: as `evaluate_boxes`.
    """
    ids = index.image_ids
    # Evaluators take images in the order of their numbers; texts come after numbers.
    ordered = sorted(ids, key=lambda i: (isinstance(i, str), i))
    numbers: dict[ImageId, int] = {image_id: n for n, image_id in enumerate(ordered, start=1)}
    rows = _result_rows(results, numbers, index)
    gt = hotcoco.COCO(_truth(index, [numbers[image_id] for image_id in ids]))
    evaluator = hotcoco.COCOeval(gt, gt.load_res(rows), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()  # fills `stats`; `summarize` would print as well
    return evaluator


def without_objects(index: CocoIndex, images: Collection[ImageId]) -> CocoIndex:
    """The index without the objects of some images, which are named by their ids."""
    if not images:
        return index
    of = [image_id in images for image_id in index.image_ids]
    kept = ~np.array(of, np.bool_)[index.truth.owners]
    truth = {name: column[kept] for name, column in vars(index.truth).items()}
    return dataclasses.replace(index, truth=GroundTruth(**truth))


def _truth(index: CocoIndex, numbers: Sequence[int]) -> dict[str, Any]:
    """A COCO tree with plain numbers for ids, as the evaluator needs them.

    Annotations count from 1: evaluators take a match with id 0 for no match.

    Args:
        index: the images and objects.
        numbers: of the images, in the order of the index.
    """
    truth = index.truth
    columns = (truth.owners, truth.labels, truth.xywh, truth.areas, truth.crowd)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    categories = zip(index.category_ids, index.class_names, strict=True)
    return {
        "images": [{"id": n, "width": 0, "height": 0, "file_name": ""} for n in sorted(numbers)],
        "annotations": [
            {
                "id": i,
                "image_id": numbers[owner],
                "category_id": index.category_ids[label],
                "bbox": xywh,
                "area": area,
                "iscrowd": int(crowd),
            }
            for i, (owner, label, xywh, area, crowd) in enumerate(rows, start=1)
        ],
        "categories": [{"id": i, "name": name} for i, name in categories],
    }


def _result_rows(
    results: Sequence[Mapping[str, Any]], numbers: Mapping[ImageId, int], index: CocoIndex
) -> list[dict[str, Any]]:
    """The results with plain numbers for image ids."""
    categories = set(index.category_ids)
    rows = []
    for i, result in enumerate(results):
        image_id, category_id = result["image_id"], result["category_id"]
        if image_id not in numbers:
            raise DataError(f"result {i}: image {image_id!r} is not in {index.annotations}")
        if category_id not in categories:
            raise DataError(f"result {i}: category {category_id!r} is not in {index.annotations}")
        box, score = [float(v) for v in result["bbox"]], float(result["score"])
        if not all(map(math.isfinite, (*box, score))):
            raise DataError(
                f"result {i}, image {image_id!r}: box and score must be finite numbers, "
                f"got {box} and {score}"
            )
        number = numbers[image_id]
        rows.append({"image_id": number, "category_id": category_id, "bbox": box, "score": score})
    return rows


def _class_metrics(curves: Any, index: CocoIndex) -> tuple[ClassMetrics, ...]:
    """Metrics of each class from the evaluator's curves.

    precision and scores: (10 IoU, 101 recalls, C, 4 areas, 3 limits); recall: (10, C, 4, 3).
    """
    precision = np.asarray(curves["precision"])[:, :, :, _ALL_AREAS, _MAX_100]
    scores = np.asarray(curves["scores"])[_IOU50, :, :, _ALL_AREAS, _MAX_100]
    recall = np.asarray(curves["recall"])[:, :, _ALL_AREAS, _MAX_100]
    labels = index.truth.labels[~index.truth.crowd]
    counts = np.bincount(labels, minlength=len(index.class_names)).tolist()
    metrics = []
    for k, (name, category_id) in enumerate(
        zip(index.class_names, index.category_ids, strict=True)
    ):
        point = (-1.0,) * 4
        if counts[k]:
            point = _best_f1(precision[_IOU50, :, k], scores[:, k], counts[k])
        metrics.append(
            ClassMetrics(
                name=name,
                category_id=category_id,
                objects=counts[k],
                ap=_mean(precision[:, :, k]),
                ap50=_mean(precision[_IOU50, :, k]),
                ar=_mean(recall[:, k]),
                precision=point[0],
                recall=point[1],
                f1=point[2],
                confidence=point[3],
            )
        )
    return tuple(metrics)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of what was computed; COCO marks the rest with -1."""
    computed = values[values > -1]
    return float(computed.mean()) if computed.size else -1.0


def _best_f1(
    precision: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], objects: int
) -> tuple[float, float, float, float]:
    """(precision, recall, F1, score) where F1 is best, among COCO's 101 recall points.

    Point i of the curve is the first detection whose recall reaches i / 100, that is the
    ceil(i / 100 * objects)-th found object: its recall is known exactly. The curve's precision is
    the best at this or a higher recall; at the last best F1 the two are the same.
    """
    thresholds = np.linspace(0, 1, len(precision))
    recall = np.maximum(np.ceil(thresholds * objects - 1e-9), 1) / objects
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    if precision[best] <= 0:
        return 0.0, 0.0, 0.0, 0.0
    return float(precision[best]), float(recall[best]), float(f1[best]), float(scores[best])


def _confusion(evaluator: hotcoco.COCOeval, index: CocoIndex, conf: float) -> IntArray:
    classes = len(index.class_names)
    if not classes or not len(index):
        return np.zeros((classes + 1, classes + 1), np.int64)
    found = evaluator.confusion_matrix(iou_thr=0.5, max_det=100, min_score=conf)
    return np.asarray(found["matrix"], np.int64)
