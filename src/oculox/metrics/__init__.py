"""COCO figures."""

from oculox.metrics.coco import CONFUSION_CONF, evaluate_boxes
from oculox.metrics.figures import FIGURES, ClassFigures, CocoFigures

__all__ = ["CONFUSION_CONF", "FIGURES", "ClassFigures", "CocoFigures", "evaluate_boxes"]
