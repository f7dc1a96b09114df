"""Reading and writing weight files safely: atomic writes, and never a pickle from outside."""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from oculox.errors import CheckpointError, OculoxError

# What PyTorch's restricted unpickler and its archive reader raise on arbitrary bytes.
_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that `path` holds the old content or the new one, never a part.

    Args:
        path: the final name; its folder is created.
        write: writes the whole content to the path it is given, in the same folder.

    Raises:
        OculoxError: when the disk is full or the folder cannot be written; `path` is unchanged.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; give the file the permissions any new file would get.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise OculoxError(
            f"{path}: could not be written ({_reason(error)}); what was there before is unchanged"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    """The system's words: PyTorch turns a failed write of its archive into a RuntimeError."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error) or type(error).__name__).splitlines()[0]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically.

    Raises:
        OculoxError: when it cannot be written.
    """
    write_atomically(path, lambda temporary: _put(temporary, text))


def _put(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_torch(path: Path, content: dict[str, Any]) -> None:
    """`torch.save`, atomically.

    Raises:
        OculoxError: when the file cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.save(content, file)

    write_atomically(path, write)


def load_torch(path: Path) -> dict[str, Any]:
    """Load a `.pt` or `.pth` of plain values and tensors, on the CPU.

    Raises:
        CheckpointError: missing, truncated, not PyTorch's, or holding pickled objects.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        # PyTorch muses about odd pickles on the way to refusing them; the error says it all.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        detail = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: refused: it holds pickled objects besides tensors and plain values, "
            f"or is no PyTorch file ({detail})"
        ) from None
    except _DAMAGED as error:
        detail = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: damaged or no PyTorch file ({detail})") from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: expected a mapping of tensors, got {type(content).__name__}"
        )
    return content
