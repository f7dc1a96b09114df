"""The seven networks."""

from oculox.models.yolox import YOLOX, build_model

__all__ = ["YOLOX", "build_model"]
