import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from oculox import Detector
from oculox.errors import CheckpointError, MissingExtraError
from oculox.weights import build_network, load_weights
from oculox.weights.convert import convert_weights
from oculox.weights.interop.onnx_weights import read_onnx
from oculox.weights.interop.protobuf_wire import bytes_field, bytes_header
from onnx_files import HEAD, HEAD_TENSORS, model, node, tensor


def nested(depth: int) -> bytes:
    """A model of graphs inside attributes inside nodes, so many levels deep."""
    data = b""
    for number in (*(6, 5, 1) * depth, 7):
        data = bytes_field(number, data)
    return data


@pytest.fixture(scope="module")
def official(shared: Path) -> Path:
    return shared / "weights/yolox_nano.onnx"


def test_the_official_file_computes_what_the_checkpoint_does(shared: Path, official: Path) -> None:
    weights = load_weights(official)
    reference = load_weights(shared / "weights/yolox_nano.pth")
    assert weights.spec.model == reference.spec.model
    assert weights.spec.input == reference.spec.input
    assert weights.spec.names == reference.spec.names
    assert weights.origin == "onnx"
    images = torch.randint(0, 256, (1, 3, 416, 416), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = build_network(weights)(images.float())
        expected = build_network(reference)(images.float())
    for a, b in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=3e-4, atol=3e-4)


def test_weights_are_the_files(official: Path) -> None:
    state = load_weights(official).state
    ones = [v for k, v in state.items() if k.endswith("bn.weight")]
    assert all(torch.equal(v, torch.ones_like(v)) for v in ones)
    variance = state["backbone.stem.conv.bn.running_var"] + 1e-3
    assert torch.equal(variance, torch.ones_like(variance))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1000],
        lambda data: data[: len(data) // 2],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: b"\x08\x07",
        lambda data: b"PK\x03\x04",
        lambda data: data.replace(b"\x22\x04Conv", b"\x22\x04Gonv", 1),
        lambda data: data.replace(b"\x22\x03Mul", b"\x22\x03Add", 1),
        lambda data: data.replace(b"1178", b"9999", 1),
        lambda data: bytes_header(7, 1 << 62) + data,
        lambda data: nested(1000),
    ],
)
def test_damaged_and_foreign_files(
    official: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "w.onnx"
    path.write_bytes(change(official.read_bytes()))
    with pytest.raises(CheckpointError, match=r"w\.onnx"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (model([], []), "raw head"),
        (model([], [], output=""), "raw head"),
        (model(HEAD, HEAD_TENSORS), "no network of that kind has 9 layers"),
        (model(HEAD, HEAD_TENSORS[:8]), "raw head"),
        (model(HEAD, [*HEAD_TENSORS[:8], tensor("w8", (2, 3))]), "not 2-D"),
        (model(HEAD, [*HEAD_TENSORS[:8], tensor("w8", (0, 3, 1, 1))]), "not 2-D"),
        (model(HEAD, [*HEAD_TENSORS[:8], tensor("w8", (2, 3, 1, 1), kind=3)]), "quantised"),
        (model(HEAD, [*HEAD_TENSORS[:8], tensor("w8", (2, 3, 1, 1), size=8)]), "needs 24 bytes"),
        (model(HEAD, [*HEAD_TENSORS[:8], tensor("w8", (1 << 40, 3, 1, 1), size=8)]), "needs"),
        (model([node("Sigmoid", ["y"], ["y"])], []), "raw head"),
        (bytes_field(7, b""), "no input or no output"),
    ],
)
def test_graphs_that_are_no_yolox(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "w.onnx"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_onnx(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_onnx(tmp_path / "none.onnx")


def test_the_package_onnx_is_named_where_it_is_missing(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"oculox\[onnx\]"):
        read_onnx(official)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolox_nano.onnx", "converted.ckpt"])
def test_the_official_nano_reaches_the_official_metrics(
    shared: Path, tmp_path: Path, name: str
) -> None:
    path = shared / "weights" / name
    if name == "converted.ckpt":
        path = tmp_path / name
        convert_weights(shared / "weights/yolox_nano.pth", path)
    reference = json.loads((shared / "golden/eval_nano416_val2017.json").read_text())
    evaluation = Detector(path, device="cpu").evaluate(shared / "coco_mini")
    found = list(evaluation.metrics.as_dict().values())[:12]
    assert found == pytest.approx(reference["stats"], abs=0.001)
