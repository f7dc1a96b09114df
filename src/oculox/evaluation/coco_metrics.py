"""COCO metrics of detections: AP and AR, per class too, best-F1 operating points, confusion.

The matching is hotcoco's, a compiled evaluator that agrees with pycocotools. Metrics are counted
against the objects as the annotation file states them, not against the clipped boxes of training:
its crowd regions and areas decide which detections and objects are ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any, Self

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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FoundObjects:
    """Detections in the images of an index, as columns.

    Attributes:
        owners: int64 (D,), index of the image.
        labels: int64 (D,), contiguous class index of the data.
        xywh: float64 (D, 4), left, top, width, height in pixels.
        scores: float64 (D,).
    """

    owners: IntArray
    labels: IntArray
    xywh: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.owners)

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """All detections of the parts, in order."""
        nothing = cls(
            owners=np.zeros(0, np.int64),
            labels=np.zeros(0, np.int64),
            xywh=np.zeros((0, 4)),
            scores=np.zeros(0),
        )
        columns = zip(*(vars(part).values() for part in (nothing, *parts)), strict=True)
        return cls(**dict(zip(vars(nothing), map(np.concatenate, columns), strict=True)))

    def of_images(self, images: Collection[int]) -> Self:
        """The detections in some images, which are named by their index."""
        kept = np.isin(self.owners, list(images))
        return dataclasses.replace(self, **{name: v[kept] for name, v in vars(self).items()})

    def to_coco(self, index: CocoIndex) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox (x, y, width, height), score.

        Ids are the file's own; those of images are numbers or texts.
        """
        ids = index.image_ids
        columns = (self.owners, self.labels, self.xywh, self.scores)
        return [
            {
                "image_id": ids[owner],
                "category_id": index.category_ids[label],
                "bbox": xywh,
                "score": score,
            }
            for owner, label, xywh, score in zip(*(c.tolist() for c in columns), strict=True)
        ]


def evaluate_boxes(
    index: CocoIndex,
    found: FoundObjects,
    *,
    confusion_conf: float = CONFUSION_CONF,
    left_out: Collection[ImageId] = (),
) -> CocoMetrics:
    """COCO metrics of detections.

    Args:
        index: the images and the objects in them.
        found: the detections.
        confusion_conf: lowest score that counts in the confusion matrix.
        left_out: ids of images that could not be read; their objects do not count, and nothing
            is found in them.

    Raises:
        DataError: a box or score is not a finite number.
    """
    index = without_objects(index, left_out)
    evaluator = match_boxes(index, found)
    stats = [float(v) for v in evaluator.stats]
    return CocoMetrics(
        **dict(zip(METRICS, stats, strict=True)),
        classes=_class_metrics(evaluator.eval, index),
        confusion=_confusion(evaluator, index, confusion_conf),
        confusion_conf=confusion_conf,
        images=len(index) - len(left_out),
        detections=len(found),
    )


def match_boxes(index: CocoIndex, found: FoundObjects) -> hotcoco.COCOeval:
    """Match detections with objects and count the metrics.

    Args:
        index: the images and the objects in them.
        found: the detections.

    Returns:
        The evaluator, with `stats` and curves. Its annotation i + 1 is object i of `index.truth`,
        its detection i + 1 is detection i.

    Raises:
        DataError: as `evaluate_boxes`.
    """
    bad = ~(np.isfinite(found.xywh).all(axis=1) & np.isfinite(found.scores))
    if bad.any():
        i = int(np.argmax(bad))
        raise DataError(
            f"image {index.image_id(int(found.owners[i]))!r}: box and score of a detection must be "
            f"finite numbers, got {found.xywh[i].tolist()} and {found.scores[i]}"
        )
    # Evaluators take images in the order of their numbers; texts come after numbers.
    ids, truth = index.image_ids, index.truth
    ordered = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))
    numbers = np.empty(len(ids), np.int64)
    numbers[ordered] = np.arange(1, len(ids) + 1)
    categories = np.array(index.category_ids, np.int64)
    named = zip(index.category_ids, index.class_names, strict=True)
    # Annotations count from 1: evaluators take a match with id 0 for no match.
    gt = hotcoco.COCO.from_arrays(
        [{"id": n, "width": 0, "height": 0, "file_name": ""} for n in range(1, len(ids) + 1)],
        [{"id": number, "name": name} for number, name in named],
        numbers[truth.owners],
        categories[truth.labels],
        truth.xywh,
        area=truth.areas,
        iscrowd=truth.crowd,
    )
    rows = (numbers[found.owners], found.xywh, found.scores, categories[found.labels])
    evaluator = hotcoco.COCOeval(gt, gt.load_res(np.column_stack(rows)), "bbox")
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
