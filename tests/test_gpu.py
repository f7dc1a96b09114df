"""Training, evaluation and exports on a GPU (`make test-gpu`), and what keeps a step from waiting.

The GPU adds in another order, so that only a rerun on the same one is compared bit by bit.
"""

import collections
import math
import os
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from oculox import Detector, TrainCallback, export, train
from oculox.cli.demo import SETTINGS
from oculox.config import load_config
from oculox.datasets.demo.dataset import write_demo
from oculox.distributed.devices import open_accelerator
from oculox.distributed.sync_bn import to_sync_batch_norm
from oculox.errors import TrainingError
from oculox.exporting.targets import TARGETS
from oculox.models import build_model
from oculox.ops.boxes import pairwise_iou
from oculox.training.build import build_run
from oculox.training.log import read_log
from oculox.training.step import train_step

DEVICE = "cuda"
ON_GPU = (f"train.device={DEVICE}", "data.workers=2")


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.__name__.split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("already", ["", "/other/packages"])
@pytest.mark.parametrize("target", ["test-gpu", "bench-gpu"])
def test_packages_of_the_path_stay_there(tmp_path, monkeypatch, target, already):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", already)
    root = Path(__file__).parents[1]
    command = ["make", "--silent", target, f"GPU_PYTHON={python}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip().split(os.pathsep) == [str(root / "src"), *filter(None, [already])]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_sends_no_numbers_and_asks_for_none(quick, name):
    # On a GPU each of these would wait for what the device has still to do.
    config = load_config("yolox-nano", [*quick, f"optimizer.name={name}", "model.width=0.125"])
    with open_accelerator("cpu") as accelerator:
        run = build_run(config, accelerator, weights=None)
        batches = run.train_loader.iterate(0, mosaic=False)
        options = {"rate": 1e-3, "size_hw": (96, 96), "use_l1": True}
        train_step(run.parts, next(batches), **options, step=1)
        batch = next(batches)
        with Operations() as seen:
            train_step(run.parts, batch, **options, step=2)
    assert seen.counts["convolution_backward"] > 50
    assert seen.counts["lift_fresh"] == 0  # a tensor of Python's numbers
    assert seen.counts["nonzero"] == 0
    # Whether the boxes are finite, asked of the batch before it moves.
    assert seen.counts["_local_scalar_dense"] == 1


class Waits(TrainCallback):
    """Counts how often the steps after the second wait for the device."""

    def __init__(self):
        self.caught, self.counts = [], []

    def on_step(self, step, total, loss):
        self.counts.append(sum("synchronizing CUDA" in str(w.message) for w in self.caught))
        self.caught.clear()
        torch.cuda.set_sync_debug_mode("warn")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_waits_for_the_device_once_a_step(quick, tmp_path, precision, optimizer):
    words = (f"train.precision={precision}", f"optimizer.name={optimizer}", "train.max_steps=8")
    once = ("train.eval_interval=0", "train.checkpoint_interval=100", "loss.l1=always")
    waits = Waits()
    with warnings.catch_warnings(record=True) as waits.caught:
        warnings.simplefilter("always")
        try:
            train(
                *("yolox-nano", *quick, *ON_GPU, *words, *once, "train.aug_epochs=4"),
                output=tmp_path / "out",
                callback=waits,
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert waits.counts[2:] == [1] * 6


@pytest.mark.gpu
def test_one_process_needs_no_other_for_its_batch_norms(quick):
    torch.manual_seed(0)
    plain = build_model(load_config("yolox-nano").model, num_classes=3).to(DEVICE)
    names = list(plain.state_dict())
    images = torch.rand(2, 3, 64, 64, device=DEVICE) * 255
    expected = plain(images).classes
    synced = to_sync_batch_norm(plain, device_type=DEVICE)
    torch.testing.assert_close(synced(images).classes, expected)
    assert list(synced.state_dict()) == names


@pytest.mark.gpu
def test_fp16_passes_over_steps_that_overflow(quick):
    words = (*quick, *ON_GPU, "train.precision=fp16", "train.aug_epochs=20")
    config = load_config("yolox-nano", words)
    with open_accelerator(DEVICE, precision="fp16") as accelerator:
        run = build_run(config, accelerator, weights=None)
        scaler = accelerator.scaler
        scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**28})
        weight = next(run.parts.network.parameters())
        start = weight.detach().clone()
        losses = []
        for epoch in range(10):
            for batch in run.train_loader.iterate(epoch, mosaic=True):
                losses.append(
                    train_step(
                        run.parts,
                        batch,
                        rate=1e-3,
                        size_hw=(64, 64),
                        use_l1=True,
                        step=len(losses) + 1,
                    )
                )
                if len(losses) == 1:
                    assert torch.equal(weight, start)
        run.train_loader.close()
        assert scaler.get_scale() < 2.0**28
        assert math.isinf(losses[0].gradient_norm) or math.isnan(losses[0].gradient_norm)
        assert all(math.isfinite(loss.total) for loss in losses)
        assert math.isfinite(losses[-1].gradient_norm)
        assert not torch.equal(weight, start)
        assert all(p.isfinite().all() for p in run.parts.network.parameters())


