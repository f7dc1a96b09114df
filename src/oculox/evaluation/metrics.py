"""The COCO metrics as values, and the tables people read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from oculox.types import IntArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Metrics of one class; -1 where the data has no object of it, as COCO writes it.

    Attributes:
        name: the class.
        category_id: its id in the annotation file.
        objects: objects counted (crowds are not).
        ap: mean average precision over IoU 0.50 to 0.95.
        ap50: average precision at IoU 0.5.
        ar: mean recall over IoU 0.50 to 0.95, 100 detections per image.
        precision: at `confidence` and IoU 0.5.
        recall: at `confidence` and IoU 0.5.
        f1: harmonic mean of the two; the best over the points of the precision-recall curve.
        confidence: the score threshold with that best F1.
    """

    name: str
    category_id: int
    objects: int
    ap: float
    ap50: float
    ar: float
    precision: float
    recall: float
    f1: float
    confidence: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CocoMetrics:
    """The twelve COCO metrics, in COCO's order, and more; -1 where nothing was to be found.

    Attributes:
        ap: mean average precision over IoU 0.50 to 0.95, all areas, 100 detections per image.
        ap50: the same at IoU 0.5.
        ap75: the same at IoU 0.75.
        ap_small: `ap` of objects under 32 x 32 pixels.
        ap_medium: `ap` of objects from there to 96 x 96.
        ap_large: `ap` of objects above.
        ar1: mean recall with 1 detection per image.
        ar10: with 10.
        ar100: with 100.
        ar_small: `ar100` of small objects.
        ar_medium: `ar100` of medium objects.
        ar_large: `ar100` of large objects.
        classes: metrics of each class, in order of category id.
        confusion: int64 (C + 1, C + 1), objects in rows, detections in columns; the last row
            and column are the background: invented and missed objects. Counted at IoU 0.5.
        confusion_conf: lowest score that counted there.
        images: number of images.
        detections: number of detections.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    classes: tuple[ClassMetrics, ...]
    confusion: IntArray
    confusion_conf: float
    images: int
    detections: int

    def as_dict(self) -> dict[str, float]:
        """The twelve metrics by name, in COCO's order."""
        return {name: getattr(self, name) for name in METRICS}

    def table(self) -> str:
        """The twelve lines that every COCO evaluator prints."""
        return metrics_table(self.as_dict())

    def class_table(self) -> str:
        """One line a class: name, objects, AP, AP50, AR, then the best-F1 operating point."""
        width = max([len(c.name) for c in self.classes] + [5])
        head = (
            f"{'class':<{width}}  objects     AP   AP50     AR  precision  recall     F1  at score"
        )
        rows = [
            f"{c.name:<{width}}  {c.objects:>7d}  {c.ap:5.3f}  {c.ap50:5.3f}  {c.ar:5.3f} "
            f" {c.precision:9.3f}  {c.recall:6.3f}  {c.f1:5.3f}  {c.confidence:8.3f}"
            for c in self.classes
        ]
        return "\n".join([head, *rows])


def metrics_table(metrics: Mapping[str, float]) -> str:
    """The twelve lines that every COCO evaluator prints.

    Args:
        metrics: values by the names in `METRICS`.
    """
    return "\n".join(
        f" {kind} @[ IoU={iou:<9} | area={area:>6s} | maxDets={most:>3d} ] = {metrics[name]:0.3f}"
        for name, (kind, iou, area, most) in zip(METRICS, _LINES, strict=True)
    )


METRICS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
"""Names of the twelve metrics, in COCO's order."""

_AREAS = ("small", "medium", "large")
_AP, _AR = "Average Precision  (AP)", "Average Recall     (AR)"
_LINES = (
    (_AP, "0.50:0.95", "all", 100),
    (_AP, "0.50", "all", 100),
    (_AP, "0.75", "all", 100),
    *((_AP, "0.50:0.95", area, 100) for area in _AREAS),
    *((_AR, "0.50:0.95", "all", most) for most in (1, 10, 100)),
    *((_AR, "0.50:0.95", area, 100) for area in _AREAS),
)
