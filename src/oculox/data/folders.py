"""Writing a data set folder: all of it or nothing, and never over somebody's files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from oculox.errors import DataError

FileMode = Literal["copy", "symlink"]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` whose entries move there when the block succeeds.

    Raises:
        DataError: `target` is a file or holds something, or the disk refuses.
    """
    require_free(target)
    with scratch_beside(target) as scratch:
        yield scratch
        move_entries(scratch, target)


def require_free(target: Path) -> None:
    """Refuse a target that is a file or a folder with something in it.

    Raises:
        DataError: it is.
    """
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file; name a new or empty folder")
    if target.is_dir() and any(target.iterdir()):
        raise DataError(f"{target} already holds files; name a new or empty folder")


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `target`, removed at the end.

    Raises:
        DataError: the disk refuses, here or inside the block.
    """
    target = target.expanduser().absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            yield Path(scratch)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error}") from error


def move_entries(source: Path, target: Path) -> None:
    """Move everything in `source` into `target`, replacing folders of the same name."""
    target.mkdir(exist_ok=True)
    for entry in sorted(source.iterdir()):
        if (target / entry.name).is_dir():
            shutil.rmtree(target / entry.name)
        entry.rename(target / entry.name)


def place_file(source: Path, target: Path, *, mode: FileMode) -> None:
    """Copy a file byte by byte, or link to it; folders are made as needed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "symlink":
        target.symlink_to(source.absolute())
    else:
        shutil.copyfile(source, target)
