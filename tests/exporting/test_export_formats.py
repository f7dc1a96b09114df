"""Every format end to end: exported and compared, opened by its suffix, used as a detector."""

import ctypes
import gc
import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from oculox.api import Detector
from oculox.cli.main import main
from oculox.config.schema import InputConfig
from oculox.errors import OculoxWarning, UsageError
from oculox.exporting.parity import check_parity, compare_detections, sample_inputs
from oculox.exporting.targets import TARGETS
from oculox.postprocess import DetectSettings
from oculox.runtime.exported import InGraphNms
from oculox.runtime.open_model import open_model
from oculox.runtime.torch_backend import TorchBackend
from oculox.runtime.torch_export_backend import program_on
from oculox.weights import build_network

PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torchscript": (),
    "pt2": (),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch", "ai_edge_litert"),
}
NMS = InGraphNms(conf=0.2, iou=0.5, max_det=50)
CASES = {
    "onnx": {"format": "onnx"},
    "onnx-free": {"format": "onnx", "batch": None, "dynamic_size": True},
    "onnx-half": {"format": "onnx", "precision": "fp16"},
    "onnx-nms": {"format": "onnx", "batch": None, "nms": NMS},
    "onnx-whole": {"format": "onnx", "batch": None, "nms": NMS, "preprocess": True, "opset": 20},
    "openvino-free": {"format": "openvino", "batch": None, "dynamic_size": True},
    "openvino-whole": {"format": "openvino", "batch": 2, "nms": NMS, "preprocess": True},
    "torchscript": {"format": "torchscript", "batch": None},
    "pt2": {"format": "pt2"},
    "ncnn": {"format": "ncnn"},
    "litert": {"format": "litert"},
}


