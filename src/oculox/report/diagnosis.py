"""Which detections are right and which objects were found, image by image and by score.

The matching is the one of the COCO metrics at IoU 0.5 (`oculox.evaluation.coco_metrics`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import hotcoco
import numpy as np
import numpy.typing as npt

from oculox.data.coco import CocoIndex
from oculox.evaluation.coco_metrics import CONFUSION_CONF, match_boxes, without_objects
from oculox.evaluation.evaluate import Evaluation
from oculox.types import IntArray

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageCounts:
    """What was found in each image with scores of at least a limit; int64 (images,) each.

    Attributes:
        found: objects with a detection of their class.
        false: detections without an object of their class.
        missed: objects without a detection.
    """

    found: IntArray
    false: IntArray
    missed: IntArray

    @property
    def f1(self) -> Doubles:
        """F1 of each image, 1 where there was nothing to find and nothing was found."""
        errors = self.false + self.missed
        f1: Doubles = 2 * self.found / np.maximum(2 * self.found + errors, 1)
        return np.where(self.found + errors == 0, 1.0, f1)

    def text(self, i: int) -> str:
        """The counts of image i, for people."""
        return (
            f"{self.found[i]} found, {self.missed[i]} missed, {self.false[i]} false, "
            f"F1 {self.f1[i]:.2f}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """Every detection and every object of an evaluation, matched; made by `diagnose`.

    Attributes:
        index: the data, without the objects of images that were left out.
        evaluator: of the COCO metrics.
        scores: float64 (D,), of each detection.
        owners: int64 (D,), index of its image.
        labels: int64 (D,), its class.
        boxes: float64 (D, 4), xyxy pixels of its image.
        right: bool (D,), whether it found an object.
        counted: bool (D,), false for those on crowd regions or beyond 100 of a class in an image.
        found_at: float64 (m,), for each object of `index.truth` the score of the detection that
            found it, -1 where none did.
    """

    index: CocoIndex
    evaluator: hotcoco.COCOeval
    scores: Doubles
    owners: IntArray
    labels: IntArray
    boxes: Doubles
    right: Flags
    counted: Flags
    found_at: Doubles

    def images(self, conf: float = CONFUSION_CONF) -> ImageCounts:
        """What was found in each image with scores of at least `conf`."""
        truth, count = self.index.truth, len(self.index)
        kept = self.counted & (self.scores >= conf)
        objects = np.bincount(truth.owners[~truth.crowd], minlength=count)
        found = np.bincount(self.owners[kept & self.right], minlength=count)
        false = np.bincount(self.owners[kept & ~self.right], minlength=count)
        return ImageCounts(found=found, false=false, missed=objects - found)

    def f1_curve(self, limits: Doubles, label: int | None = None) -> Doubles:
        """F1 at each lowest score in `limits`, of one class or of all detections together."""
        truth = self.index.truth
        of_class = np.ones(len(self.labels), np.bool_) if label is None else self.labels == label
        kept = of_class & self.counted
        right, false = (np.sort(self.scores[kept & (self.right == side)]) for side in (True, False))
        found = len(right) - np.searchsorted(right, limits)
        wrong = len(false) - np.searchsorted(false, limits)
        objects = ~truth.crowd if label is None else ~truth.crowd & (truth.labels == label)
        result: Doubles = 2 * found / np.maximum(found + wrong + objects.sum(), 1)
        return result

    def precision_curves(self) -> Doubles:
        """Precision at IoU 0.5 and recall 0, 0.01, ... 1: (101, C), -1 without objects."""
        curves: Any = self.evaluator.eval
        # (IoU, recall, class, area, limit); all areas, 100 detections.
        return np.asarray(curves["precision"])[0, :, :, 0, 2]

    def calibration(self) -> dict[str, Any]:
        """Ten bins of scores with the precision in each, and the expected calibration error."""
        return dict(self.evaluator.calibration(n_bins=10, iou_threshold=0.5))


def diagnose(result: Evaluation, index: CocoIndex) -> Diagnosis:
    """Match the detections of an evaluation with the objects of its data.

    Args:
        result: as `oculox.evaluation.evaluate` returns it.
        index: the data that it was evaluated on.

    Raises:
        DataError: as `evaluate_boxes`.
    """
    index = without_objects(index, result.left_out_ids)
    found = result.found
    evaluator = match_boxes(index, found)
    matches = evaluator.image_diagnostics(iou_thr=0.5)
    status = [matches["dt_status"].get(i) for i in range(1, len(found) + 1)]
    found_at = np.full(len(index.truth.labels), -1.0)
    for annotation, detection in matches["gt_match"].items():
        found_at[annotation - 1] = found.scores[detection - 1]
    return Diagnosis(
        index=index,
        evaluator=evaluator,
        scores=found.scores,
        owners=found.owners,
        labels=found.labels,
        boxes=np.concatenate((found.xywh[:, :2], found.xywh[:, :2] + found.xywh[:, 2:]), axis=1),
        right=np.array([one == "tp" for one in status], np.bool_),
        counted=np.array([one is not None for one in status], np.bool_),
        found_at=found_at,
    )
