"""`oculox demo`: the whole job; its settings are cut down here to seconds."""

import functools
import shlex

import pytest

import oculox.cli.demo as command
from oculox.datasets.demo import dataset


@pytest.fixture
def short(monkeypatch):
    """A demo of one small epoch on a handful of images."""

    small = functools.partial(dataset.write_demo, train=8, val=3, size=(96, 72))
    monkeypatch.setattr(dataset, "write_demo", small)
    settings = (
        "input.size=64",
        "augment.multiscale=null",
        "train.batch=8",
        "train.epochs=1",
        "train.device=cpu",
        "data.workers=0",
    )
    monkeypatch.setattr(command, "SETTINGS", settings)
    monkeypatch.setattr(command, "IMAGES", 2)


def test_the_whole_job(oculox, short, tmp_path):
    folder = tmp_path / "my demo"
    outcome = oculox("demo", "--output", folder)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in folder.iterdir()} == {
        "data",
        "run",
        "demo-nano.safetensors",
        "detections.jpg",
    }
    assert all(f"{step}/4" in outcome.err for step in (1, 2, 3, 4))
    assert "AP50" in outcome.out
    [command] = [line for line in outcome.out.splitlines() if line.startswith("next")]
    paths = (folder / "demo-nano.safetensors", folder / "data/val2017")
    assert shlex.split(command) == ["next", "oculox", "predict", *map(str, paths)]

    again = oculox("demo", "--output", folder)
    assert again.code == 2
    assert "pass --overwrite" in again.error
    (folder / "mine.txt").write_text("mine")
    before = (folder / "detections.jpg").stat().st_mtime_ns
    replaced = oculox("demo", "--output", folder, "--overwrite", "--json")
    assert replaced.json["weights"] == str(folder / "demo-nano.safetensors")
    assert len(replaced.json["metrics"]) == 12
    assert (folder / "detections.jpg").stat().st_mtime_ns > before
    assert (folder / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("mine", ["mine.txt", "data/annotations/mine.json", "run/best.pt"])
def test_a_folder_that_is_no_demo_is_never_deleted(oculox, short, tmp_path, mine):
    (tmp_path / mine).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mine).write_text("mine")
    outcome = oculox("demo", "--output", tmp_path, "--overwrite")
    assert outcome.code == 2
    assert "already holds files" in outcome.error
    assert (tmp_path / mine).read_text() == "mine"


def test_a_folder_that_cannot_be_made(oculox, short, tmp_path):
    (tmp_path / "file").write_text("mine")
    outcome = oculox("demo", "--output", tmp_path / "file/below")
    assert outcome.code == 1
    assert "file/below" in outcome.error
