"""The images and the page that a run leaves, and that they never end it."""

import json
import shutil
from pathlib import Path

import cv2
import pytest

from html_page import Page, check_alone
from oculox import train
from oculox.config import config_to_yaml, load_config
from oculox.training.log import read_log
from oculox.training.run_report import BATCHES, PREDICTIONS, REPORT, TAIL_BATCHES

DRAWN = (BATCHES, TAIL_BATCHES, PREDICTIONS, REPORT)


@pytest.fixture(scope="module")
def drawn(quick, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "drawn"
    words = ("train.aug_epochs=1", "train.report=true", "train.trackers=[tensorboard]")
    return train("yolox-nano", *quick, *words, output=output)


def test_a_run_shows_what_it_sees_and_finds(drawn):
    for name in (BATCHES, TAIL_BATCHES):
        # Four images of the batch in a row.
        assert cv2.imread(str(drawn.output / name)).shape == (480, 1920, 3)
    # Four validation images, two in a row.
    assert cv2.imread(str(drawn.output / PREDICTIONS)).shape == (800, 1600, 3)
    page = Page(drawn.output / REPORT)
    check_alone(page)
    metrics = json.loads((drawn.output / "summary.json").read_text("utf-8"))["metrics"]
    shown = [row[1] for row in page.tables["COCO metrics"]]
    assert shown == ["-" if value < 0 else f"{value:.3f}" for value in metrics.values()]
    assert dict(page.tables["settings"])["train.aug_epochs"] == "1"
    assert [row[0] for row in page.tables["Evaluations"]] == ["2"]
    said = f"Last evaluation in epoch 2, after step 6; best.pt is of epoch {drawn.best_epoch}."
    assert said in page.texts


def test_a_trial_stopped_inside_an_epoch(quick, tmp_path):
    words = ("train.aug_epochs=20", "train.report=true", "train.max_steps=4", "eval.conf=0.99")
    summary = train("yolox-nano", *quick, *words, output=tmp_path / "run")
    assert (summary.epochs, summary.best_epoch, summary.steps) == (2, 2, 4)
    assert not summary.stopped_early
    page = Page(summary.output / REPORT)
    assert "Last evaluation in epoch 2, after step 4; best.pt is of epoch 2." in page.texts
    assert [r["eta_s"] for r in read_log(summary.output) if r["kind"] == "train"][-1] == 0
    assert "AP is 0: nothing was detected" in (summary.output / "log.txt").read_text("utf-8")


def test_an_image_that_cannot_be_read_is_not_shown(quick, tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    first = min((data / "val2017").iterdir())
    first.write_bytes(first.read_bytes()[:50])
    words = (*quick, f"data.root={data}", "eval.max_bad_images=1", "train.max_steps=1")
    run = train("yolox-nano", *words, "train.report=true", output=tmp_path / "run")
    # Three of four images, two in a row.
    assert cv2.imread(str(run.output / PREDICTIONS)).shape == (800, 1600, 3)
    assert "could not be written" not in (run.output / "log.txt").read_text("utf-8")


def test_trackers_get_numbers_and_images(drawn):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(drawn.output / "trackers/oculox"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert events.Scalars("train/lr")
    assert [event.step for event in events.Scalars("eval/ap")] == [6]
    assert not [tag for tag in events.Tags()["scalars"] if "phase" in tag]
    shown = {tag.split("/")[0]: events.Images(tag)[0].step for tag in events.Tags()["images"]}
    assert shown == {"batches": 0, "batches-tail": 3, "predictions": 6}


def test_a_failure_while_drawing_does_not_end_a_run(quick, tmp_path):
    output = tmp_path / "run"
    for name in (*DRAWN, "curves.png"):
        # A folder of that name cannot be replaced by a file.
        (output / name / "kept").mkdir(parents=True)
    # A run that ended before its first step has left the rest.
    (output / "config.yaml").write_text(config_to_yaml(load_config("yolox-nano")))
    short = ("train.aug_epochs=1", "train.report=true")
    summary = train("yolox-nano", *quick, *short, output=output)
    assert summary.steps == 6
    log = (output / "log.txt").read_text("utf-8")
    for name in (*DRAWN, "curves.png"):
        assert log.count(f"{name} could not be written: ") == 1, name
        assert list(Path(output, name).iterdir())


def test_it_can_be_switched_off_in_a_resumed_run(quick, drawn):
    before = (drawn.output / REPORT).read_bytes()
    train(None, "train.epochs=3", "train.report=false", resume=drawn.output)
    assert (drawn.output / REPORT).read_bytes() == before