def needs(format_name):
    for package in PACKAGES[format_name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


SLOW = ("onnx-free", "onnx-half", "onnx-nms", "openvino-free", "openvino-whole")


@pytest.fixture(
    params=[pytest.param(c, marks=[pytest.mark.slow] if c in SLOW else []) for c in CASES]
)
def case(request):
    options = CASES[request.param]
    needs(options["format"])
    return options


@pytest.fixture
def scenes():
    return [image.transpose(1, 2, 0) for image in sample_inputs(3, InputConfig(size=(64, 64)))]


def test_an_export_passes_its_gate_and_detects_what_the_checkpoint_does(
    case, exports, lively_weights, scenes
):
    report = exports(**case)
    assert report.parity
    assert all(row.ok for row in report.parity)
    assert {row.case.split(",")[0] for row in report.parity} >= {"batch 1", "batch 2", "batch 3"}
    assert report.path in report.files
    assert all(file.exists() for file in report.files)
    ends = (TARGETS[case["format"]].suffix, *TARGETS[case["format"]].companions)
    assert {file.name for file in report.files} == {f"{report.path.stem}{end}" for end in ends}
    assert sorted(report.path.parent.glob(".*")) == []  # no scratch left

    detector = Detector(report.path, conf=0.3, iou=0.5)
    checkpoint = Detector(TorchBackend.from_weights(lively_weights), conf=0.3, iou=0.5)
    assert detector.names == checkpoint.names
    expected, found = checkpoint(scenes), detector(scenes)
    if "nms" in case:
        expected = [e[: NMS.max_det] for e in expected]
    assert all(map(len, found))
    precision = case.get("precision", "fp32")
    nms = InGraphNms(conf=0.3, iou=0.5, max_det=NMS.max_det)
    for row in compare_detections(expected, found, nms=nms, precision=precision, case=""):
        assert row.ok, row


def test_a_program_moves_with_the_devices_that_it_names(exports, monkeypatch):
    # Tensors on "meta" have no values, but a device.
    path, meta = exports(format="pt2").path, torch.device("meta")

    def named(graph):
        return {str(n.kwargs["device"]) for n in graph.nodes if "device" in n.kwargs}

    assert named(torch.export.load(path).graph) == {"cpu"}
    module = program_on(torch.export.load(path), meta)
    assert named(module.graph) == {"meta"}
    assert {output.device for output in module(torch.zeros(1, 3, 64, 64, device=meta))} == {meta}
    monkeypatch.setitem(sys.modules, "torch.export.passes", None)  # as in older versions
    with pytest.raises(UsageError, match=r"'meta': PyTorch .* runs a \.pt2 file on the CPU only"):
        program_on(torch.export.load(path), meta)


@pytest.mark.parametrize("name", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_files_with_NMS_have_named_outputs_of_fixed_length(name, exports, scenes):
    needs(name)
    case = CASES[f"{name}-whole"]
    backend = open_model(exports(**case).path, threads=1)
    images = np.stack(scenes).transpose(0, 3, 1, 2)[:2]
    boxes, scores, classes, counts = backend.predict(images)
    assert backend.metadata.output_names == ("boxes", "scores", "classes", "counts")
    assert boxes.shape == (2, 50, 4)
    assert scores.shape == classes.shape == (2, 50)
    for row, label, n in zip(scores, classes, counts, strict=True):
        assert 0 < n <= 50
        assert (np.diff(row[:n]) <= 0).all()
        assert (row[:n] >= NMS.conf).all()
        assert not row[n:].any()
        assert set(label[:n].tolist()) <= set(range(6))


def test_settings_narrow_what_a_file_with_NMS_found(exports, scenes):
    needs("onnx")
    backend = open_model(exports(**CASES["onnx-whole"]).path)
    images = np.stack(scenes).transpose(0, 3, 1, 2)
    wide = backend.detect(images, DetectSettings(conf=0.2, iou=0.5))
    strict = backend.detect(images, DetectSettings(conf=0.5, iou=0.3, class_ids=(0,), max_det=3))
    for many, few in zip(wide, strict, strict=True):
        assert len(few) <= 3
        assert len(few) < len(many)
        assert set(few.class_ids.tolist()) <= {0}
        assert (few.scores >= 0.5).all()
    agnostic = backend.detect(images, DetectSettings(conf=0.2, iou=0.5, agnostic_nms=True))
    assert sum(map(len, agnostic)) <= sum(map(len, wide))


def test_settings_cannot_widen_what_a_file_with_NMS_found(exports, scenes, tmp_path, capfd):
    needs("onnx")
    path = exports(**CASES["onnx-whole"]).path
    backend = open_model(path)
    images = np.stack(scenes).transpose(0, 3, 1, 2)
    with pytest.warns(OculoxWarning, match=r"conf 0\.2, IoU 0\.5 by itself"):
        backend.detect(images, DetectSettings(conf=0.01, iou=0.5))
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), scenes[number])
    words = ("--conf", "0.01", "--no-draw", "--output", str(tmp_path / "out"))
    assert main(["predict", str(path), str(tmp_path), *words]) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: the model applies NMS at conf 0.2, IoU 0.5 by itself")


def test_a_fixed_batch_is_filled_up(exports, scenes):
    needs("onnx")
    backend = open_model(exports(**CASES["onnx"]).path)
    images = np.stack(scenes).transpose(0, 3, 1, 2)
    settings = DetectSettings()
    together = backend.detect(images, settings)
    for one, image in zip(together, images, strict=True):
        alone = backend.detect(image[None], settings)[0]
        np.testing.assert_array_equal(one.xyxy, alone.xyxy)
    assert backend.detect(images[:0], settings) == []


def test_the_gate_refuses_a_file_of_another_network(exports, lively_weights):
    needs("onnx")
    backend = open_model(exports(**CASES["onnx"]).path)
    other = build_network(lively_weights)
    other.head.obj_preds[0].bias.data -= 0.1
    rows = check_parity(backend, other)
    assert not all(row.ok for row in rows)
    assert check_parity(backend, build_network(lively_weights))[0].ok


class SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory map of Linux")
def test_signals_still_have_a_stack_after_OpenVINO_models_are_closed(exports):
    # Without one the next Ctrl-C or end of a child process kills the process, without a trace.
    needs("openvino")
    path = exports(format="openvino").path
    opened = [open_model(path, threads=1) for _ in range(3)]
    while opened:
        del opened[0]
        gc.collect()
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    ranges = (row.split()[0].split("-") for row in Path("/proc/self/maps").read_text().splitlines())
    assert stack.start is None or any(
        int(first, 16) <= stack.start < int(last, 16) for first, last in ranges
    )
