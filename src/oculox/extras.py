"""What the backends of optional runtimes share: importing them and looking for files."""

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oculox.errors import CheckpointError, MissingExtraError


def require(package: str, *, extra: str, purpose: str) -> Any:
    """Import an optional package.

    Args:
        package: its import name.
        extra: of Oculox, that brings it.
        purpose: what needs it, as the start of a sentence.

    Raises:
        MissingExtraError: when it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package.split(".")[0]:
            raise
        raise MissingExtraError(package=package, extra=extra, purpose=purpose) from None


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
