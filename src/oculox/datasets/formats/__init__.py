"""Converters between annotation formats: Pascal VOC, YOLO and COCO in, COCO and YOLO out."""
