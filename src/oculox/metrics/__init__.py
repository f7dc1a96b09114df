"""COCO metrics."""

from oculox.metrics.coco import CONFUSION_CONF, evaluate_boxes
from oculox.metrics.values import METRICS, ClassMetrics, CocoMetrics

__all__ = ["CONFUSION_CONF", "METRICS", "ClassMetrics", "CocoMetrics", "evaluate_boxes"]
