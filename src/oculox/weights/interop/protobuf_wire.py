"""The wire format of protocol buffers: just enough to read and write known messages.

Source: the Protocol Buffers encoding guide. A message is a row of fields; each starts with a
varint key, ``number << 3 | kind``. Nothing is trusted: every length is checked against the
message around it before a byte is read, so that a damaged or hostile file ends in a clear error
and never in a large allocation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from oculox.errors import CheckpointError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_TEXT_BYTES = 1 << 20


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: the field's number in the message's definition.
        kind: `VARINT`, `FIXED64`, `BYTES` or `FIXED32`.
        value: the number itself for varints and fixed widths (unsigned); 0 for bytes.
        start: first byte of the content, as an offset into the file.
        end: one past its last byte.
    """

    number: int
    kind: int
    value: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.end - self.start


class WireReader:
    """Reads fields from a window of a seekable binary file without holding its content.

    Args:
        file: opened for reading in binary mode.
        start: first byte of the message.
        end: one past its last byte; nothing beyond is read.
        where: the file's name, for error messages.
    """

    def __init__(self, file: BinaryIO, *, start: int, end: int, where: str) -> None:
        self._file = file
        self._start = start
        self._end = end
        self.where = where

    def __iter__(self) -> Iterator[Field]:
        """The fields in order.

        Raises:
            CheckpointError: when the bytes are no valid message.
        """
        position = self._start
        while position < self._end:
            key, after = self._varint(position)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise self.damaged(position, "field number 0")
            value, start, end = self._content(kind, after)
            yield Field(number, kind, value, start, end)
            position = end

    def inside(self, field: Field) -> WireReader:
        """A reader of the message that a field holds.

        Raises:
            CheckpointError: when the field holds no bytes.
        """
        self.expect(field, BYTES)
        return WireReader(self._file, start=field.start, end=field.end, where=self.where)

    def content(self, field: Field) -> bytes:
        """The bytes of a field."""
        self.expect(field, BYTES)
        self._file.seek(field.start)
        return self._read(field.start, field.size)

    def text(self, field: Field) -> str:
        """The text of a field.

        Raises:
            CheckpointError: when it is longer than 1 MiB or not UTF-8.
        """
        self.expect(field, BYTES)
        if field.size > _MAX_TEXT_BYTES:
            raise self.damaged(field.start, f"a name of {field.size} bytes")
        try:
            return self.content(field).decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(field.start, "a name that is not UTF-8") from None

    def integers(self, field: Field) -> list[int]:
        """The int64 numbers of a repeated field, written one by one or packed."""
        if field.kind == VARINT:
            return [_signed(field.value)]
        self.expect(field, BYTES)
        numbers, position = [], field.start
        while position < field.end:
            number, position = self._varint(position, end=field.end)
            numbers.append(_signed(number))
        return numbers

    def expect(self, field: Field, kind: int) -> None:
        """Check the kind of a field.

        Raises:
            CheckpointError: when it is another one than the message's definition says.
        """
        if field.kind != kind:
            raise self.damaged(
                field.start, f"field {field.number} has wire type {field.kind}, expected {kind}"
            )

    def damaged(self, position: int, what: str) -> CheckpointError:
        """The error for a message that is not as it should be."""
        return CheckpointError(
            f"{self.where}: damaged or not what its name says (at byte {position}: {what})"
        )

    def _content(self, kind: int, position: int) -> tuple[int, int, int]:
        if kind == VARINT:
            value, end = self._varint(position)
            return value, position, end
        if kind in (FIXED32, FIXED64):
            width = 4 if kind == FIXED32 else 8
            self._file.seek(position)
            data = self._read(position, width)
            return int.from_bytes(data, "little"), position, position + width
        if kind == BYTES:
            size, start = self._varint(position)
            if size > self._end - start:
                raise self.damaged(
                    position, f"{size} bytes announced, {self._end - start} left; is it cut short?"
                )
            return 0, start, start + size
        raise self.damaged(position, f"unknown wire type {kind}")

    def _varint(self, position: int, *, end: int | None = None) -> tuple[int, int]:
        limit = self._end if end is None else end
        self._file.seek(position)
        data = self._file.read(min(_MAX_VARINT_BYTES, limit - position))
        value = 0
        for i, byte in enumerate(data):
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, position + i + 1
        raise self.damaged(position, "no valid number; is it cut short?")

    def _read(self, position: int, size: int) -> bytes:
        data = self._file.read(size) if position + size <= self._end else b""
        if len(data) != size:
            raise self.damaged(position, f"{size} bytes expected; is it cut short?")
        return data


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
    return varint(number << 3 | VARINT) + varint(value & (1 << 64) - 1)


def bytes_header(number: int, size: int) -> bytes:
    """What comes before the `size` bytes of a field."""
    return varint(number << 3 | BYTES) + varint(size)


def bytes_field(number: int, content: bytes) -> bytes:
    """A field of bytes, a text in UTF-8 or a message."""
    return bytes_header(number, len(content)) + content


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