@pytest.mark.gpu
def test_too_large_a_batch_names_the_setting(quick, tmp_path):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / total)
    large = ("train.batch=64", "input.size=640", "augment.multiscale=null")
    try:
        with pytest.raises(TrainingError, match=r"out of memory on cuda.*lower train\.batch"):
            train("yolox-s", *quick, *ON_GPU, *large, output=tmp_path / "out")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_run_of_two_sizes(quick, tmp_path):
    pytest.importorskip("triton", reason="triton is not installed")
    torch._dynamo.reset()
    counters.clear()
    words = (*quick, *ON_GPU, "train.precision=bf16", "train.max_steps=8", "train.eval_interval=0")
    runs = [
        train("yolox-nano", *words, f"train.compile={compiled}", output=tmp_path / compiled)
        for compiled in ("true", "false")
    ]
    # Training would go on without: what fails to compile runs as it is.
    assert counters["stats"]["unique_graphs"] > 0
    ours, theirs = ([row for row in read_log(run.output) if row["kind"] == "train"] for run in runs)
    assert len({tuple(row["size"]) for row in ours}) == 2
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=0.1)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of operations that PyTorch has no exact kernel for
def test_both_phases_in_bf16_and_an_exact_resume(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    words = (*quick, *ON_GPU, "train.precision=bf16", "train.deterministic=true")
    whole = train("yolox-nano", *words, output=tmp_path / "whole")
    half = train("yolox-nano", *words, "train.max_steps=4", output=tmp_path / "half")
    resumed = train("train.max_steps=null", resume=half.output)
    rows = [[r for r in read_log(run.output) if r["kind"] == "train"] for run in (whole, resumed)]
    assert {row["phase"] for row in rows[0]} == {"aug", "tail"}
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    ours, theirs = (states_of(run.output / "last.pt") for run in (whole, resumed))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def states_of(path):
    content = torch.load(path, weights_only=True)
    assert content["training"]["rng"].keys() == {"cpu", "cuda"}
    return {**content["state"], **{f"raw.{k}": v for k, v in content["training"]["raw"].items()}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that finds the objects of the demo dataset, trained on the GPU; its data."""
    folder = tmp_path_factory.mktemp("trained")
    write_demo(folder / "data", train=120, val=24)
    words = (f"data.root={folder / 'data'}", *SETTINGS, *ON_GPU, "train.report=false")
    summary = train("yolox-nano", *words, "train.precision=fp32", output=folder / "run")
    assert summary.best_ap > 0.05
    return summary.best, folder / "data"


@pytest.fixture
def exact(monkeypatch):
    """Convolutions with all digits of a float32, as on the CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.gpu
def test_evaluation_agrees_with_the_processor(trained, exact):
    best, data = trained
    ours, theirs = (
        Detector(best, device=device).evaluate(data).metrics.as_dict() for device in (DEVICE, "cpu")
    )
    assert ours == pytest.approx(theirs, abs=1e-3)


def assert_found(detector, model, data, *, tolerance, overlap=0.9, share=1.0):
    """A detector finds what the model finds on the CPU, or that share of it."""
    paths = sorted((data / "val2017").iterdir())
    count = matched = 0
    expected = Detector(model, device="cpu")(paths)
    for ours, theirs in zip(detector(paths), expected, strict=True):
        sure = theirs.scores > detector.pipeline.settings.conf + tolerance
        count += sure.sum()
        iou = pairwise_iou(torch.from_numpy(theirs.xyxy[sure]), torch.from_numpy(ours.xyxy))
        same = (iou.numpy() > overlap) & (theirs.class_ids[sure, None] == ours.class_ids)
        same &= abs(theirs.scores[sure, None] - ours.scores) < tolerance
        matched += same.any(axis=1).sum()
    assert count > 10
    assert matched >= share * count


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_prediction_agrees_with_the_processor(trained, exact, precision):
    best, data = trained
    allowed = {
        "fp32": {"tolerance": 0.002},
        # Rounding to 8 bits decides which of two boxes that are nearly equal NMS keeps.
        "bf16": {"tolerance": 0.1, "overlap": 0.8, "share": 0.9},
        "fp16": {"tolerance": 0.02},
    }
    detector = Detector(best, device=DEVICE, precision=precision)
    assert_found(detector, best, data, **allowed[precision])


@pytest.mark.gpu
def test_a_second_device_is_used(trained, exact):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device here, cuda:1 is absent")
    best, data = trained
    detector = Detector(best, device="cuda:1")
    assert next(detector.backend.network.parameters()).device == torch.device("cuda:1")
    assert_found(detector, best, data, tolerance=0.002)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["torchscript", "pt2", "onnx", "tensorrt"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporters, on newer Pythons
def test_an_export_runs_on_the_gpu(trained, exact, tmp_path, name):
    best, data = trained
    if name == "tensorrt":
        pytest.importorskip("tensorrt", reason="tensorrt is not installed")
    if name == "onnx":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
        runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            pytest.skip("this ONNX Runtime has no CUDA: onnxruntime-gpu is not installed")
    path = export(best, name, output=tmp_path / f"model{TARGETS[name].suffix}").path
    assert_found(Detector(path, device=DEVICE), best, data, tolerance=0.01)
