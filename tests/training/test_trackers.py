"""What experiment trackers get of a run: numbers, images, the weights. All of it without a net."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from oculox.config import load_config
from oculox.distributed.devices import open_accelerator
from oculox.errors import MissingExtraError, OculoxWarning, TrainingError, UsageError
from oculox.training.trackers import check_trackers, open_trackers

RED = np.full((40, 60, 3), (0, 0, 255), np.uint8)


def tracked(folder, names, steps, *, resume_step=0):
    """A run whose loss is its step, with an image and a file of weights."""
    config = load_config("yolox-nano", [f"train.trackers=[{names}]"])
    check_trackers(config)
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "predictions.png"), RED)
    (folder / "best.pt").write_bytes(b"weights")
    with (
        open_accelerator("cpu") as accelerator,
        open_trackers(accelerator, config, folder=folder, resume_step=resume_step) as trackers,
    ):
        for step in steps:
            trackers.log({"train/loss": float(step)}, step)
        trackers.image(folder / "predictions.png", step=steps[-1])
        trackers.checkpoint(folder / "best.pt")


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_tensorboard_goes_on_without_doubled_steps(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: tensorboard)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked(tmp_path, "tensorboard", [1, 2, 3, 4])
    tracked(tmp_path, "tensorboard", [3, 4, 5], resume_step=2)
    events = EventAccumulator(str(tmp_path / "trackers/oculox"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert events.Scalars("train/loss")[0].value == 1.0
    [name] = events.Tags()["images"]
    assert name.startswith("predictions")
    shown = events.Images(name)[-1]
    assert shown.step == 5
    pixels = cv2.imdecode(np.frombuffer(shown.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == RED.shape
    assert np.abs(pixels.astype(int) - RED).max() < 5  # red, not blue


class Away:
    """A tracker whose server does not answer."""

    name = "away"

    calls = 0

    def log(self, values, step):
        self.calls += 1
        raise ConnectionError("no answer\nmore")

    def finish(self):
        raise ConnectionError("still none")


def test_a_tracker_that_fails_is_told_of_once_and_costs_nothing(tmp_path):
    said = []

    def run():
        with (
            open_accelerator("cpu") as accelerator,
            open_trackers(accelerator, load_config("yolox-nano"), folder=tmp_path) as trackers,
        ):
            accelerator.trackers.append(tracker := Away())
            said.extend(trackers.log({"train/loss": 1.0}, step) for step in range(1, 7))
            assert tracker.calls == 3

    with pytest.warns(OculoxWarning, match=r"^away could not be closed \(still none\)$"):
        run()
    [[first], *others] = said
    assert first.startswith("away does not take the numbers of step 1 (no answer); log.jsonl has")
    assert not any(others)


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (extra: mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at/all")
    with pytest.raises(TrainingError, match=r"\[mlflow\] could not start: "):
        tracked(tmp_path / "mine", "mlflow", [1, 2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tracked(tmp_path / "mine", "mlflow", [1, 2])
    client = mlflow.MlflowClient()
    [run] = client.search_runs([mlflow.get_experiment_by_name("oculox").experiment_id])
    assert run.info.run_name == "mine"
    assert run.data.params["train.batch"] == "64"
    assert run.data.metrics["train/loss"] == 2.0
    kept = Path(client.download_artifacts(run.info.run_id, ""))
    assert (kept / "images/step-000002/predictions.png").is_file()
    assert (kept / "checkpoints/best.pt").read_bytes() == b"weights"


@pytest.mark.filterwarnings("ignore")
def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed (extra: wandb)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    tracked(tmp_path / "mine", "wandb", [1, 2])
    [run] = (tmp_path / "mine/wandb").glob("offline-run-*")
    [image] = (run / "files/media/images").glob("predictions_2_*.png")
    np.testing.assert_array_equal(cv2.imread(str(image)), RED)
    [record] = run.glob("*.wandb")
    stored = record.read_bytes()
    assert b"train/loss" in stored
    assert b"best.pt" in stored


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("tensorboard", MissingExtraError, r"oculox\[tensorboard\]"),
        ("wandb", MissingExtraError, r"oculox\[wandb\]"),
        ("mlflow", MissingExtraError, r"oculox\[mlflow\]"),
        ("comet_ml", MissingExtraError, r"oculox\[comet\]"),
        ("swanlab", UsageError, "pip install swanlab"),
    ],
)
def test_trackers_that_are_absent(monkeypatch, name, error, said):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(error, match=said):
        check_trackers(load_config("yolox-nano", [f"train.trackers=[{name}]"]))
