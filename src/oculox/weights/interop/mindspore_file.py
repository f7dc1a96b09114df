"""MindSpore's `.ckpt` files, read and written without MindSpore.

A file is a protobuf message ``Checkpoint``: ``value`` (field 1, repeated) with ``tag`` (1, the
parameter's name) and ``tensor`` (2): ``dims`` (1, repeated int64), ``tensor_type`` (2, such as
``Float32``) and ``tensor_content`` (3, little-endian bytes). Large parameters are several values
in a row with the same tag, each with the dimensions of the whole. A text (tensor type ``str``)
is UTF-32. Some writers append ``crc_num`` and ten bytes of CRC-32 after the message. Source: the
message definition in MindSpore 2.10, and files written by it.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from oculox.errors import CheckpointError
from oculox.files import write_atomically
from oculox.weights.interop.protobuf_wire import (
    as_bytes,
    as_integers,
    as_text,
    bytes_field,
    bytes_header,
    damaged,
    map_file,
    number_field,
    read_fields,
)

_TYPES: dict[str, torch.dtype] = {
    "Float32": torch.float32,
    "Float16": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float64": torch.float64,
    "Int8": torch.int8,
    "Int16": torch.int16,
    "Int32": torch.int32,
    "Int64": torch.int64,
    "UInt8": torch.uint8,
    "Bool": torch.bool,
}
_TYPE_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_TEXT = "str"
_MAX_DIMS = 8
# MindSpore cuts parameters above this size, so that no message reaches protobuf's 2 GiB.
_SLICE_BYTES = 512 * 1024 * 1024
_CRC_MARK = b"crc_num"
_TRAILER_BYTES = len(_CRC_MARK) + 10


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A parameter, with views of its slices in the file, in order."""

    name: str
    type: str
    shape: tuple[int, ...]
    slices: list[memoryview]


def is_mindspore(path: Path) -> bool:
    """Whether a file starts like a MindSpore checkpoint (its first field is a ``value``)."""
    with path.open("rb") as file:
        return file.read(1) == b"\x0a"


def read_mindspore(
    path: Path, *, keep: Callable[[str], bool] | None = None
) -> dict[str, Tensor | str]:
    """Tensors and texts of a MindSpore checkpoint, by name, in the file's order.

    Only what is kept is held in memory.

    Args:
        path: the `.ckpt` file.
        keep: which names to read; None for all of them.

    Raises:
        CheckpointError: missing, cut short, damaged, encrypted, or another program's file.
    """
    message = map_file(path)
    try:
        entries = _index(_without_crc(message))
        return {e.name: _load(e) for e in entries if keep is None or keep(e.name)}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def write_mindspore(
    path: Path, content: Mapping[str, Tensor | str], *, slice_bytes: int = _SLICE_BYTES
) -> None:
    """Write tensors and texts as a MindSpore checkpoint, atomically.

    Args:
        path: the `.ckpt` file.
        content: tensors or texts by name; written in this order.
        slice_bytes: larger tensors are cut into slices of this many bytes.

    Raises:
        OculoxError: when the file cannot be written.
        ValueError: when a tensor has a type that MindSpore does not know.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for name, value in content.items():
                _write_entry(file, name, value, slice_bytes=slice_bytes)

    write_atomically(path, write)


def _index(message: memoryview) -> list[_Entry]:
    entries: list[_Entry] = []
    seen: set[str] = set()
    for number, value in read_fields(message):
        if number != 1:
            raise CheckpointError(
                f"not a MindSpore checkpoint (unexpected field {number}); encrypted ones must be "
                "decrypted first"
            )
        entry = _parse_value(as_bytes(value))
        last = entries[-1] if entries else None
        if last is not None and last.name == entry.name:
            if (last.type, last.shape) != (entry.type, entry.shape):
                raise damaged(f"slices of '{entry.name}' do not agree")
            last.slices.extend(entry.slices)
            continue
        if entry.name in seen:
            raise damaged(f"'{entry.name}' comes twice")
        seen.add(entry.name)
        entries.append(entry)
    if not entries:
        raise CheckpointError("an empty file, not a MindSpore checkpoint")
    return entries


def _parse_value(message: memoryview) -> _Entry:
    fields = dict(read_fields(message))
    if 3 in fields:
        raise CheckpointError("holds a map parameter, which no YOLOX has; not its weights")
    name = as_text(fields.get(1, memoryview(b"")))
    if not name or 2 not in fields:
        raise damaged("a value without name or tensor")
    dims: list[int] = []
    kind, content = None, None
    for number, value in read_fields(as_bytes(fields[2])):
        if number == 1:
            dims += as_integers(value)
        elif number == 2:
            kind = as_text(value)
        elif number == 3:
            content = as_bytes(value)
    if kind is None or content is None:
        raise damaged(f"'{name}' has no type or no content")
    if len(dims) > _MAX_DIMS or any(d < 0 for d in dims):
        raise damaged(f"'{name}' has dimensions {dims[:9]}")
    if dims == [0] and content:
        dims = []  # how scalars were once written, and texts still are
    return _Entry(name, kind, tuple(dims), [content])


def _load(entry: _Entry) -> Tensor | str:
    if entry.type == _TEXT:
        try:
            return b"".join(entry.slices).decode("utf-32-le")
        except UnicodeDecodeError:
            raise damaged(f"'{entry.name}' is not a text") from None
    dtype = _TYPES.get(entry.type)
    if dtype is None:
        raise CheckpointError(
            f"'{entry.name}' has the type {entry.type!r}; known are {', '.join(_TYPES)}"
        )
    # Compared before anything is allocated: the content is in the file, so it bounds the memory.
    expected, size = math.prod(entry.shape) * dtype.itemsize, sum(map(len, entry.slices))
    if size != expected:
        raise damaged(
            f"'{entry.name}' of shape {entry.shape} and type {entry.type} needs {expected} bytes, "
            f"has {size}"
        )
    if not expected:
        return torch.empty(entry.shape, dtype=dtype)
    data = bytearray().join(entry.slices)
    return torch.frombuffer(data, dtype=dtype).reshape(entry.shape)


def _without_crc(file: memoryview) -> memoryview:
    """The message, after checking the sum that may follow it."""
    body, tail = file[:-_TRAILER_BYTES], bytes(file[-_TRAILER_BYTES:])
    if not tail.startswith(_CRC_MARK):
        return file
    if zlib.crc32(body) != int.from_bytes(tail[len(_CRC_MARK) :], "big"):
        raise CheckpointError("damaged: its checksum (CRC-32) does not match")
    return body


def _write_entry(file: BinaryIO, name: str, value: Tensor | str, *, slice_bytes: int) -> None:
    if isinstance(value, str):
        _write_value(file, name, [0], _TEXT, memoryview(value.encode("utf-32-le")))
        return
    kind = _TYPE_NAMES.get(value.dtype)
    if kind is None:
        raise ValueError(f"'{name}' is of type {value.dtype}, which MindSpore does not know")
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    data = flat.numpy().data
    for start in range(0, max(len(data), 1), slice_bytes):
        _write_value(file, name, list(value.shape), kind, data[start : start + slice_bytes])


def _write_value(
    file: BinaryIO, name: str, dims: list[int], kind: str, content: memoryview
) -> None:
    head = b"".join(number_field(1, d) for d in dims) + bytes_field(2, kind.encode())
    head += bytes_header(3, len(content))
    tag = bytes_field(1, name.encode())
    tensor_header = bytes_header(2, len(head) + len(content))
    file.write(bytes_header(1, len(tag) + len(tensor_header) + len(head) + len(content)))
    file.write(tag + tensor_header + head)
    file.write(content)
