"""Oculox: YOLOX for everyone. Train, evaluate, export and use object detectors."""

from oculox.api import Detector, list_models, train
from oculox.config import Config, load_config
from oculox.errors import OculoxError
from oculox.types import Detections
from oculox.version import __version__

__all__ = [
    "Config",
    "Detections",
    "Detector",
    "OculoxError",
    "__version__",
    "list_models",
    "load_config",
    "train",
]
