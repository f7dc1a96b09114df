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
        benchmark,
        check_data,
        convert,
        evaluate,
        export,
        list_models,
        train,
    )
    from oculox.config import Config, load_config
    from oculox.types import Detections

_HOMES = {
    "oculox.api": (
        "Detector",
        "benchmark",
        "check_data",
        "convert",
        "evaluate",
        "export",
        "list_models",
        "train",
    ),
    "oculox.config": ("Config", "load_config"),
    "oculox.types": ("Detections",),
}

__all__ = [
    "Config",
    "Detections",
    "Detector",
    "OculoxError",
    "RenamedKeyWarning",
    "__version__",
    "benchmark",
    "check_data",
    "convert",
    "evaluate",
    "export",
    "list_models",
    "load_config",
    "train",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            module = importlib.import_module(home)
            # All names at once: loading `oculox.api` leaves the room `oculox.export` in the
            # place of the function of that name.
            globals().update({public: getattr(module, public) for public in names})
            return globals()[name]
    raise AttributeError(f"module 'oculox' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
