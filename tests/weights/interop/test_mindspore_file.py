import contextlib
import zlib
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from oculox.errors import CheckpointError, OculoxError
from oculox.weights.interop.mindspore_file import is_mindspore, read_mindspore, write_mindspore
from oculox.weights.interop.protobuf_wire import bytes_field, bytes_header, number_field

# Written by MindSpore 2.10: append_dict={"epoch": 3, "lr": 0.1, "flag": True, "s": "hello"} with
# parameters of several types and crc_check=True.
MINDSPORE_BYTES = (
    b'\n"\n\x01s\x12\x1d\x08\x00\x12\x03str\x1a\x14h\x00\x00\x00e\x00\x00\x00l\x00\x00\x00l\x00'
    b"\x00\x00o\x00\x00\x00\n\x18\n\x03one\x12\x11\x08\x01\x12\x07Float32\x1a\x04\x00\x00 @\n\x19"
    b"\n\x04half\x12\x11\x08\x02\x12\x07Float16\x1a\x04\x00<\x00@\n\x18\n\x02bf\x12\x12\x08\x02"
    b"\x12\x08BFloat16\x1a\x04\x80?\x00@\n\x15\n\x04step\x12\r\x12\x05Int32\x1a\x04\x07\x00\x00"
    b"\x00\n\x1a\n\x05epoch\x12\x11\x12\x05Int64\x1a\x08\x03\x00\x00\x00\x00\x00\x00\x00\n\x15\n"
    b"\x02lr\x12\x0f\x12\x07Float32\x1a\x04\xcd\xcc\xcc=\n\x11\n\x04flag\x12\t\x12\x04Bool\x1a"
    b"\x01\x01crc_num\x00\x00\x00\x00\x00\x00\x00\xb4@\xa7"
)

TENSORS = {
    "float32": torch.tensor([[1.5, -2.0], [float("inf"), 0.0]]),
    "float16": torch.tensor([1.0, 2.5], dtype=torch.float16),
    "bfloat16": torch.tensor([1.0, -3.0], dtype=torch.bfloat16),
    "float64": torch.tensor([0.1], dtype=torch.float64),
    "int32": torch.tensor([1, -1], dtype=torch.int32),
    "int64": torch.arange(5),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 3),
    "strided": torch.arange(6.0).reshape(2, 3).T,
}


def value(
    tag: bytes = b"w",
    *,
    dims: tuple[int, ...] = (2,),
    kind: bytes = b"Float32",
    content: bytes = bytes(8),
) -> bytes:
    tensor = b"".join(number_field(1, d) for d in dims)
    tensor += bytes_field(2, kind) + bytes_field(3, content)
    return bytes_field(1, bytes_field(1, tag) + bytes_field(2, tensor))


def written(folder: Path, data: bytes) -> Path:
    path = folder / "weights.ckpt"
    path.write_bytes(data)
    return path


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
    return a == b


@pytest.mark.parametrize("slice_bytes", [3, 8, 1 << 20])
def test_what_is_written_is_read_back(tmp_path: Path, slice_bytes: int) -> None:
    content = {**TENSORS, "text": "Zürich 日本", "no text": ""}
    path = tmp_path / "sub" / "weights.ckpt"
    write_mindspore(path, content, slice_bytes=slice_bytes)
    back = read_mindspore(path)
    assert list(back) == list(content)
    assert all(same(back[name], content[name]) for name in content)


def test_reads_what_mindspore_wrote(tmp_path: Path) -> None:
    back = read_mindspore(written(tmp_path, MINDSPORE_BYTES))
    assert back["s"] == "hello"
    assert back["step"] == torch.tensor(7)
    assert back["epoch"] == torch.tensor(3)
    assert back["flag"] == torch.tensor(True)
    assert same(back["one"], torch.tensor([2.5]))
    assert same(back["half"], torch.tensor([1.0, 2.0], dtype=torch.float16))
    assert same(back["bf"], torch.tensor([1.0, 2.0], dtype=torch.bfloat16))


