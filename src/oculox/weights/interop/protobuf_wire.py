"""The wire format of protocol buffers: just enough for MindSpore's checkpoints and for metadata.

Source: the Protocol Buffers encoding guide. A message is a row of fields; each starts with a
varint key, ``number << 3 | kind``. Files are mapped, not read: a field's content is a view of the
file, and every length is compared with what is left of the message, so that a damaged or hostile
file ends in a clear error and never in a large allocation. Errors name no file: the caller does.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from oculox.errors import CheckpointError

Value = int | memoryview
"""Of a field: a number (unsigned), or the bytes of a text, an array or a message."""

_VARINT, _BYTES = 0, 2
_MAX_VARINT_BYTES = 10
_MAX_TEXT_BYTES = 1 << 20


def map_file(path: Path) -> memoryview:
    """The content of a file; pages are read when they are looked at.

    Raises:
        CheckpointError: when there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return memoryview(b"")  # cannot be mapped
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The (number, value) of each field of a message, in order.

    Raises:
        CheckpointError: when the bytes are not a valid message of numbers and bytes.
    """
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        value, position = _read_varint(message, position)
        if key & 7 == _VARINT:
            yield key >> 3, value
        elif key & 7 == _BYTES:
            if value > len(message) - position:
                raise damaged(f"{value} bytes announced, {len(message) - position} left: cut short")
            yield key >> 3, message[position : position + value]
            position += value
        else:
            raise damaged(f"field {key >> 3} has the unexpected wire type {key & 7}")


def as_bytes(value: Value) -> memoryview:
    """The bytes of a field.

    Raises:
        CheckpointError: when it is a number.
    """
    if isinstance(value, int):
        raise damaged("a field has the wire type of a number, expected bytes")
    return value


def as_text(value: Value) -> str:
    """The text of a field.

    Raises:
        CheckpointError: when it is a number, longer than 1 MiB or not UTF-8.
    """
    data = as_bytes(value)
    if len(data) > _MAX_TEXT_BYTES:
        raise damaged(f"a name of {len(data)} bytes")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise damaged("a name that is not UTF-8") from None


def as_integers(value: Value) -> list[int]:
    """The int64 numbers of one field of a repeated field, written one by one or packed."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, position = [], 0
    while position < len(value):
        number, position = _read_varint(value, position)
        numbers.append(_signed(number))
    return numbers


def read_metadata(path: Path) -> dict[str, str]:
    """The texts kept with an ONNX or MindIR model, by key; its weights are not read.

    Both keep them in the same way: field 14 of the model, with key (1) and value (2).

    Raises:
        CheckpointError: when the file is missing, damaged or of another kind.
    """
    texts: dict[str, str] = {}
    message = map_file(path)
    try:
        for number, value in read_fields(message):
            if number == 14:
                entry = {key: as_text(text) for key, text in read_fields(as_bytes(value))}
                texts[entry.get(1, "")] = entry.get(2, "")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return texts


def damaged(what: str) -> CheckpointError:
    """The error for a message that is not as it should be."""
    return CheckpointError(f"damaged or not what its name says ({what})")


def varint(value: int) -> bytes:
    """An unsigned integer below 2**64 as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int) -> bytes:
    """A varint field; negative int64 values are written as two's complement."""
    return varint(number << 3 | _VARINT) + varint(value & (1 << 64) - 1)


def bytes_header(number: int, size: int) -> bytes:
    """What comes before the `size` bytes of a field."""
    return varint(number << 3 | _BYTES) + varint(size)


def bytes_field(number: int, content: bytes) -> bytes:
    """A field of bytes, a text in UTF-8 or a message."""
    return bytes_header(number, len(content)) + content


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number and the position after it."""
    value = 0
    for i, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80 and value < 1 << 64:
            return value, position + i + 1
    raise damaged("not a valid number: cut short?")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
