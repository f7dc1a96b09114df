"""Runs that are killed again and again end as if nothing had happened."""

import multiprocessing
import os
import random
import shutil
import time

import pytest
import torch

from oculox import train
from oculox.training.log import read_log
from oculox.training.run_folder import read_summary

KILLS = int(os.environ.get("OCULOX_KILLS", "50"))
TIMES = ("step_ms", "data_wait", "images_per_s", "eta_s")
MOMENTS = ("writing", "after writing", "any")


def quietly(words, options):
    """A run in a process of its own, which says nothing."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    torch.set_num_threads(1)
    train(*words, **options)


@pytest.fixture(scope="module")
def start():
    """Starts a run in a process that has PyTorch loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["oculox.api"])

    def run(*words, **options):
        process = context.Process(target=quietly, args=(words, options))
        process.start()
        return process

    return run


def killed(process, output, moment, rng):
    """Kill a run at a moment of its life; false where it ended before."""
    last, limit = output / "last.pt", time.monotonic() + 120
    written = last.stat().st_mtime_ns if last.exists() else 0
    delay = rng.uniform(0, {"writing": 0.02, "after writing": 0.4, "any": 2.0}[moment])
    while process.is_alive() and time.monotonic() < limit:
        if moment == "any":
            break
        if moment == "writing" and any(output.glob(".*.part")):
            break
        if moment == "after writing" and last.exists() and last.stat().st_mtime_ns != written:
            break
        time.sleep(0.001)
    process.join(delay)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), f"the run failed, exit code {process.exitcode}"
    return process.exitcode == -9


def assert_same(ours, theirs, where=""):
    """Two trees of plain values and tensors agree bit by bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def left_by(folder):
    """What a run leaves, without times and places."""
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_log(folder)]
    summary = {**read_summary(folder).as_dict(), "seconds": 0, "output": "", "best": ""}
    states = [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("last", "best")]
    return {"log": rows, "summary": summary, "states": states}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_runs_end_as_if_nothing_had_happened(
    quick, tmp_path, start, workers, record_property
):
    words = (
        "yolox-nano",
        *quick,
        "train.aug_epochs=9",
        "train.tail_epochs=3",
        "train.eval_interval=2",
        "schedule.warmup_epochs=1",
        f"data.workers={workers}",
    )
    start(*words, output=tmp_path / "whole").join()
    whole = left_by(tmp_path / "whole")
    rng = random.Random(workers)
    kills = dict.fromkeys(MOMENTS, 0)
    wanted = -(-KILLS * (3, 1)[workers] // 4)
    early, runs = 0, 0
    while sum(kills.values()) < wanted:
        output, runs = tmp_path / f"run-{runs}", runs + 1
        process = start(*words, output=output)
        while True:
            moment = MOMENTS[sum(kills.values()) % len(MOMENTS)]
            if sum(kills.values()) < wanted and killed(process, output, moment, rng):
                kills[moment] += 1
                early += not (output / "last.pt").exists()
            else:
                process.join()
            if process.exitcode == 0:
                break
            if (output / "config.yaml").exists():
                process = start(resume=output)
            else:
                process = start(*words, output=output)
        assert_same(left_by(output), whole)
        shutil.rmtree(output)
    record_property("reliability", f"{wanted} kills {kills}, {early} before the first checkpoint")
