"""`oculox train`: what it says and refuses, full disks, signals."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from oculox.training.log import read_log
from oculox.weights import build_network, load_weights
from oculox.weights.checkpoint import load_training_state

ONE_STEP = ("train.max_steps=1",)


@pytest.fixture
def train(oculox, quick):
    def run(output, *words, code=0, recipe="yolox-nano"):
        outcome = oculox("train", recipe, *quick, *words, "--output", output)
        assert outcome.code == code, outcome.err
        return outcome

    return run


@pytest.fixture
def resume(oculox):
    def run(output, *words, code=0):
        outcome = oculox("train", "--resume", output, "train.max_steps=null", *words)
        assert outcome.code == code, outcome.err
        return outcome

    return run


def test_summary_as_json(train, tmp_path):
    outcome = train(tmp_path / "run", *ONE_STEP, "--json")
    assert outcome.json == json.loads((tmp_path / "run/summary.json").read_text("utf-8"))
    assert outcome.json["steps"] == 1
    assert outcome.json["stopped_early"] is False
    assert len(outcome.json["metrics"]) == 12
    assert "Traceback" not in outcome.err


def test_summary_for_people(train, tmp_path):
    outcome = train(tmp_path / "my run", *ONE_STEP)
    out = outcome.out
    assert f"next             oculox predict '{tmp_path / 'my run/best.pt'}' YOUR_IMAGES" in out
    assert re.search(r"best AP .* in epoch 1; 1 step done, ", out), out
    assert "; stops after 1 step (train.max_steps); output in " in outcome.err


@pytest.mark.parametrize("words", [(), ("--devices", 2)])
def test_a_finished_run_says_so(train, oculox, tmp_path, words):
    output = tmp_path / "run"
    train(output, *ONE_STEP)
    before = {path: path.read_bytes() for path in output.iterdir()}
    outcome = oculox("train", "--resume", output, *words)
    assert outcome.code == 0, outcome.err
    assert f"{output}: this run is finished" in outcome.err
    assert f"best checkpoint  {output / 'best.pt'}" in outcome.out
    assert {path: path.read_bytes() for path in output.iterdir()} == before


def test_the_default_folder_is_new_every_time(oculox, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/yolox-nano").mkdir(parents=True)
    (tmp_path / "runs/yolox-nano-2").mkdir()
    assert oculox("train", "yolox-nano", *quick, *ONE_STEP).code == 0
    assert (tmp_path / "runs/yolox-nano-3/best.pt").is_file()
    assert not list((tmp_path / "runs/yolox-nano").iterdir())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("train.btch=3",), 2),
        (("data.root=none",), 1),
        (("model.num_classes=4",), 1),
        (("train.device=npu",), 2),
        (("--weights", "config.yaml"), 1),
        (("--resume", "none"), 2),
    ],
)
def test_a_refused_command_leaves_no_folder(oculox, quick, tmp_path, monkeypatch, words, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("mine")
    assert oculox("train", "yolox-nano", *quick, *words).code == code
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_an_occupied_folder_is_wrong_usage(train, tmp_path):
    output = tmp_path / "my run"
    output.mkdir()
    (output / "config.yaml").write_text("mine")
    error = train(output, code=2).error
    assert "holds another run" in error
    assert f"choose another --output, or resume it: --resume '{output}'" in error


def test_neither_a_recipe_nor_a_run(oculox):
    outcome = oculox("train")
    assert outcome.code == 2
    assert "name a recipe" in outcome.error


def test_from_weights_of_another_class_count(train, three_classes_pt, tmp_path):
    outcome = train(tmp_path / "run", *ONE_STEP, "--weights", three_classes_pt)
    assert "3 classes there, 6 here" in outcome.err


def check_usable(path):
    """A checkpoint is whole: usable for detection and for going on."""
    build_network(load_weights(path))
    load_training_state(path)


@contextmanager
def largest_file(size):
    """Writing beyond `size` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_one(train, resume, tmp_path):
    output = tmp_path / "run"
    train(output, "train.max_steps=3")
    before = {path: path.read_bytes() for path in (output / "last.pt", output / "best.pt")}
    with largest_file(2 << 20):
        error = resume(output, code=1).error
    assert "last.pt: could not be written" in error or "best.pt: could not be written" in error
    assert "(File too large); what was there before is unchanged" in error
    assert {path: path.read_bytes() for path in before} == before
    assert not list(output.glob("*.part"))
    assert not list(output.glob(".*.part"))
    check_usable(output / "last.pt")


