"""MindSpore itself: run with `make test-mindspore`."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from oculox import Detector
from oculox.config import load_config, recipe_names
from oculox.errors import CheckpointError, MissingExtraError
from oculox.exporting.job import ExportOptions
from oculox.exporting.run import ExportReport, export_model
from oculox.models import build_model
from oculox.runtime.open_model import open_model
from oculox.weights import Weights, load_weights
from oculox.weights.convert import convert_weights
from oculox.weights.interop.mindspore_file import read_mindspore, write_mindspore
from oculox.weights.interop.mindspore_layout import DESCRIPTION
from specs import make_weights


def fresh_weights(recipe: str) -> Weights:
    torch.manual_seed(0)
    config = load_config(recipe)
    state = build_model(config.model, num_classes=3).state_dict()
    return make_weights(config, state, names=("bolt", "nut", "washer"))


def exported(weights: Weights, path: Path, *, batch: int = 1) -> ExportReport:
    options = ExportOptions(format="mindir", size_hw=(64, 96), batch=batch)
    return export_model(weights, options, path)


@pytest.mark.mindspore
@pytest.mark.parametrize("recipe", ["yolox-nano", "yolox-tiny"])
def test_export_passes_the_gate(tmp_path: Path, recipe: str) -> None:
    report = exported(fresh_weights(recipe), tmp_path / "w.mindir", batch=2)
    assert report.parity
    assert all(row.ok for row in report.parity)
    backend = open_model(tmp_path / "w.mindir")
    assert backend.kind == "mindir"
    assert backend.spec.names == ("bolt", "nut", "washer")
    assert (backend.spec.input.size, backend.spec.batch) == ((64, 96), 2)


@pytest.mark.mindspore
@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted({*recipe_names()} - {"yolox-nano", "yolox-tiny"}))
def test_the_larger_networks_pass_too(tmp_path: Path, recipe: str) -> None:
    report = exported(fresh_weights(recipe), tmp_path / "w.mindir")
    assert all(row.ok for row in report.parity)


@pytest.mark.mindspore
def test_the_official_nano_finds_the_same(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "nano.mindir"
    weights = load_weights(shared / "weights/yolox_nano.pth")
    export_model(weights, ExportOptions(format="mindir"), path)
    images = sorted((shared / "coco_mini/val2017").iterdir())[:4]
    expected = Detector(shared / "weights/yolox_nano.pth", device="cpu")(list(images))
    found = Detector(path)(list(images))
    assert sum(len(detections) for detections in expected) > 5
    for a, b in zip(expected, found, strict=True):
        assert a.class_ids.tolist() == b.class_ids.tolist()
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=0.5)


@pytest.mark.mindspore
def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "w.mindir"
    exported(fresh_weights("yolox-nano"), path)
    content = path.read_bytes()
    for data in (content[:-10], content[: len(content) // 2], b"", b"\x00"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"w\.mindir"):
            open_model(path)


@pytest.mark.mindspore
def test_mindspore_reads_what_we_write(shared: Path, tmp_path: Path) -> None:
    import mindspore

    path = tmp_path / "w.ckpt"
    convert_weights(shared / "weights/yolox_nano.pth", path)
    own = read_mindspore(path)
    theirs = mindspore.load_checkpoint(str(path))
    assert list(theirs) == list(own)
    assert theirs[DESCRIPTION] == own[DESCRIPTION]
    for name, value in own.items():
        if isinstance(value, torch.Tensor):
            assert np.array_equal(theirs[name].asnumpy(), value.numpy()), name
    # A text among the parameters does not disturb loading them into a network.
    network = mindspore.nn.Cell()
    name = "model.model.0.conv.conv.weight"
    network.insert_param_to_cell("stem", mindspore.Parameter(np.zeros((16, 12, 3, 3)), name=name))
    network.stem.set_dtype(mindspore.float32)
    missing, _ = mindspore.load_param_into_net(network, theirs)
    assert missing == []
    assert np.array_equal(network.stem.asnumpy(), own[name].numpy())


@pytest.mark.mindspore
def test_mindspore_reads_our_slices_and_we_its_checksums(tmp_path: Path) -> None:
    import mindspore

    values = {"w": torch.arange(1000.0).reshape(10, 100), "step": torch.tensor(7)}
    write_mindspore(tmp_path / "w.ckpt", values, slice_bytes=1000)
    theirs = mindspore.load_checkpoint(str(tmp_path / "w.ckpt"))
    assert np.array_equal(theirs["w"].asnumpy(), values["w"].numpy())
    assert theirs["step"].asnumpy() == 7
    parameters = [{"name": name, "data": p} for name, p in theirs.items()]
    mindspore.save_checkpoint(parameters, str(tmp_path / "again.ckpt"), crc_check=True)
    assert torch.equal(read_mindspore(tmp_path / "again.ckpt")["w"], values["w"])


def test_without_mindspore_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mindspore", None)
    with pytest.raises(MissingExtraError, match=r"oculox\[mindspore\]"):
        exported(fresh_weights("yolox-nano"), tmp_path / "w.mindir")
    assert list(tmp_path.iterdir()) == []


def test_files_without_our_metadata(tmp_path: Path, shared: Path) -> None:
    path = tmp_path / "w.mindir"
    with pytest.raises(CheckpointError, match="no such file"):
        open_model(path)
    path.write_bytes((shared / "weights/yolox_nano.onnx").read_bytes())
    with pytest.raises(CheckpointError, match="holds no metadata of Oculox"):
        open_model(path)
    assert load_weights(shared / "weights/yolox_nano.onnx").origin == "onnx"
