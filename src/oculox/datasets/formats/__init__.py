"""Converters between annotation formats: Pascal VOC, YOLO and COCO in, COCO and YOLO out."""

from typing import Literal

SourceFormat = Literal["voc", "yolo", "coco"]
"""What can be read."""
TargetFormat = Literal["coco", "yolo"]
"""What can be written."""
LabelFormat = Literal["coco", "yolo", "labelstudio", "cvat"]
"""What a model's detections can be written as, for correction."""