def test_a_log_that_cannot_be_written(train, tmp_path):
    words = ("train.aug_epochs=9", "train.eval_interval=0", "train.checkpoint_interval=100")
    with largest_file(5 << 10):
        error = train(tmp_path / "run", *words, code=1).error
    assert "log.jsonl: could not be written (File too large)" in error
    assert (tmp_path / "run/log.jsonl").stat().st_size == 5 << 10


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 48 MB, where the system allows mounting one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    words = (mount, "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder))
    if mount is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(("umount", "-l", str(folder)), check=True)


def test_a_full_disk(train, resume, small_disk):
    output = small_disk / "run"
    train(output, "train.max_steps=3")
    before = (output / "last.pt").read_bytes()
    # A new state takes its place, and would fit.
    (output / "previous.pt").unlink()
    free = shutil.disk_usage(small_disk).free
    with (small_disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(free - (1 << 20)))
    error = resume(output, code=1).error
    assert "No space left on device" in error
    assert (output / "last.pt").read_bytes() == before
    check_usable(output / "last.pt")
    (small_disk / "ballast").unlink()
    resume(output)
    assert load_training_state(output / "last.pt")[1]["progress"]["step"] == 9


def test_a_cache_that_does_not_fit_leaves_nothing(train, tiny_data, small_disk, tmp_path):
    data = small_disk / "data"
    shutil.copytree(tiny_data, data)
    words = (f"data.root={data}", "data.cache=disk", *ONE_STEP)
    before = {path for path in data.rglob("*") if path.suffix != ".lock"}
    with largest_file(100 << 10):
        error = train(tmp_path / "run", *words, code=1).error
    assert "cannot keep the image cache (File too large)" in error
    free = shutil.disk_usage(small_disk).free
    with (small_disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(free - (20 << 10)))
    error = train(tmp_path / "run", *words, code=1).error
    assert "free some space or use data.cache=none" in error
    assert {path for path in data.rglob("*") if path.suffix != ".lock"} == before


def test_a_read_only_disk(train, resume, oculox, small_disk):
    output = small_disk / "run"
    train(output, "train.max_steps=3")
    before = {path: path.read_bytes() for path in output.iterdir()}
    subprocess.run(("mount", "-o", "remount,ro", str(small_disk)), check=True)
    for error in (resume(output, code=1).error, train(small_disk / "new", code=1).error):
        assert "Read-only file system" in error
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    # Reading needs no more.
    data = str(small_disk / "run/best.pt")
    assert oculox("weights", "info", data).code == 0


def started(words, output, **options):
    process = subprocess.Popen(
        [sys.executable, "-m", "oculox", "train", "yolox-nano", *words, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        # Under a background job of a shell SIGINT would be ignored from birth.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )
    deadline = time.monotonic() + 120
    while not (output / "last.pt").exists() or len(read_log(output)) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("number", "devices", "to"),
    [
        pytest.param(*(signal.SIGINT, 1, "group"), marks=pytest.mark.slow),
        pytest.param(*(signal.SIGINT, 1, "command"), marks=pytest.mark.slow),
        pytest.param(*(signal.SIGINT, 2, "group"), marks=pytest.mark.slow),
        pytest.param(*(signal.SIGTERM, 1, "group"), marks=pytest.mark.slow),
        (signal.SIGTERM, 2, "command"),
        pytest.param(*(signal.SIGTERM, 2, "second"), marks=pytest.mark.slow),
        pytest.param(*(signal.SIGUSR1, 1, "group"), marks=pytest.mark.slow),
        pytest.param(*(signal.SIGUSR1, 2, "group"), marks=pytest.mark.slow),
        pytest.param(*(signal.SIGKILL, 1, "command"), marks=pytest.mark.slow),
        pytest.param(*(signal.SIGKILL, 2, "command"), marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_all_processes(quick, tmp_path, number, devices, to):
    output = tmp_path / "run"
    words = (*quick, "data.workers=1", "train.aug_epochs=900", "train.eval_interval=0")
    process = started((*words, "--devices", str(devices)), output)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= (1 if devices == 1 else 4)
    if to == "group":
        # As a terminal does.
        os.killpg(process.pid, number)
    elif to == "command":
        process.send_signal(number)
    else:
        workers = psutil.Process(process.pid).children()
        [second] = [worker for worker in workers if worker.environ()["RANK"] == "1"]
        second.send_signal(number)
    process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=4)
    assert not alive
    out, err = process.communicate(timeout=10)
    assert out == ""
    assert "Traceback" not in err, err
    check_usable(output / "last.pt")
    if number == signal.SIGKILL:
        return
    code = 130 if number == signal.SIGINT else 143 if to == "second" else -number
    assert process.returncode == code, err
    assert not list(output.glob(".*.part"))
    lines = [line for line in err.splitlines() if "epoch" not in line]
    if number == signal.SIGINT:
        assert lines.pop() == "interrupted"
    assert lines[-1].startswith(f"stopped by {number.name} after step ")
    assert lines[-1].endswith(f"oculox train --resume {output}")
    assert len(read_log(output)) == load_training_state(output / "last.pt")[1]["progress"]["step"]
