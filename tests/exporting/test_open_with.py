"""Checkpoints through other runtimes, and benchmarks."""

import dataclasses
import importlib.util
import json
import sys

import numpy as np
import pytest

from oculox.api import Detector
from oculox.config.schema import InputConfig
from oculox.errors import MissingExtraError, OculoxWarning, UsageError
from oculox.exporting.benchmark import benchmark
from oculox.exporting.benchmark_report import as_table, write_plot
from oculox.exporting.open_with import (
    RunOptions,
    choose_runtime,
    clear_runtimes,
    kept_model,
    open_with,
    read_choice,
)
from oculox.exporting.parity import sample_inputs
from oculox.runtime.timing import STAGES

HAS_ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")))
HAS_NCNN = all(map(importlib.util.find_spec, ("ncnn", "pnnx")))
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


@pytest.mark.skipif(not HAS_OPENVINO, reason="needs oculox[openvino]")
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_threads_share_a_runtime(exports, scenes, backend, set_threads):
    detector = Detector(exports(format=backend).path, device="cpu", batch=1)
    alone = [detector(scene) for scene in scenes] * 6
    set_threads(2)
    together = detector(scenes * 6)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-3)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


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


@pytest.mark.parametrize("backend", ["onnx", "openvino", "ncnn"])
def test_a_missing_package_is_named_before_converting(
    lively_pt, tmp_path, monkeypatch, capfd, backend
):
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, {"onnx": "onnxruntime"}.get(backend, backend), None)
    with pytest.raises(MissingExtraError, match=rf"oculox\[{backend}\]"):
        open_with(lively_pt, RunOptions(device="cpu"), backend=backend)
    assert "converting" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not (HAS_ONNX or HAS_NCNN), reason="nothing to convert to is installed")
def test_a_conversion_is_kept_and_checked(lively_pt, tmp_path, monkeypatch, capfd):
    cache = tmp_path / "cache"
    monkeypatch.setenv("OCULOX_CACHE", str(cache))
    options = RunOptions(device="cpu", size_hw=(64, 96))
    backend = "ncnn" if HAS_NCNN else "onnx"  # the quicker one to convert to
    for converted in (True, False):
        assert open_with(lively_pt, options, backend=backend).spec.input.size == (64, 96)
        assert ("converting lively.pt to" in capfd.readouterr().err) == converted
    (folder,) = (cache / "runtimes").iterdir()
    kept = kept_model(folder)
    assert kept is not None
    part = next(file for file in folder.rglob("model*") if file.is_file())
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert kept_model(folder) is None, "damaged"
    part.unlink()
    assert kept_model(folder) is None, "incomplete"
    part.write_bytes(content)
    assert kept_model(folder) == kept
    (folder / "contents.json").unlink()
    assert kept_model(folder) is None, "cut off before its end"
    assert clear_runtimes() >= len(content)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript or onnxruntime is not installed")
def test_auto_measures_once_and_remembers(lively_pt, kept_conversions, capfd):
    for file in kept_conversions.glob("runtimes/choice-*.json"):
        file.unlink()
    choice = choose_runtime(lively_pt, RunOptions(device="cpu", size_hw=(64, 96)))
    expected = {"torch", "onnx", *["openvino"] * HAS_OPENVINO, *["ncnn"] * HAS_NCNN}
    assert choice.milliseconds.keys() == expected
    assert choice.runtime == min(choice.milliseconds, key=choice.milliseconds.get)
    assert all(f"{name} {ms:.1f}" in str(choice) for name, ms in choice.milliseconds.items())
    assert "measuring torch" in capfd.readouterr().err

    # What is remembered counts: the slowest, had it been the quickest.
    (file,) = kept_conversions.glob("runtimes/choice-*.json")
    slowest = max(choice.milliseconds, key=choice.milliseconds.get)
    file.write_text(json.dumps({**dataclasses.asdict(choice), "runtime": slowest}))
    detector = Detector(lively_pt, imgsz=(64, 96), device="cpu", backend="auto")
    assert detector.backend.kind == detector.choice.runtime == slowest
    assert "measuring" not in capfd.readouterr().err
    file.unlink()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"runtime": "caffe", "reason": "?"}',
        '{"runtime": "torch", "reason": "?", "milliseconds": null}',
    ],
)
def test_a_damaged_choice_is_none(tmp_path, content):
    (tmp_path / "choice.json").write_text(content)
    assert read_choice(tmp_path / "choice.json") is None


@pytest.mark.slow
@pytest.mark.skipif(not HAS_NCNN, reason="ncnn or pnnx is not installed")
def test_a_cache_that_cannot_be_written_keeps_nothing(
    lively_pt, tmp_path, monkeypatch, scenes, capfd
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("oculox.exporting.open_with._NEEDS", {"ncnn": ("ncnn", "pnnx")})
    with pytest.warns(OculoxWarning, match="cannot be written, so nothing .* is kept") as told:
        detectors = [
            Detector(lively_pt, imgsz=(64, 96), device="cpu", backend=backend)
            for backend in ("auto", "ncnn")
        ]
    assert len(told) == 1
    assert capfd.readouterr().err.count("converting lively.pt to") == 1
    assert [len(detector(scenes)) for detector in detectors] == [2, 2]


def test_auto_stays_with_pytorch_for_other_precisions(lively_pt):
    options = RunOptions(precision="bf16", device="cpu")
    assert "it alone computes in bf16" in str(choose_runtime(lively_pt, options))
    assert open_with(lively_pt, options, backend="auto").kind == "torch"


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        ("tensorflow", "fp32", "cannot be run with 'tensorflow'; there are auto, torch"),
        ("onnx", "bf16", "precision bf16 is for PyTorch"),
    ],
)
def test_what_a_checkpoint_cannot_be_run_with(backend, precision, message, lively_pt):
    options = RunOptions(device="cpu", precision=precision)
    with pytest.raises(UsageError, match=message):
        open_with(lively_pt, options, backend=backend)


def test_an_export_opens_with_its_own_runtime(exports):
    path = exports(format="torchscript", batch=None).path
    assert open_with(path, backend="auto").kind == "torchscript"
    assert Detector(path, backend="auto").choice is None


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
    result = dataclasses.replace(result, model="$a_$ 汽车.pt")
    write_plot(result, tmp_path / "bars.svg")
    assert ">$a_$ 汽车.pt, " in (tmp_path / "bars.svg").read_text("utf-8")
    write_plot(result, tmp_path / "bars.png")


def test_a_benchmark_of_an_unknown_format(lively_pt):
    with pytest.raises(UsageError, match="unknown format 'caffe'"):
        benchmark(lively_pt, ["torch", "caffe"])
