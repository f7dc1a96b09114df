"""Checkpoints through other runtimes, and benchmarks."""

import importlib.util

import pytest

from oculox.api import Detector
from oculox.config.schema import InputConfig
from oculox.errors import UsageError
from oculox.exporting.benchmark import benchmark
from oculox.exporting.benchmark_report import as_table, write_plot
from oculox.exporting.open_with import open_with, preferred_runtime
from oculox.exporting.parity import sample_inputs
from oculox.runtime.timing import STAGES

HAS_ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")))
HAS_OPENVINO = HAS_ONNX and importlib.util.find_spec("openvino") is not None


@pytest.fixture
def scenes():
    return [image.transpose(1, 2, 0) for image in sample_inputs(2, InputConfig(size=(64, 96)))]


@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript or onnxruntime is not installed")
def test_a_checkpoint_through_onnx_runtime(lively_pt, scenes):
    plain = Detector(lively_pt, imgsz=(64, 96))
    other = Detector(lively_pt, imgsz=(64, 96), backend="onnx")
    assert (plain.backend.kind, other.backend.kind) == ("torch", "onnx")
    for a, b in zip(plain(scenes), other(scenes), strict=True):
        assert abs(len(a) - len(b)) <= 1
        assert a.scores[0] == pytest.approx(b.scores[0], abs=1e-4)
    with pytest.raises(UsageError, match="built for 64 x 96"):
        Detector(other.backend, imgsz=128)


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            "onnx",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not HAS_ONNX, reason="needs oculox[onnx]"),
            ],
        ),
        pytest.param(
            "openvino",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not HAS_OPENVINO, reason="needs oculox[openvino]"),
            ],
        ),
    ],
)
def test_a_checkpoint_is_converted_for_the_sizes_of_test_time_augmentation(
    lively_pt, scenes, backend
):
    plain = Detector(lively_pt, imgsz=(128, 192), tta="full", conf=0.01)
    other = Detector(lively_pt, imgsz=(128, 192), tta="full", conf=0.01, backend=backend)
    assert other.backend.kind == backend
    for a, b in zip(plain(scenes), other(scenes), strict=True):
        assert len(a) > 0
        assert abs(len(a) - len(b)) <= 1
        assert a.scores[0] == pytest.approx(b.scores[0], abs=1e-4)


def test_auto_takes_the_first_installed():
    expected = "openvino" if HAS_OPENVINO else "onnx" if HAS_ONNX else "torch"
    assert preferred_runtime("cpu") == expected


def test_auto_stays_with_pytorch_for_other_precisions(lively_pt):
    assert open_with(lively_pt, backend="auto", precision="bf16", device="cpu").kind == "torch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, "cannot be run with 'tensorflow'; there are auto, torch"),
        ({"backend": "onnx", "precision": "bf16"}, "precision bf16 is for PyTorch"),
    ],
)
def test_what_a_checkpoint_cannot_be_run_with(options, message, lively_pt):
    with pytest.raises(UsageError, match=message):
        open_with(lively_pt, device="cpu", **options)


def test_an_export_opens_with_its_own_runtime(exports):
    path = exports(format="torchscript", batch=None).path
    assert open_with(path, backend="auto").kind == "torchscript"


def test_a_benchmark_measures_exports_and_says_what_it_skipped(lively_pt, tmp_path):
    result = benchmark(lively_pt, ["torch", "torchscript", "tensorrt", "pt2-int8"], samples=3)
    assert [m.format for m in result.measurements] == ["torch", "torchscript"]
    assert set(result.skipped) == {"tensorrt", "pt2-int8"}
    plain, exported = result.measurements
    assert plain.parity is None
    assert exported.parity is not None
    assert 0 <= exported.parity <= 1
    for m in result.measurements:
        assert 0 < m.min_ms <= m.median_ms <= m.max_ms
        assert m.images_per_second == pytest.approx(1000 / m.median_ms)
        assert set(m.stages_ms) == set(STAGES)
        assert all(0 < ms < m.max_ms for ms in m.stages_ms.values())
        assert m.megabytes > 1
    table = as_table(result)
    assert table.count("\n| torch") == 2
    assert "tensorrt: not measured: " in table
    write_plot(result, tmp_path / "bars.svg")
    assert "<svg" in (tmp_path / "bars.svg").read_text()


def test_a_benchmark_of_an_unknown_format(lively_pt):
    with pytest.raises(UsageError, match="unknown format 'caffe'"):
        benchmark(lively_pt, ["torch", "caffe"])
