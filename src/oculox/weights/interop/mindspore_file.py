"""MindSpore's `.ckpt` files, read and written without MindSpore.

A file is a protobuf message ``Checkpoint``: ``value`` (field 1, repeated) with ``tag`` (1, the
parameter's name) and ``tensor`` (2): ``dims`` (1, repeated int64), ``tensor_type`` (2, such as
``Float32``) and ``tensor_content`` (3, little-endian bytes). Large parameters are several values
in a row with the same tag, each with the dimensions of the whole. A text (tensor type ``str``)
is UTF-32. Some writers append ``crc_num`` and ten bytes of CRC-32 behind the message. Source: the
message definition in MindSpore 2.10, and files written by it.
"""

from __future__ import annotations

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
    BYTES,
    Field,
    WireReader,
    bytes_field,
    bytes_header,
    number_field,
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
_CRC_BYTES = 10
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A parameter's place in the file: its slices' contents, in order."""

    name: str
    type: str
    shape: tuple[int, ...]
    slices: list[tuple[int, int]]

    @property
    def nbytes(self) -> int:
        return sum(end - start for start, end in self.slices)


def is_mindspore(path: Path) -> bool:
    """Whether a file starts like a MindSpore checkpoint (its first field is a ``value``)."""
    with path.open("rb") as file:
        return file.read(1) == b"\x0a"


def read_mindspore(
    path: Path, *, keep: Callable[[str], bool] | None = None
) -> dict[str, Tensor | str]:
    """Tensors and texts of a MindSpore checkpoint, by name, in the file's order.

    The file is read once, entry by entry; only what is kept is held in memory.

    Args:
        path: the `.ckpt` file.
        keep: which names to read; None for all of them.

    Raises:
        CheckpointError: missing, cut short, damaged, encrypted, or another program's file.
    """
    where = str(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        end = _check_crc(file, size, where)
        entries = _index(WireReader(file, start=0, end=end, where=where), size=end)
        return {e.name: _load(file, e, where) for e in entries if keep is None or keep(e.name)}


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


def _index(reader: WireReader, *, size: int) -> list[_Entry]:
    entries: list[_Entry] = []
    seen: set[str] = set()
    for field in reader:
        if field.number != 1 or field.kind != BYTES:
            raise CheckpointError(
                f"{reader.where}: not a MindSpore checkpoint (at byte {field.start}: "
                f"unexpected field {field.number}); encrypted ones must be decrypted first"
            )
        entry = _parse_value(reader.inside(field), field)
        last = entries[-1] if entries else None
        if last is not None and last.name == entry.name:
            if (last.type, last.shape) != (entry.type, entry.shape):
                raise reader.damaged(field.start, f"slices of '{entry.name}' do not agree")
            last.slices.extend(entry.slices)
            continue
        if entry.name in seen:
            raise reader.damaged(field.start, f"'{entry.name}' comes twice")
        seen.add(entry.name)
        entries.append(entry)
    if not entries:
        raise CheckpointError(f"{reader.where}: an empty file, not a MindSpore checkpoint")
    return entries


def _parse_value(reader: WireReader, value: Field) -> _Entry:
    name, tensor = None, None
    for field in reader:
        if field.number == 1:
            name = reader.text(field)
        elif field.number == 2:
            tensor = field
        elif field.number == 3:
            raise CheckpointError(
                f"{reader.where}: holds a map parameter, which no YOLOX has; not its weights"
            )
    if not name or tensor is None:
        raise reader.damaged(value.start, "a value without name or tensor")
    return _parse_tensor(reader.inside(tensor), name)


def _parse_tensor(reader: WireReader, name: str) -> _Entry:
    dims: list[int] = []
    kind, content = None, None
    for field in reader:
        if field.number == 1:
            dims += reader.integers(field)
        elif field.number == 2:
            kind = reader.text(field)
        elif field.number == 3:
            reader.expect(field, BYTES)
            content = (field.start, field.end)
    if kind is None or content is None:
        raise CheckpointError(f"{reader.where}: damaged: '{name}' has no type or no content")
    if len(dims) > _MAX_DIMS or any(d < 0 for d in dims):
        raise CheckpointError(f"{reader.where}: damaged: '{name}' has dimensions {dims[:9]}")
    if dims == [0] and content[1] > content[0]:
        dims = []  # how scalars were once written, and texts still are
    return _Entry(name, kind, tuple(dims), [content])


def _load(file: BinaryIO, entry: _Entry, where: str) -> Tensor | str:
    if entry.type == _TEXT:
        try:
            return _read_slices(file, entry, where).decode("utf-32-le")
        except UnicodeDecodeError:
            raise CheckpointError(f"{where}: damaged: '{entry.name}' is no text") from None
    dtype = _TYPES.get(entry.type)
    if dtype is None:
        raise CheckpointError(
            f"{where}: '{entry.name}' has the type {entry.type!r}; known are {', '.join(_TYPES)}"
        )
    # Compared before anything is allocated: the content is in the file, so it bounds the memory.
    expected = math.prod(entry.shape) * dtype.itemsize
    if entry.nbytes != expected:
        raise CheckpointError(
            f"{where}: damaged: '{entry.name}' of shape {entry.shape} and type {entry.type} "
            f"needs {expected} bytes, has {entry.nbytes}"
        )
    if not expected:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(_read_slices(file, entry, where), dtype=dtype).reshape(entry.shape)


def _read_slices(file: BinaryIO, entry: _Entry, where: str) -> bytearray:
    data = bytearray(entry.nbytes)
    view, position = memoryview(data), 0
    for start, end in entry.slices:
        file.seek(start)
        while start < end:
            # readinto of a file may stop early.
            got = file.readinto(view[position : position + end - start])  # type: ignore[attr-defined]
            if not got:
                raise CheckpointError(f"{where}: '{entry.name}' is cut short")
            start, position = start + got, position + got
    return data


def _check_crc(file: BinaryIO, size: int, where: str) -> int:
    """The end of the message, after checking the sum that may follow it."""
    trailer = len(_CRC_MARK) + _CRC_BYTES
    if size < trailer:
        return size
    file.seek(size - trailer)
    tail = file.read(trailer)
    if not tail.startswith(_CRC_MARK):
        return size
    file.seek(0)
    crc, left = 0, size - trailer
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            break
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    if crc != int.from_bytes(tail[len(_CRC_MARK) :], "big"):
        raise CheckpointError(f"{where}: damaged: its checksum (CRC-32) does not match")
    return size - trailer


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
