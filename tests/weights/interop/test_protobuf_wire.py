from pathlib import Path

import pytest

from oculox.errors import CheckpointError
from oculox.weights.interop.protobuf_wire import (
    as_integers,
    bytes_field,
    bytes_header,
    number_field,
    read_fields,
    read_metadata,
    varint,
)


def entry(key: str, value: str) -> bytes:
    return bytes_field(14, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))


@pytest.mark.parametrize("number", [0, 1, 127, 128, (1 << 63) - 1, -1, -(1 << 63)])
def test_numbers(number: int) -> None:
    ((field, value),) = read_fields(memoryview(number_field(3, number)))
    assert (field, as_integers(value)) == (3, [number])
    packed = b"".join(varint(number % (1 << 64)) for _ in range(3))
    ((field, value),) = read_fields(memoryview(bytes_field(4, packed)))
    assert as_integers(value) == [number] * 3


def test_metadata_of_models(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = bytes_field(7, bytes(100_000))
    path.write_bytes(number_field(1, 8) + entry("a", "1") + weights + entry("b", "Zürich"))
    assert read_metadata(path) == {"a": "1", "b": "Zürich"}
    path.write_bytes(b"")
    assert read_metadata(path) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes_header(14, 1 << 62), "cut short"),
        (entry("a", "1")[:-1], "cut short"),
        (number_field(14, 3), "wire type"),
        (bytes_field(14, bytes_field(1, b"\xff")), "not UTF-8"),
        (bytes_field(14, bytes_field(2, bytes(1 << 21))), "2097152 bytes"),
        (b"\x0b" + bytes(8), "wire type 3"),
    ],
)
def test_damaged_models(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.mindir"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_metadata(path)
    assert str(path) in str(caught.value)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=rf"^{path}: cannot be read \(Permission denied\)$"):
        read_metadata(path)
