"""Whole runs: what they write, resume after a kill, several processes, early ends."""

import dataclasses
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import cv2
import pytest
import torch

from oculox import Detector, TrainCallback, convert, evaluate, load_config, train
from oculox.cli.main import main
from oculox.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceMemoryError,
    TrainingError,
    UsageError,
)
from oculox.training import loop
from oculox.training.log import StepLoss, read_log
from oculox.training.loop import run_training
from oculox.training.remote import RunPlace
from oculox.training.stop import RunStopped
from oculox.weights import load_weights
from oculox.weights.checkpoint import load_training_state


def slow(*values):
    """A case that only the slow tests run."""
    return pytest.param(*values, marks=pytest.mark.slow)


def run_cli(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "oculox", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def states_of(path):
    content = torch.load(path, weights_only=True)
    return content["state"], content["training"]["raw"]


def assert_bit_equal(first, second):
    assert_equal_states(states_of(first), states_of(second))


def assert_equal_states(first, second):
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys()
        different = [k for k in ours if not torch.equal(ours[k], theirs[k])]
        assert not different


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "out"
    return train("yolox-nano", *quick, output=output)


def test_a_run_on_yolo_is_that_on_its_conversion(quick, tiny_data, tmp_path):
    convert(tiny_data, tmp_path / "yolo", source_format="coco", target_format="yolo")
    convert(tmp_path / "yolo", tmp_path / "coco", source_format="yolo")
    for name in ("coco", "yolo"):
        words = (*quick, f"data.root={tmp_path / name}", "train.max_steps=2")
        train("yolox-nano", *words, output=tmp_path / f"run-{name}")
    assert_equal_states(*(states_of(tmp_path / f"run-{name}/last.pt") for name in ("coco", "yolo")))
    # Its configuration names the data: for evaluation, and for going on.
    metrics = Detector(tmp_path / "run-yolo/best.pt").evaluate(workers=0).metrics
    assert metrics.images == 4
    assert train(None, "train.max_steps=3", resume=tmp_path / "run-yolo").steps == 3


def test_a_run_leaves_everything_to_read(finished):
    names = {path.name for path in finished.output.iterdir()}
    assert names == {
        "config.yaml",
        "log.jsonl",
        "log.txt",
        "last.pt",
        "previous.pt",
        "best.pt",
        "summary.json",
        ".lock",
    }
    rows = read_log(finished.output)
    steps = [row for row in rows if row["kind"] == "train"]
    evals = [row for row in rows if row["kind"] == "eval"]
    assert [row["step"] for row in steps] == list(range(1, 10))
    assert [row["phase"] for row in steps] == ["aug"] * 6 + ["tail"] * 3
    assert all(row["l1"] == 0 for row in steps[:6])
    assert all(row["l1"] > 0 for row in steps[6:])
    assert {
        "loss",
        "box",
        "objectness",
        "classes",
        "lr",
        "size",
        "step_ms",
        "data_wait",
        "images_per_s",
        "eta_s",
        "epoch",
    } <= steps[0].keys()
    assert [row["epoch"] for row in evals] == [2, 3]
    assert len({k for k in evals[0] if k.startswith(("ap", "ar"))}) == 12


def test_the_saved_configuration_reproduces_the_run(finished, tmp_path):
    again = run_training(
        load_config(finished.output / "config.yaml"), place=RunPlace(tmp_path / "again", None)
    )
    assert_bit_equal(finished.output / "last.pt", again.output / "last.pt")


def test_a_checkpoint_is_usable_and_knows_its_data(finished):
    detector = Detector(finished.best)
    assert detector.names == load_weights(finished.best).spec.names
    assert len(detector.names) == 6
    result = detector.evaluate()
    assert result.metrics.as_dict().keys() == finished.metrics.keys()


def test_the_best_checkpoint_holds_what_is_used(finished):
    content = torch.load(finished.best, weights_only=True)
    assert content["training"].keys() == {"config", "progress"}
    assert content["training"]["progress"]["step"] in (6, 9)
    assert finished.best.stat().st_size < 0.4 * (finished.output / "last.pt").stat().st_size
    with pytest.raises(CheckpointError, match="no training state to resume from"):
        load_training_state(finished.best)
    with pytest.raises(UsageError, match=r"takes the folder of a run.*pass it as `weights`"):
        train(resume=finished.best)


def test_an_older_best_checkpoint_with_training_state_is_read(finished, tmp_path):
    path = tmp_path / "best.pt"
    shutil.copy(finished.output / "last.pt", path)
    assert Detector(path).evaluate().metrics.as_dict() == finished.metrics


def test_workers_do_not_change_the_run(finished, quick, tmp_path):
    again = train("yolox-nano", *quick, "data.workers=2", output=tmp_path / "workers")
    assert_bit_equal(finished.output / "last.pt", again.output / "last.pt")


@pytest.mark.parametrize("steps", [slow(1), 4, slow(7)])
def test_resume_equals_uninterrupted(finished, quick, tmp_path, steps):
    output = tmp_path / "out"
    train("yolox-nano", *quick, f"train.max_steps={steps}", output=output)
    resumed = train("train.max_steps=null", resume=output)
    assert_bit_equal(finished.output / "last.pt", resumed.output / "last.pt")
    logged = [r["step"] for r in read_log(output) if r["kind"] == "train"]
    assert logged == list(range(1, 10))


@pytest.mark.slow
def test_adamw_in_channels_last_memory_resumes_exactly(quick, tmp_path):
    settings = (*quick, "optimizer.name=adamw", "train.channels_last=true", "train.max_steps=4")
    whole = train("yolox-nano", *settings, output=tmp_path / "whole")
    halved = train("yolox-nano", *settings, "train.max_steps=2", output=tmp_path / "halves")
    resumed = train("train.max_steps=4", resume=halved.output)
    assert_bit_equal(whole.output / "last.pt", resumed.output / "last.pt")


@pytest.mark.slow
def test_resume_after_a_kill_equals_uninterrupted(quick, tmp_path):
    settings = (*quick, "train.aug_epochs=6", "train.eval_interval=0")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train("yolox-nano", *settings, output=whole)

    words = ("train", "yolox-nano", *settings, "--output", str(killed))
    process = subprocess.Popen(
        [sys.executable, "-m", "oculox", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(read_log(killed)) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "summary.json").exists(), "the run ended before it could be killed"

    train(resume=killed)
    assert "resumed after epoch" in (killed / "log.txt").read_text()
    assert_bit_equal(whole / "last.pt", killed / "last.pt")


@pytest.fixture
def ctrl_c():
    """SIGINT as from a terminal: in a background job of a shell it would be ignored from birth."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupt(monkeypatch, ctrl_c):
    """Sends this process a signal at a call of a function of the loop, numbered from 1."""

    def install(number, *, name, call):
        real, calls = getattr(loop, name), itertools.count(1)

        def with_signal(*args, **options):
            if next(calls) == call:
                os.kill(os.getpid(), number)
            return real(*args, **options)

        monkeypatch.setattr(loop, name, with_signal)

    return install


@pytest.mark.parametrize(
    ("name", "call", "step"),
    [
        slow("train_step", 2, 2),
        # The last of an epoch: without an evaluation, with one, and of the run.
        slow("train_step", 3, 3),
        ("train_step", 6, 6),
        slow("train_step", 9, 9),
        slow("evaluate_loader", 1, 6),
        slow("evaluate_loader", 2, 9),
    ],
)
def test_a_run_stopped_by_a_signal_goes_on_exactly(
    finished, quick, tmp_path, interrupt, monkeypatch, name, call, step
):
    interrupt(signal.SIGINT, name=name, call=call)
    output = tmp_path / "my run"
    with pytest.raises(KeyboardInterrupt):
        train("yolox-nano", *quick, output=output)
    said = (
        f"stopped by SIGINT after step {step}; last.pt is saved, resume with: "
        f"oculox train --resume '{output}'"
    )
    assert said in (output / "log.txt").read_text()
    assert not (output / "summary.json").exists()
    monkeypatch.undo()
    resumed = train(resume=output)
    assert_bit_equal(finished.output / "last.pt", output / "last.pt")
    assert_equal_states([load_weights(finished.best).state], [load_weights(resumed.best).state])
    same = {"seconds": 0, "output": tmp_path}
    assert dataclasses.replace(resumed, **same) == dataclasses.replace(finished, **same)
    rows = read_log(output)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 10))
    assert [row["epoch"] for row in rows if row["kind"] == "eval"] == [2, 3]


def test_a_run_resumed_at_its_limit_trains_no_further(quick, tmp_path, interrupt):
    interrupt(signal.SIGINT, name="train_step", call=4)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train("yolox-nano", *quick, output=output)
    before = states_of(output / "last.pt")
    resumed = train("train.max_steps=4", resume=output)
    assert resumed.steps == 4
    assert len(resumed.metrics) == 12
    after = states_of(output / "last.pt")
    assert all(torch.equal(after[1][key], value) for key, value in before[1].items())


def test_a_run_killed_before_its_first_evaluation_and_limited(quick, tmp_path, monkeypatch, capfd):
    real, calls = loop.train_step, itertools.count(1)

    def dying(*args, **options):
        if next(calls) == 4:
            raise MemoryError
        return real(*args, **options)

    monkeypatch.setattr(loop, "train_step", dying)
    output = tmp_path / "out"
    with pytest.raises(MemoryError):
        train("yolox-nano", *quick, "train.checkpoint_interval=1", output=output)
    before = {path: path.read_bytes() for path in output.iterdir()}
    resume = ("train", "--resume", str(output))
    assert main([*resume, "train.max_steps=2"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {output}: this run has done 3 steps, more than train.max")
    assert {path: path.read_bytes() for path in output.iterdir()} == before

    assert main([*resume, "train.max_steps=3"]) == 0
    out = capfd.readouterr().out
    assert "in epoch 1; 3 steps done" in out
    assert f"best checkpoint  {output / 'best.pt'}" in out
    assert (output / "best.pt").is_file()
    (output / "best.pt").unlink()
    assert main([*resume, "train.max_steps=3"]) == 0
    assert "best.pt" not in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_handlers_of_a_program_stay_its_own(quick, tmp_path, interrupt, number):
    got = []
    before = signal.signal(number, lambda number, frame: got.append(number))
    try:
        interrupt(number, name="train_step", call=1)
        with pytest.raises(RunStopped, match=f"stopped by {number.name} after step 1"):
            train("yolox-nano", *quick, output=tmp_path / "out")
        assert got == [number]
        os.kill(os.getpid(), number)
        assert len(got) == 2
    finally:
        signal.signal(number, before)


class Spoil(TrainCallback):
    """Damages images while a run reads them."""

    def __init__(self, images):
        self.images = images

    def on_step(self, step, total, loss):
        if step == 1:
            gone, cut, other = self.images
            gone.unlink()
            cut.write_bytes(cut.read_bytes()[:300])
            picture = cv2.imread(str(other))
            cv2.imwrite(str(other), picture[:50, :50])


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_images_that_spoil_during_a_run(quick, tiny_data, tmp_path, workers):
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tiny_data, data)
    images = sorted((data / "train2017").iterdir())[:3]
    words = (*quick, f"data.root={data}", f"data.workers={workers}", "train.tail_epochs=4")
    plain = ("augment.mosaic_prob=0", "train.tail_eval_interval=0")
    train("yolox-nano", *words, *plain, output=output, callback=Spoil(images))
    text = (output / "log.txt").read_text()
    for image, reason in zip(images, ("no such image", "truncated", "50 x 50"), strict=True):
        [line] = [line for line in text.splitlines() if str(image) in line]
        assert "training image left out" in line
        assert reason in line


@pytest.mark.slow
def test_too_many_images_that_spoil_end_a_run(quick, tiny_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    images = sorted((data / "train2017").iterdir())[:3]
    words = (*quick, f"data.root={data}", "data.max_bad_images=1", "augment.mosaic_prob=0")
    # Reading ahead may have met the third by then.
    with pytest.raises(DataError, match=r"bad images: [23], and data\.max_bad_images allows 1"):
        train("yolox-nano", *words, output=tmp_path / "out", callback=Spoil(images))


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_signal_ends_at_once(quick, tmp_path, monkeypatch):
    def slow_step(*_, **__):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.1)
        pytest.fail("the step went on")

    monkeypatch.setattr(loop, "train_step", slow_step)
    with pytest.raises(KeyboardInterrupt):
        train("yolox-nano", *quick, output=tmp_path / "out")
    assert not (tmp_path / "out/last.pt").exists()


@pytest.mark.parametrize(
    ("again", "from_weights"),
    [
        ("resume", True),
        *(slow(*case) for case in (("resume", False), ("start", True), ("start", False))),
    ],
)
def test_a_run_killed_before_its_first_checkpoint(
    finished, quick, tmp_path, interrupt, monkeypatch, again, from_weights
):
    output, words = tmp_path / "out", (*quick, "train.max_steps=1")
    weights = finished.best if from_weights else None
    whole = train("yolox-nano", *words, weights=weights, output=tmp_path / "whole")
    monkeypatch.setattr(loop, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        train("yolox-nano", *words, weights=weights, output=output)
    monkeypatch.undo()
    assert (output / "config.yaml").exists()
    if again == "resume":
        train(resume=output)
    else:
        train("yolox-nano", *words, weights=weights, output=output)
    assert_bit_equal(whole.output / "last.pt", output / "last.pt")


def killed(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "call"), [("save_run", 2), pytest.param(*("RunReport", 1), marks=pytest.mark.slow)]
)
def test_an_evaluation_that_comes_again_is_logged_once(
    finished, quick, tmp_path, monkeypatch, name, call
):
    output, calls = tmp_path / "out", itertools.count(1)

    class Dies:
        """At its end the run has logged and saved all but its summary."""

        def __init__(self, *_, **__):
            self.batch = self.evaluation = lambda *_, **__: None
            self.finish = killed

    def dies(*arguments, **options):
        return killed() if next(calls) == call else save_run(*arguments, **options)

    save_run = loop.save_run
    monkeypatch.setattr(loop, name, Dies if name == "RunReport" else dies)
    settings = (*quick, "train.checkpoint_interval=9")
    with pytest.raises(KeyboardInterrupt):
        train("yolox-nano", *settings, output=output)
    monkeypatch.undo()
    resumed = train(resume=output)
    rows = read_log(output)
    assert [row["epoch"] for row in rows if row["kind"] == "eval"] == [2, 3]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 10))
    assert_bit_equal(finished.output / "last.pt", output / "last.pt")
    progress = [
        load_training_state(folder / "last.pt")[1]["progress"]
        for folder in (output, finished.output)
    ]
    assert progress[0] == progress[1]
    assert resumed.metrics == finished.metrics


@pytest.mark.slow
def test_a_run_killed_after_its_early_stop_trains_no_further(quick, tmp_path, monkeypatch):
    words = (*quick, "train.aug_epochs=6", "train.eval_interval=1", "train.early_stop=1")
    settings = (*words, "optimizer.lr=1e-12", "train.checkpoint_interval=9")
    whole = train("yolox-nano", *settings, output=tmp_path / "whole")
    assert whole.stopped_early
    monkeypatch.setattr(loop.TrainSummary, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        train("yolox-nano", *settings, output=tmp_path / "out")
    monkeypatch.undo()
    resumed = train(resume=tmp_path / "out")
    same = {"seconds": 0, "output": tmp_path}
    assert dataclasses.replace(resumed, **same) == dataclasses.replace(whole, **same)
    ours, theirs = ([r["step"] for r in read_log(run.output)] for run in (resumed, whole))
    assert ours == theirs


def test_two_processes_train_like_one(quick, shared, tmp_path, capfd):
    # Trained weights: in a fresh network the smallest rounding error grows a thousandfold a step;
    # a low rate, since a cell that changes its object moves the loss by percents.
    settings = (
        *quick,
        "input.size=256",
        "augment.multiscale=null",
        "optimizer.lr=0.0001",
        "optimizer.lr_scaling=linear",
        "train.max_steps=6",
        "train.aug_epochs=4",
        "train.eval_interval=0",
    )
    losses = []
    for devices in (1, 2):
        summary = train(
            "yolox-nano",
            *settings,
            weights=shared / "weights/yolox_nano.pth",
            output=tmp_path / f"on-{devices}",
            devices=devices,
        )
        assert (summary.steps, summary.output) == (6, tmp_path / f"on-{devices}")
        losses.append([r["loss"] for r in read_log(summary.output) if r["kind"] == "train"])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    # Of the two processes the main one prints the summary.
    assert capfd.readouterr().out.count("best AP") == 1


@pytest.mark.slow
def test_separate_batch_norms_are_evaluated_as_saved(quick, tmp_path):
    words = ("train.sync_bn=false", "train.save_on_main_only=false", "train.profile=true")
    output = tmp_path / "out"
    summary = train("yolox-nano", *quick, *words, output=output, devices=2)
    ours, theirs = (load_weights(output / f"{name}.pt").state for name in ("last", "last-rank1"))
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    again = Detector(output / "last.pt", device="cpu").evaluate()
    assert summary.metrics == pytest.approx(again.metrics.as_dict(), abs=1e-9)
    for name in ("profile", "profile-rank1"):
        assert json.loads((output / f"{name}.json").read_text())["traceEvents"]
        assert "aten::" in (output / f"{name}.txt").read_text()


@pytest.mark.slow
def test_torchrun_works_too(quick, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = (*quick, "train.max_steps=2", "train.save_on_main_only=false")
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "oculox", "train", "yolox-nano", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    # All processes took the same new folder.
    [output] = (tmp_path / "runs").iterdir()
    assert "2 processes" in (output / "log.txt").read_text()
    assert (output / "last-rank1.pt").is_file()


@pytest.mark.slow
def test_evaluation_over_two_processes_gives_the_same_metrics(shared, tmp_path):
    weights, data = shared / "weights/yolox_nano.pth", shared / "coco_mini"
    alone = evaluate(weights, data, imgsz=224, workers=0, device="cpu")
    options = ("--imgsz", 224, "--devices", 2, "--workers", 0, "--device", "cpu")
    done = run_cli("eval", weights, "--data", data, *options, "--json")
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert alone.metrics.ap > 0.15
    assert alone.images == together["images"] == 133
    assert together["metrics"] == pytest.approx(alone.metrics.as_dict(), abs=1e-9)


def test_freezing_everything_is_refused(quick, tmp_path):
    with pytest.raises(ConfigError, match="freeze"):
        train("yolox-nano", *quick, "train.freeze=[backbone, neck, head]", output=tmp_path / "no")


@pytest.mark.slow
@pytest.mark.parametrize("met_by", ["all", "one"])
def test_an_error_of_several_processes_is_one_line(quick, tiny_data, tmp_path, met_by):
    words, code = ["train.batch=3"], 2
    if met_by == "one":
        data = tmp_path / "data"
        shutil.copytree(tiny_data, data)
        for image in list((data / "train2017").iterdir())[::2]:
            image.write_bytes(b"no image")
        words, code = [f"data.root={data}", "data.max_bad_images=0", "augment.mosaic_prob=0"], 1
    done = run_cli("train", "yolox-nano", *quick, *words, "--devices", 2, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error")] == lines[-1:], done.stderr
    assert "Traceback" not in done.stderr
    if met_by == "all":
        assert len(lines) == 1
        assert "cannot be split over 2 processes" in lines[0]
        assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_not_finite_stops_before_the_update(quick, tmp_path):
    output = tmp_path / "out"
    settings = (*quick, "train.max_steps=3")
    train("yolox-nano", *settings, output=output)
    good = (output / "last.pt").read_bytes()
    poisoned = tmp_path / "poisoned.pt"
    content = torch.load(output / "last.pt", weights_only=True)
    content["state"]["head.obj_preds.0.bias"].fill_(float("nan"))
    torch.save(content, poisoned)
    with pytest.raises(TrainingError, match=r"not finite at step 1 .*objectness nan.*images"):
        train("yolox-nano", *settings, weights=poisoned, output=tmp_path / "nan")
    assert load_training_state(tmp_path / "nan/last.pt")[1]["progress"]["step"] == 0
    assert (output / "last.pt").read_bytes() == good


def test_either_phase_alone(finished, quick, tmp_path):
    tail = train(
        "yolox-nano",
        *quick,
        "train.aug_epochs=0",
        weights=finished.best,
        output=tmp_path / "tail",
    )
    rows = [r for r in read_log(tail.output) if r["kind"] == "train"]
    assert {r["phase"] for r in rows} == {"tail"}
    assert len({r["lr"] for r in rows}) == 1
    head = train("yolox-nano", *quick, "train.tail_epochs=0", output=tmp_path / "head")
    rows = [r for r in read_log(head.output) if r["kind"] == "train"]
    assert {r["phase"] for r in rows} == {"aug"}


def test_without_an_ap_the_newest_weights_are_the_best(quick, tiny_data, tmp_path, capsys):
    val = tiny_data / "annotations/instances_val2017.json"
    content = {**json.loads(val.read_text()), "annotations": []}
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(content))
    output = tmp_path / "out"
    words = (f"data.val.annotations={empty}", f"data.val.images={tiny_data / 'val2017'}")
    code = main(["train", "yolox-nano", *quick, *words, "--output", str(output)])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert (
        "no AP, as the validation split has no objects: the newest weights are the best" in said.out
    )
    assert "there is no AP, since the validation split has no objects" in said.err
    last = load_weights(output / "last.pt").state
    best = load_weights(output / "best.pt").state
    assert [key for key in best if not torch.equal(best[key], last[key])] == []


def test_early_stop(quick, tmp_path):
    summary = train(
        "yolox-nano",
        *quick,
        "train.aug_epochs=6",
        "train.eval_interval=1",
        "train.early_stop=2",
        "optimizer.lr=1e-12",
        output=tmp_path / "out",
    )
    assert summary.stopped_early
    assert summary.epochs < 7


def test_numbered_checkpoints_are_kept_and_trimmed(quick, tmp_path):
    output = tmp_path / "out"
    train("yolox-nano", *quick, "train.keep_checkpoints=2", output=output)
    assert sorted(p.name for p in output.glob("epoch-*.pt")) == ["epoch-0002.pt", "epoch-0003.pt"]


def test_a_run_that_ends_inside_an_epoch_leaves_the_state_of_the_one_before(quick, tmp_path):
    settings = (*quick, "train.keep_checkpoints=3", "train.checkpoint_interval=1")
    train("yolox-nano", *settings, "train.max_steps=5", output=tmp_path / "out")
    [path] = (tmp_path / "out").glob("epoch-*.pt")
    assert path.name == "epoch-0001.pt"
    assert load_training_state(path)[1]["progress"]["step"] == 3


def test_fp16_that_changes_nothing_ends(quick, tmp_path, monkeypatch):
    """Fifty steps in a row whose gradients overflowed."""
    skipped = StepLoss(1, 1, 1, 0, 2, 1, gradient_norm=float("nan"))
    monkeypatch.setattr(loop, "train_step", lambda *args, **options: skipped)
    settings = (*quick, "train.batch=1", "train.aug_epochs=9")
    with pytest.raises(TrainingError, match=r"of 50 steps in a row, to step 50, are not finite"):
        train("yolox-nano", *settings, output=tmp_path / "out")


@pytest.mark.parametrize("place", ["evaluate_loader", "build_run"])
def test_out_of_memory_beside_the_steps(quick, tmp_path, monkeypatch, place):
    def full(*args, **options):
        kinds = {"evaluate_loader": DeviceMemoryError, "build_run": torch.cuda.OutOfMemoryError}
        raise kinds[place]("simulated")

    monkeypatch.setattr(loop, place, full)
    said = {
        "evaluate_loader": "in an evaluation with eval.batch=16; lower that and resume",
        "build_run": "before the first step: yolox-nano does not fit",
    }
    with pytest.raises(TrainingError, match=f"out of memory on cpu {said[place]}"):
        train("yolox-nano", *quick, "eval.batch=16", output=tmp_path / "out")
    assert (tmp_path / "out/last.pt").is_file() == (place == "evaluate_loader")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ball": "dog"}, "only in train: ball; only in val: dog; both files need"),
        ({"ball": "car", "car": "ball"}, "the order of their ids differs; both files"),
    ],
)
def test_splits_of_other_classes_are_told_apart(tiny_data, quick, tmp_path, change, said):
    root = shutil.copytree(tiny_data, tmp_path / "data")
    path = root / "annotations/instances_val2017.json"
    tree = json.loads(path.read_text())
    for category in tree["categories"]:
        category["name"] = change.get(category["name"], category["name"])
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=said):
        train("yolox-nano", *quick, f"data.root={root}", output=tmp_path / "out")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("official", "all but the class predictors, which start fresh"),
        ("finetune", "2 keep their class predictor by name, 4 start fresh"),  # car and cup
    ],
)
def test_other_classes_start_from_what_fits(quick, shared, tmp_path, recipe, said):
    train(
        "yolox-nano",
        *quick,
        "train.max_steps=1",
        f"recipe={recipe}",
        weights=shared / "weights/yolox_nano.pth",
        output=tmp_path / "out",
    )
    text = (tmp_path / "out/log.txt").read_text()
    assert said in text
    assert "80 classes there, 6 here" in text


def test_weights_of_another_network_are_refused(quick, shared, tmp_path):
    with pytest.raises(Exception, match="do not fit the network"):
        train(
            "yolox-tiny", *quick, weights=shared / "weights/yolox_nano.pth", output=tmp_path / "o"
        )


def test_an_occupied_folder_is_refused(finished, quick):
    before = (finished.output / "last.pt").read_bytes()
    with pytest.raises(UsageError, match="holds another run"):
        train("yolox-nano", *quick, output=finished.output)
    assert (finished.output / "last.pt").read_bytes() == before


def test_a_finished_run_stays_as_it_is(finished):
    before = {path: path.read_bytes() for path in finished.output.iterdir()}
    assert train(resume=finished.output) == finished
    assert train("train.max_steps=5", resume=finished.output) == finished
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        train("optimizer.lr=0.5", resume=finished.output)
    assert {path: path.read_bytes() for path in finished.output.iterdir()} == before


@pytest.mark.slow
def test_a_longer_run_goes_on_with_the_schedule_of_its_length(quick, tmp_path, interrupt):
    output = tmp_path / "out"
    words = (*quick, "train.eval_interval=0")
    train("yolox-nano", *words, output=output)
    interrupt(signal.SIGINT, name="evaluate_loader", call=1)
    with pytest.raises(KeyboardInterrupt):
        train("train.epochs=4", resume=output)
    # The length is the run's own from now on.
    longer = train(resume=output)
    assert (longer.steps, longer.epochs, longer.stopped_early) == (12, 4, False)
    whole = train("yolox-nano", *words, "train.epochs=4", output=tmp_path / "whole")
    ours, theirs = (
        [(r["step"], r["phase"], r["lr"]) for r in read_log(folder) if r["kind"] == "train"]
        for folder in (output, whole.output)
    )
    assert len(ours) == 12
    assert ours[9:] == theirs[9:]
    assert ours[6][1:] != theirs[6][1:]
    with pytest.raises(ConfigError, match=r"train\.epochs \(4 then, 3 now\)"):
        train("train.epochs=3", resume=output)


def test_a_run_killed_before_its_summary_writes_it(finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished.output, output)
    (output / "summary.json").unlink()
    again = train(resume=output)
    same = {"seconds": 0, "output": tmp_path}
    assert dataclasses.replace(again, **same) == dataclasses.replace(finished, **same)
    assert_bit_equal(finished.output / "last.pt", output / "last.pt")


def test_a_damaged_state_names_a_whole_one_to_go_on_from(finished, quick, tmp_path, capfd):
    output = tmp_path / "my run"
    settings = (*quick, "train.checkpoint_interval=1", "train.keep_checkpoints=1")
    train("yolox-nano", *settings, "train.max_steps=8", output=output)
    with pytest.raises(UsageError, match="or one of its older states"):
        train(resume=output / "config.yaml")
    damage = {
        "cut short": lambda data: data[:-1000],
        "one bit": lambda data: (
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]
        ),
    }
    whole = (output / "last.pt").read_bytes()
    for spoil in damage.values():
        (output / "last.pt").write_bytes(spoil(whole))
        left = {path: path.read_bytes() for path in output.iterdir()}
        assert main(["train", "--resume", str(output), "train.max_steps=null"]) == 1
        error = capfd.readouterr().err.splitlines()[-1]
        assert f"{output / 'last.pt'}: damaged" in error
        assert "the state after step 8 is whole, resume from it with: oculox train" in error
        assert {path: path.read_bytes() for path in output.iterdir()} == left
    # The command of the message, to the end: as if nothing had happened.
    words = shlex.split(error.split("oculox ")[1])
    assert words[-1] == str(output / "previous.pt")
    assert main([*words, "train.max_steps=null"]) == 0
    assert_bit_equal(finished.output / "last.pt", output / "last.pt")
    assert [r["step"] for r in read_log(output) if r["kind"] == "train"] == list(range(1, 10))


def test_without_any_whole_state_a_run_says_so(quick, tmp_path):
    output = tmp_path / "out"
    train("yolox-nano", *quick, "train.max_steps=1", output=output)
    (output / "previous.pt").write_bytes(b"")
    (output / "last.pt").unlink()
    with pytest.raises(CheckpointError, match=r"last.pt: no such file.*no other state of the run"):
        train("train.max_steps=null", resume=output)
    with pytest.raises(UsageError, match="holds another run"):
        train("yolox-nano", *quick, "train.max_steps=1", output=output)


def test_a_wrong_class_count_is_refused(quick, tmp_path):
    with pytest.raises(DataError, match="num_classes=4"):
        train("yolox-nano", *quick, "model.num_classes=4", output=tmp_path / "out")


@pytest.mark.slow
def test_one_batch_can_be_learned_by_heart(tiny_data, tmp_path):
    summary = train(
        "yolox-nano",
        f"data.root={tiny_data}",
        f"data.val.images={tiny_data / 'train2017'}",
        f"data.val.annotations={tiny_data / 'annotations/instances_train2017.json'}",
        "input.size=64",
        "model.depthwise=false",
        "model.width=0.125",
        "augment.multiscale=null",
        "train.batch=12",
        "data.workers=0",
        "train.aug_epochs=0",
        "train.tail_epochs=150",
        "train.tail_eval_interval=0",
        "train.checkpoint_interval=150",
        "schedule.min_lr_ratio=1",
        "optimizer.lr=0.2",
        "augment.flip_prob=0",
        "augment.hsv_prob=0",
        "ema.decay=0.9",
        "ema.ramp=1",
        "train.device=cpu",
        output=tmp_path / "out",
    )
    # A pipeline that mixes up labels, boxes or images stays near 0.
    assert summary.metrics["ap50"] > 0.6
