"""Oculox: YOLOX for everyone. Train, evaluate, export and use object detectors.

The public names are imported when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oculox.errors import OculoxError, RenamedKeyWarning
from oculox.version import __version__

if TYPE_CHECKING:
    from oculox.api import (
        Detector,
        TrainCallback,
        benchmark,
        check_data,
        compare,
        convert,
        evaluate,
        export,
        list_models,
        predict_many,
        train,
    )
    from oculox.config import Config, load_config
    from oculox.types import Detection, Detections

__all__ = [
    "Config",
    "Detection",
    "Detections",
    "Detector",
    "OculoxError",
    "RenamedKeyWarning",
    "TrainCallback",
    "__version__",
    "benchmark",
    "check_data",
    "compare",
    "convert",
    "evaluate",
    "export",
    "list_models",
    "load_config",
    "predict_many",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'oculox' has no attribute {name!r}")
    light = {
        "Config": "config",
        "load_config": "config",
        "Detection": "types",
        "Detections": "types",
    }
    module = importlib.import_module(f"oculox.{light.get(name, 'api')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__
