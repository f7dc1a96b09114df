"""COCO metrics of detections: AP and AR, per class too, best-F1 operating points, confusion.

The matching is hotcoco's, a compiled evaluator that agrees with pycocotools. Metrics are counted
against the annotation file itself, not against loaded labels: its crowd regions and areas decide
which detections and objects are ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import numpy.typing as npt

from oculox.errors import DataError
from oculox.evaluation.metrics import METRICS, ClassMetrics, CocoMetrics
from oculox.types import ImageId, IntArray

CONFUSION_CONF = 0.25
"""Lowest score that counts in the confusion matrix unless told otherwise."""

_IOU50 = 0  # index of IoU 0.5 among COCO's ten thresholds
_ALL_AREAS = 0
_MAX_100 = 2  # index of 100 among COCO's most detections per image, 1, 10, 100


def evaluate_boxes(
    annotations: Path | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    image_ids: Collection[ImageId] | None = None,
    confusion_conf: float = CONFUSION_CONF,
) -> CocoMetrics:
    """COCO metrics of detections.

    Args:
        annotations: a COCO file or its content; not modified.
        results: COCO results: image_id, category_id, bbox (x, y, width, height), score. Ids of
            images are the file's own, numbers or texts.
        image_ids: count only these images; None for all of the file.
        confusion_conf: lowest score that counts in the confusion matrix.

    Raises:
        DataError: when the file cannot be read, or a result names an image or category that is
            not in it, or has a box or score that is no finite number.
    """
    content = annotations if isinstance(annotations, Mapping) else _read(annotations)
    where = "annotations" if isinstance(annotations, Mapping) else str(annotations)
    numbers = _number_images(content["images"], image_ids)
    truth = _truth(content, numbers)
    rows = _result_rows(results, numbers, {c["id"] for c in truth["categories"]}, where)
    gt = hotcoco.COCO(truth)
    evaluator = hotcoco.COCOeval(gt, gt.load_res(rows), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()  # fills `stats`; `summarize` would print as well
    stats = [float(v) for v in evaluator.stats]
    return CocoMetrics(
        **dict(zip(METRICS, stats, strict=True)),
        classes=_class_metrics(evaluator.eval, truth),
        confusion=_confusion(evaluator, truth, confusion_conf),
        confusion_conf=confusion_conf,
        images=len(numbers),
        detections=len(rows),
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        raise DataError(f"{path}: a COCO file needs 'images', 'annotations' and 'categories'")
    return content


def _number_images(
    images: Sequence[Mapping[str, Any]], chosen: Collection[ImageId] | None
) -> dict[ImageId, int]:
    """File's image id -> 1..n, in the order that COCO evaluators take images in."""
    keep = None if chosen is None else set(chosen)
    ids = {i["id"] for i in images if keep is None or i["id"] in keep}
    ordered = sorted(ids, key=lambda i: (isinstance(i, str), i))
    return {image_id: number for number, image_id in enumerate(ordered, start=1)}


def _truth(content: Mapping[str, Any], numbers: Mapping[ImageId, int]) -> dict[str, Any]:
    """The annotations with plain numbers for ids, as the evaluator wants them.

    Annotations count from 1: evaluators take a match with id 0 for no match.
    """
    kept = [a for a in content["annotations"] if a["image_id"] in numbers]
    return {
        "images": [{"id": n, "width": 0, "height": 0, "file_name": ""} for n in numbers.values()],
        "annotations": [
            {
                "id": number,
                "image_id": numbers[a["image_id"]],
                "category_id": a["category_id"],
                "bbox": a["bbox"],
                "area": a.get("area", a["bbox"][2] * a["bbox"][3]),
                "iscrowd": int(a.get("iscrowd", 0)),
            }
            for number, a in enumerate(kept, start=1)
        ],
        "categories": [
            {"id": c["id"], "name": str(c.get("name", c["id"]))}
            for c in sorted(content["categories"], key=lambda c: c["id"])
        ],
    }


def _result_rows(
    results: Sequence[Mapping[str, Any]],
    numbers: Mapping[ImageId, int],
    categories: Collection[int],
    where: str,
) -> list[dict[str, Any]]:
    rows = []
    for i, result in enumerate(results):
        image_id, category_id = result["image_id"], result["category_id"]
        if image_id not in numbers:
            raise DataError(f"result {i}: image {image_id!r} is not evaluated ({where})")
        if category_id not in categories:
            raise DataError(f"result {i}: category {category_id!r} is not in {where}")
        box, score = [float(v) for v in result["bbox"]], float(result["score"])
        if not all(map(math.isfinite, (*box, score))):
            raise DataError(
                f"result {i}, image {image_id!r}: box and score must be finite numbers, "
                f"got {box} and {score}"
            )
        rows.append(
            {
                "image_id": numbers[image_id],
                "category_id": category_id,
                "bbox": box,
                "score": score,
            }
        )
    return rows


def _class_metrics(curves: Any, truth: Mapping[str, Any]) -> tuple[ClassMetrics, ...]:
    """Metrics of each class from the evaluator's curves.

    precision and scores: (10 IoU, 101 recalls, C, 4 areas, 3 limits); recall: (10, C, 4, 3).
    """
    precision = np.asarray(curves["precision"])[:, :, :, _ALL_AREAS, _MAX_100]
    scores = np.asarray(curves["scores"])[_IOU50, :, :, _ALL_AREAS, _MAX_100]
    recall = np.asarray(curves["recall"])[:, :, _ALL_AREAS, _MAX_100]
    counts = _object_counts(truth)
    metrics = []
    for k, category in enumerate(truth["categories"]):
        objects = counts.get(category["id"], 0)
        point = (-1.0,) * 4
        if objects:
            point = _best_f1(precision[_IOU50, :, k], scores[:, k], objects)
        metrics.append(
            ClassMetrics(
                name=category["name"],
                category_id=category["id"],
                objects=objects,
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


def _object_counts(truth: Mapping[str, Any]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for annotation in truth["annotations"]:
        if not annotation["iscrowd"]:
            key = annotation["category_id"]
            counts[key] = counts.get(key, 0) + 1
    return counts


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


def _confusion(evaluator: hotcoco.COCOeval, truth: Mapping[str, Any], conf: float) -> IntArray:
    classes = len(truth["categories"])
    if not classes or not truth["images"]:
        return np.zeros((classes + 1, classes + 1), np.int64)
    found = evaluator.confusion_matrix(iou_thr=0.5, max_det=100, min_score=conf)
    return np.asarray(found["matrix"], np.int64)
