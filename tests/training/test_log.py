"""What a run writes for people and programs."""

import dataclasses
import io
import json
import sys
from types import SimpleNamespace

import pytest

from oculox.config import load_config
from oculox.errors import TrainingError
from oculox.training import log as log_module
from oculox.training.log import (
    RunLog,
    StepLoss,
    StepMeter,
    StepRecord,
    format_seconds,
    read_log,
)

RECORD = StepRecord(
    epoch=1,
    step=1,
    phase="aug",
    loss=10.5,
    box=4.0,
    objectness=5.0,
    classes=1.5,
    l1=0.0,
    positives_per_object=3.5,
    gradient_norm=12.0,
    lr=1e-3,
    size=(416, 640),
    step_ms=80.0,
    data_wait=0.25,
    images_per_s=50.0,
    eta_s=3661.0,
)


def write(folder, steps, **options):
    with RunLog(folder, total_steps=10, **options) as log:
        for step in steps:
            log.step(dataclasses.replace(RECORD, step=step))
        log.evaluation(epoch=1, step=steps[-1] if steps else 0, metrics={"ap": 0.5})


def test_records_and_lines(tmp_path, capfd):
    write(tmp_path, [1, 2])
    rows = read_log(tmp_path)
    assert [(row["kind"], row["step"]) for row in rows] == [("train", 1), ("train", 2), ("eval", 2)]
    plain = json.loads(json.dumps(dataclasses.asdict(RECORD)))
    assert rows[0] == {"kind": "train", **plain}
    assert rows[2] == {"kind": "eval", "epoch": 1, "step": 2, "ap": 0.5}
    text = (tmp_path / "log.txt").read_text("utf-8").splitlines()
    assert len(text) == 2
    said = (
        "epoch 1 step 1 loss 10.500 (box 4.000 obj 5.000 cls 1.500 l1 0.000) lr 1.00e-03 "
        "size 416x640 80 ms data 25% 50.0 img/s ETA 1:01:01"
    )
    assert text[0].endswith(said)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[0] == said


def test_messages_are_printed_as_they_are(tmp_path, capfd):
    with RunLog(tmp_path, total_steps=1) as log:
        log.message("a [bold]path[/bold] /with/[brackets] a:car:b.jpg 100% " + "x" * 300)
        log.message("bad \udcff.jpg")
    said = capfd.readouterr().err
    assert "[bold]path[/bold] /with/[brackets] a:car:b.jpg 100% " + "x" * 300 in said
    text = (tmp_path / "log.txt").read_text("utf-8")
    assert "[bold]path[/bold] /with/[brackets] a:car:b.jpg" in text
    assert "bad \\udcff.jpg" in text


def test_what_json_has_no_word_for_is_null(tmp_path):
    with RunLog(tmp_path, total_steps=1) as log:
        log.step(dataclasses.replace(RECORD, gradient_norm=float("inf"), loss=float("nan")))
    [line] = (tmp_path / "log.jsonl").read_text("utf-8").splitlines()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert row["gradient_norm"] is row["loss"] is None
    assert row["box"] == RECORD.box


def test_what_trackers_say_is_logged(tmp_path, capfd):
    with RunLog(tmp_path, total_steps=1, track=lambda values, step: [f"{len(values)}"]) as log:
        log.evaluation(epoch=1, step=1, metrics={"ap": 0.5, "ap50": 0.7})
    assert capfd.readouterr().err == "2\n"


def test_nothing_yet(tmp_path):
    assert read_log(tmp_path) == []
    write(tmp_path, [])
    assert [row["kind"] for row in read_log(tmp_path)] == ["eval"]


def test_other_processes_write_nothing(tmp_path, capfd):
    with RunLog(tmp_path / "absent", total_steps=1, enabled=False) as log:
        log.message("text")
        log.step(RECORD)
        log.evaluation(epoch=1, step=1, metrics={})
    assert not (tmp_path / "absent").exists()
    assert capfd.readouterr() == ("", "")


def test_resuming_drops_what_comes_again(tmp_path):
    write(tmp_path, [1, 2, 3, 4, 5])
    write(tmp_path, [3, 4], resume_step=2)
    assert [(r["kind"], r["step"]) for r in read_log(tmp_path)] == [
        *(("train", step) for step in (1, 2, 3, 4)),
        ("eval", 4),
    ]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    write(tmp_path, [1, 2])
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]
    write(tmp_path, [3], resume_step=2)
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 3]


def test_a_new_run_starts_a_new_log(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [1])
    assert [row["step"] for row in read_log(tmp_path)] == [1, 1]


def test_what_cannot_be_opened_or_written(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(TrainingError, match=r"log\.jsonl: cannot be opened \(Is a directory\)"):
        RunLog(tmp_path, total_steps=1)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    write(tmp_path, [1, 2])
    shown = sys.stderr.getvalue()
    assert "ETA" in shown
    assert "img/s" in shown
    assert len((tmp_path / "log.txt").read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.6, "0:01"),
        (59.6, "1:00"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (1e6, "277:46:40"),
    ],
)
def test_times(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("evaluation", "evaluations", "left"), [(None, 0, 8 * 0.5), (3.0, 2, 8 * 0.5 + 2 * 3)]
)
def test_the_time_left_is_that_of_later_steps(monkeypatch, evaluation, evaluations, left):
    """Two steps of ten, the first of them slow; what lies between epochs is no step."""
    rate = SimpleNamespace(at=lambda step: 1e-3)
    plan = SimpleNamespace(in_tail=lambda epoch: False)
    config = load_config("yolox-nano", ["train.log_interval=1"])
    run = SimpleNamespace(config=config, rate=rate, plan=plan, last_step=10)
    records, now = [], [0.0]
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: now[0])
    meter = StepMeter(run, SimpleNamespace(step=records.append))
    for step, seconds in ((1, 60.0), (2, 0.5)):
        now[0] += 100
        meter.start_epoch(0, evaluations=evaluations)
        now[0] += seconds
        meter.step(step, StepLoss(*[1.0] * len(StepLoss._fields)), size_hw=(64, 64))
        if evaluation is not None:
            meter.evaluated(evaluation)
    assert [record.step_ms for record in records] == [60_000, 500]
    assert records[1].eta_s == left
