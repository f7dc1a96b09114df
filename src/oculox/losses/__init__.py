"""Assignment of objects to prediction cells, and the loss."""

from oculox.losses.criterion import Criterion, build_criterion

__all__ = ["Criterion", "build_criterion"]
