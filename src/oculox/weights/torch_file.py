"""PyTorch files in and out: written atomically, and never a pickle from outside."""

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from oculox.errors import CheckpointError, first_line
from oculox.files import write_atomically

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

_DOS_FOLDER = 0x10


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
        CheckpointError: missing, truncated, damaged (its checksums are compared), not PyTorch's,
            or holding pickled objects.
    """
    if not path.is_file():
        kind = "a folder, expected a file" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {kind}")
    try:
        # PyTorch warns of odd pickles before it refuses them; the error says enough.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_parts(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
            _check_tensors(content)
    except pickle.UnpicklingError as error:
        # PyTorch's own text says how to run what is in the file.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"{path}: refused: it holds pickled objects besides tensors and plain values"
            + (f" ({named[1]})" if named else ", or is not a PyTorch file")
        ) from None
    except MemoryError:
        # A few wrong bytes in a file of the format before PyTorch 1.6 may promise gigabytes.
        raise CheckpointError(
            f"{path}: damaged, or larger than the memory of this machine can hold"
        ) from None
    except _DAMAGED as error:
        # Of the others PyTorch says nothing that helps: the key that a table of its own lacks, or
        # how to load without the restrictions.
        told = isinstance(error, (RuntimeError, OSError, ValueError, zipfile.BadZipFile))
        detail = f" ({first_line(error)})" if told and "weights_only" not in str(error) else ""
        raise CheckpointError(f"{path}: damaged, or not a PyTorch file{detail}") from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: expected a mapping of tensors, got {type(content).__name__}"
        )
    return content


def _check_parts(path: Path) -> None:
    """Compare each part of an archive with its checksum, which PyTorch writes and does not read.

    PyTorch compresses nothing: a compressed part may be made to fill the memory.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise ValueError("its end is missing: copy or download it again")
        return  # the format before PyTorch 1.6 has no checksums; what else it is, PyTorch says
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("its parts are compressed")
        # PyTorch reads nothing of a folder, and leaves the tensor as the memory happens to be.
        if any(part.is_dir() or part.external_attr & _DOS_FOLDER for part in archive.infolist()):
            raise ValueError("one of its parts is marked as a folder")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its part '{damaged}' does not match")


def _check_tensors(content: object) -> None:
    """Refuse tensors that are not their plain numbers.

    A few bytes may stand for a tensor of any size: one number repeated, or almost all zeros.
    """
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            plain = value.layout is torch.strided and value.device.type == "cpu"
            if not plain or value.is_quantized or value.is_nested or _is_short(value):
                raise ValueError(f"a tensor of shape {tuple(value.shape)} is not stored as numbers")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))  # it may hold itself
            waiting += value.values() if isinstance(value, dict) else value


def _is_short(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
