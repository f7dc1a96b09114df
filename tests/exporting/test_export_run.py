"""Publishing, refusing and what can go wrong on the way."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest

from oculox.config.schema import DataConfig, InputConfig
from oculox.data.coco import load_split
from oculox.errors import CheckpointError, DataError, MissingExtraError, OculoxError, UsageError
from oculox.exporting import run
from oculox.exporting.calibration import CalibrationFeeds, find_calibration
from oculox.exporting.job import ExportOptions, make_job
from oculox.exporting.run import ParityError, export_model
from oculox.exporting.targets import TARGETS, find_target
from oculox.predict.pipeline import Pipeline
from oculox.runtime.exported import InGraphNms
from oculox.runtime.open_model import open_model
from specs import with_spec


def test_an_export_that_loses_too_much_leaves_the_old_file(tmp_path, lively_weights, tiny_data):
    index = load_split(DataConfig(root=tiny_data), "val")
    path = tmp_path / "model.torchscript"
    path.write_text("the old one")
    with pytest.raises(ParityError, match=r"AP fell .* nothing was written") as caught:
        export_model(
            lively_weights, ExportOptions(format="torchscript"), path, data=index, max_ap_loss=-2
        )
    assert caught.value.exit_code == 1
    assert all(row.ok for row in caught.value.parity)
    assert [p.name for p in tmp_path.iterdir()] == ["model.torchscript"]
    assert path.read_text() == "the old one"
    report = export_model(lively_weights, ExportOptions(format="torchscript"), path, data=index)
    assert report.ap is not None
    assert abs(report.ap.loss) <= 0.002
    assert open_model(path).spec.names == lively_weights.spec.names


def test_a_file_is_compared_on_the_cpu_where_float32_is_exact(
    tmp_path, lively_weights, monkeypatch
):
    devices = []

    def opened(path, *, device):
        devices.append(device)
        return open_model(path, device=device)

    monkeypatch.setattr(run, "open_model", opened)
    export_model(lively_weights, ExportOptions(format="torchscript"), tmp_path / "m.torchscript")
    assert devices == ["cpu"]
    # Engines run nowhere else, and are built without TF32.
    assert {name for name, target in TARGETS.items() if target.device != "cpu"} == {"tensorrt"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onxx"}, "unknown format 'onxx'; did you mean 'onnx'"),
        ({"format": "caffe"}, "formats: onnx, openvino"),
        ({"format": "torchscript", "nms": InGraphNms()}, r"NMS inside .*onnx, openvino"),
        ({"format": "pt2", "preprocess": True}, "preprocessing inside"),
        ({"format": "pt2", "precision": "fp16"}, "precision fp16"),
        ({"format": "litert", "batch": None}, "a free batch size"),
        ({"format": "ncnn", "batch": 2}, "a batch of 2"),
        ({"format": "coreml", "dynamic_size": True}, "a free input size"),
    ],
)
def test_targets_say_what_they_cannot_do(options, message):
    with pytest.raises(UsageError, match=message):
        find_target(ExportOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"precision": "int8"}, "pass `calib`"),
        ({"calibration": "x"}, "for int8"),
        ({"preprocess": True, "dynamic_size": True}, "must be fixed"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(UsageError, match=message):
        ExportOptions(format="onnx", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"opset": 11}, "opset must be 18 to"), ({"size_hw": (60, 64)}, "multiples of 32")],
)
def test_values_out_of_range(options, message, tmp_path, lively_weights):
    pytest.importorskip("onnx")
    with pytest.raises(UsageError, match=message):
        export_model(lively_weights, ExportOptions(format="onnx", **options), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format_name", "package", "extra"),
    [
        ("onnx", "onnx", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("ncnn", "pnnx", "ncnn"),
        ("litert", "litert_torch", "litert"),
        ("coreml", "coremltools", "coreml"),
        ("tensorrt", "tensorrt", "tensorrt"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    format_name, package, extra, tmp_path, lively_weights, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"m{TARGETS[format_name].suffix}"
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*oculox\[{extra}\]"):
        export_model(lively_weights, ExportOptions(format=format_name), path, progress=pytest.fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("m.onnx", "onnxruntime", "onnx"),
        ("m.xml", "openvino", "openvino"),
        ("m.ncnn", "ncnn", "ncnn"),
    ],
)
def test_a_missing_runtime_is_named_with_its_extra(name, package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"oculox\[{extra}\]"):
        open_model(tmp_path / name)


def test_a_target_that_cannot_be_written(tmp_path, lively_weights):
    (tmp_path / "file").write_text("")
    with pytest.raises(OculoxError, match="could not be written"):
        export_model(
            lively_weights, ExportOptions(format="pt2"), tmp_path / "file" / "sub" / "m.pt2"
        )


def test_a_model_of_fixed_size_refuses_another(exports):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    backend = open_model(exports(format="onnx").path)
    with pytest.raises(UsageError, match=r"built for 64 x 64 .* got 96 x 96"):
        Pipeline(backend, size_hw=(96, 96))


@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.torchscript", "m.pt2", "m.ncnn"])
def test_missing_files(name, tmp_path):
    package = {"m.onnx": "onnxruntime", "m.xml": "openvino", "m.ncnn": "ncnn"}.get(name)
    if package:
        pytest.importorskip(package)
    with pytest.raises(CheckpointError, match="no such file"):
        open_model(tmp_path / name)


@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.torchscript", "m.pt2"])
def test_damaged_files(name, tmp_path):
    package = {"m.onnx": "onnxruntime", "m.xml": "openvino"}.get(name)
    if package:
        pytest.importorskip(package)
    path = tmp_path / name
    path.write_bytes(b"nothing of the kind")
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"m\.\w+: damaged"):
        open_model(path)


def test_exports_keep_their_precision(tmp_path):
    with pytest.raises(UsageError, match="keeps the precision"):
        open_model(tmp_path / "m.onnx", precision="bf16")


def calibration_job(weights, source, *, limit, **changes):
    changes = {"format": "onnx", "precision": "int8", **changes}
    options = ExportOptions(**changes, calibration=source)
    return make_job(weights, options, calibration=find_calibration(source, limit=limit))


@pytest.mark.parametrize("kind", ["folder", "dataset"])
def test_calibration_images_are_network_inputs(kind, tiny_data, lively_weights):
    source = tiny_data / "train2017" if kind == "folder" else tiny_data
    feeds = list(CalibrationFeeds(calibration_job(lively_weights, source, limit=5)))
    assert [(feed.shape, feed.dtype) for feed in feeds] == [((1, 3, 64, 64), np.float32)] * 5
    assert 1 < feeds[0].max() <= 255
    assert len({feed.tobytes() for feed in feeds}) == 5
    other = with_spec(lively_weights, input=InputConfig(size=64, color="rgb", pixel_max=1))
    for feed, scaled in zip(
        feeds, CalibrationFeeds(calibration_job(other, source, limit=5)), strict=True
    ):
        assert abs(scaled[:, ::-1] * 255 - feed).max() < 1e-3


def test_calibration_without_images(tmp_path):
    for source, message in ((tmp_path, "no images to calibrate on"), (tmp_path / "x", "no such")):
        with pytest.raises(DataError, match=message):
            find_calibration(source, limit=3)


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_feeds_fill_a_fixed_batch_and_turn_into_images(tiny_data, lively_weights, color):
    weights = with_spec(lively_weights, input=InputConfig(size=64, color=color))
    job = calibration_job(weights, tiny_data, limit=3, batch=2, preprocess=True)
    feeds = CalibrationFeeds(job)
    assert len(feeds) == 2
    first, second = feeds
    assert first.shape == second.shape == (2, 64, 64, 3)
    assert first.dtype == np.uint8
    assert (second[1] == first[0]).all()
    plain = dataclasses.replace(job, metadata=dataclasses.replace(job.metadata, preprocess=False))
    floats = next(iter(CalibrationFeeds(plain)))
    assert (floats[:, :: -1 if color == "rgb" else 1] == first.transpose(0, 3, 1, 2)).all()


def test_calibration_images_are_read_when_they_are_fed(tiny_data, lively_weights, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(tiny_data / "train2017", folder)
    feeds = CalibrationFeeds(calibration_job(lively_weights, folder, limit=4))
    assert [a.tobytes() for a in feeds] == [a.tobytes() for a in feeds]
    under_way = iter(feeds)
    next(under_way)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no such image"):
        next(under_way)


@pytest.mark.slow
def test_a_calibration_image_that_cannot_be_read_is_named(tiny_data, lively_weights, tmp_path):
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package)
    folder = tmp_path / "images"
    shutil.copytree(tiny_data / "val2017", folder)
    sorted(folder.iterdir())[1].write_bytes(b"")
    options = ExportOptions(format="openvino", precision="int8", calibration=folder)
    with pytest.raises(DataError, match="the image is empty"):
        export_model(lively_weights, options, tmp_path / "m.xml")
    assert not (tmp_path / "m.xml").exists()