def test_writes_the_bytes_that_mindspore_writes(shared: Path, tmp_path: Path) -> None:
    original = shared / "weights/mindyolo_yolox_nano_formula.ckpt"
    write_mindspore(tmp_path / "copy.ckpt", read_mindspore(original))
    assert (tmp_path / "copy.ckpt").read_bytes() == original.read_bytes()


def test_only_what_is_kept_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    write_mindspore(path, TENSORS)
    assert list(read_mindspore(path, keep=lambda name: name.startswith("int"))) == [
        "int32",
        "int64",
    ]


def test_a_scalar_may_have_the_dimension_zero(tmp_path: Path) -> None:
    path = written(tmp_path, value(dims=(0,), content=b"\x00\x00\x80?"))
    assert same(read_mindspore(path)["w"], torch.tensor(1.0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 a zip archive", "unexpected field"),
        (b"<html>not found</html>", "damaged"),
        (value()[:-1], "cut short"),
        (value() + b"\x0a", "cut short"),
        (bytes_header(1, 1 << 62), "cut short"),
        (b"\x0a" + b"\xff" * 10, "not a valid number"),
        (b"\x0a" + b"\xff" * 20, "not a valid number"),
        (value(content=bytes(7)), "needs 8 bytes, has 7"),
        (value(dims=(1 << 40, 1 << 40)), "needs"),
        (value(dims=(-1,)), "dimensions"),
        (value(dims=(1,) * 9, content=bytes(4)), "dimensions"),
        (value(kind=b"Complex64"), "has the type 'Complex64'"),
        (value(kind=b"\xff\xfe"), "not UTF-8"),
        (value(tag=b""), "without name"),
        (value() + value(b"v") + value(), "comes twice"),
        (value() + value(dims=(3,)), "do not agree"),
        (value(dims=(0,), kind=b"str", content=b"abc"), "not a text"),
        (value()[:-8] + b"", "cut short"),
        (bytes_field(1, bytes_field(1, b"m") + bytes_field(3, b"")), "map parameter"),
        (bytes_field(1, number_field(1, 5)), "wire type"),
        (bytes_field(1, bytes_field(1, b"w") + bytes_field(2, b"")), "no type"),
        (MINDSPORE_BYTES.replace(b"hel", b"gel").replace(b"\x14h", b"\x14g"), "checksum"),
    ],
)
def test_bad_files_end_in_a_clear_error(tmp_path: Path, data: bytes, message: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_mindspore(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_mindspore(tmp_path / "none.ckpt")


def test_many_slices_take_linear_time(tmp_path: Path) -> None:
    slices = value(dims=(60_000,), content=bytes(4)) * 60_000
    assert read_mindspore(written(tmp_path, slices))["w"].shape == (60_000,)


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, len(MINDSPORE_BYTES)),
    position=st.integers(0, 10_000),
    byte=st.binary(min_size=1, max_size=4),
)
def test_damage_is_an_error_or_harmless_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, cut: int, position: int, byte: bytes
) -> None:
    data = bytearray(MINDSPORE_BYTES[:cut])
    where = position % max(len(data), 1)
    data[where : where + len(byte)] = byte
    path = written(tmp_path_factory.mktemp("damaged"), bytes(data))
    with contextlib.suppress(CheckpointError):
        read_mindspore(path)


def test_checksums_are_verified(tmp_path: Path) -> None:
    body = value()
    good = body + b"crc_num" + zlib.crc32(body).to_bytes(10, "big")
    assert "w" in read_mindspore(written(tmp_path, good))
    with pytest.raises(CheckpointError, match="checksum"):
        read_mindspore(written(tmp_path, body + b"crc_num" + bytes(10)))


def test_types_that_mindspore_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="complex64"):
        write_mindspore(tmp_path / "w.ckpt", {"w": torch.zeros(1, dtype=torch.complex64)})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(OculoxError, match="could not be written"):
        write_mindspore(path, TENSORS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("data", "expected"), [(value(), True), (b"PK", False), (b"", False)])
def test_recognition(tmp_path: Path, data: bytes, expected: bool) -> None:
    assert is_mindspore(written(tmp_path, data)) is expected
