"""What the backends of optional runtimes share: importing them and looking for files."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oculox.errors import CheckpointError, MissingExtraError

# A value that the user has set stays.
_TELEMETRY_OFF = {
    "onnxruntime": ("ORT_DISABLE_TELEMETRY", "1"),
    "ray": ("RAY_USAGE_STATS_ENABLED", "0"),
}


def require(package: str, *, extra: str, purpose: str) -> Any:
    """Import an optional package, with its telemetry off.

    Args:
        package: its import name.
        extra: of Oculox, that brings it.
        purpose: what needs it, as the start of a sentence.

    Raises:
        MissingExtraError: when it is not installed.
    """
    _turn_telemetry_off(package)
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package.split(".")[0]:
            raise
        raise MissingExtraError(package=package, extra=extra, purpose=purpose) from None


def _turn_telemetry_off(package: str) -> None:
    """Keep a package from sending to its maker what it observes: device, paths, networks."""
    if package in _TELEMETRY_OFF:
        os.environ.setdefault(*_TELEMETRY_OFF[package])
    if package in ("openvino", "nncf"):
        # They have no setting for it, and work without this package, which sends. To Python, None
        # is a package that is not there.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def require_installed(packages: Iterable[str], *, extra: str, purpose: str) -> None:
    """See `require`, which imports: this only looks whether packages are there, before slow work.

    Raises:
        MissingExtraError: for the first that is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package=package, extra=extra, purpose=purpose)


def existing(path: Path) -> Path:
    """The path itself.

    Raises:
        CheckpointError: when there is nothing of that name.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    return path
