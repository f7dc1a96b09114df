"""Several processes as one, and what happens when one of them does not go on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch

from oculox import evaluate, train
from oculox.training.log import read_log

pytestmark = pytest.mark.slow

TORCHRUN = ("-m", "torch.distributed.run")
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # see docs/cluster.md
}


def begin(*words, **options):
    """A command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
        **options,
    )


def finish(process, *, within=400):
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"no end within {within} s: {process.communicate()}")
    return process.returncode, out, err


def workers_of(process, count):
    """The training processes below a launcher, by rank."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        found = {}
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                environment = child.environ()
            except psutil.Error:
                continue
            if "RANK" in environment:
                found.setdefault(int(environment["RANK"]), child)
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError("the processes did not start")


def wait_for_step(output, step, process):
    limit = time.monotonic() + 200
    while time.monotonic() < limit and process.poll() is None:
        if any(row.get("step", 0) >= step for row in read_log(output)):
            return
        time.sleep(0.05)
    raise AssertionError((f"step {step} was not reached", process.poll(), finish(process)))


@pytest.mark.parametrize("sync_bn", [True, False])
def test_the_number_of_processes_changes_nothing(quick, shared, tmp_path, sync_bn, record_property):
    # As in the test of two processes: trained weights, and a rate at which rounding stays small.
    settings = (
        *quick,
        "input.size=160",
        "augment.multiscale=null",
        "optimizer.lr=0.00005",
        "train.batch=8",
        "train.max_steps=20",
        "train.aug_epochs=19",
        "train.eval_interval=0",
        f"train.sync_bn={str(sync_bn).lower()}",
    )
    losses, states = [], []
    for devices in (1, 2, 4):
        # Where statistics are those of each micro-batch, these are the same for all three.
        pieces = 1 if sync_bn else 4 // devices
        summary = train(
            "yolox-nano",
            *settings,
            f"train.accumulate={pieces}",
            weights=shared / "weights/yolox_nano.pth",
            output=tmp_path / f"on-{devices}",
            devices=devices,
        )
        losses.append([r["loss"] for r in read_log(summary.output) if r["kind"] == "train"])
        content = torch.load(summary.output / "last.pt", weights_only=True)
        states.append(content["training"]["raw"])
    assert len(losses[0]) == 20
    worst = 0.0
    for other, state in zip(losses[1:], states[1:], strict=True):
        assert other == pytest.approx(losses[0], rel=2e-3)
        for key, value in states[0].items():
            # Statistics of micro-batches are each process's own, and their number differs.
            if sync_bn or not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
                worst = max(worst, (state[key].float() - value.float()).abs().max().item())
                torch.testing.assert_close(state[key], value, rtol=5e-3, atol=5e-3, msg=key)
    pairs = [pair for other in losses[1:] for pair in zip(other, losses[0], strict=True)]
    apart = max(abs(a / b - 1) for a, b in pairs)
    record_property("reliability", f"losses within {apart:.1e}, weights within {worst:.1e}")


@pytest.mark.parametrize(("images", "processes"), [(4, 3), (1, 2)])
def test_uneven_and_empty_shares_give_the_same_metrics(
    tiny_data, eager_pt, tmp_path, images, processes
):
    path = tmp_path / "few.json"
    tree = json.loads((tiny_data / "annotations/instances_val2017.json").read_text())
    tree["images"] = tree["images"][:images]
    kept = {image["id"] for image in tree["images"]}
    tree["annotations"] = [a for a in tree["annotations"] if a["image_id"] in kept]
    path.write_text(json.dumps(tree))
    folder = tiny_data / "val2017"
    alone = evaluate(eager_pt, path, images=folder, workers=0, device="cpu")
    words = ("--images", folder, "--workers", 0, "--device", "cpu", "--json")
    words = (*words, "--devices", processes)
    code, out, err = finish(begin("-m", "oculox", "eval", eager_pt, "--data", path, *words))
    assert code == 0, err
    together = json.loads(out)
    assert together["images"] == alone.images == images
    assert together["metrics"] == pytest.approx(alone.metrics.as_dict(), abs=1e-6)


LONG = ("train.aug_epochs=900", "train.eval_interval=0")


def test_a_rank_that_dies_ends_the_run(quick, tmp_path, record_property):
    output = tmp_path / "run"
    words = (*quick, *LONG, "--devices", 2, "--output", output)
    process = begin("-m", "oculox", "train", "yolox-nano", *words)
    ranks = workers_of(process, 2)
    wait_for_step(output, 4, process)
    began = time.monotonic()
    ranks[1].kill()
    code, _, err = finish(process, within=30)
    seconds = time.monotonic() - began
    assert code == 128 + signal.SIGKILL
    assert err.splitlines()[-1].startswith("error: process 1 of 2 was ended by SIGKILL"), err
    assert "Traceback" not in err
    assert not any(rank.is_running() for rank in ranks.values())
    record_property("reliability", f"named, the run ended after {seconds:.1f} s")


def test_a_rank_that_hangs_ends_the_run(quick, tmp_path, record_property):
    output = tmp_path / "run"
    words = (*quick, *LONG, "train.timeout=8", "--devices", 2, "--output", output)
    process = begin("-m", "oculox", "train", "yolox-nano", *words)
    ranks = workers_of(process, 2)
    wait_for_step(output, 4, process)
    began = time.monotonic()
    ranks[1].send_signal(signal.SIGSTOP)
    code, _, err = finish(process, within=90)
    seconds = time.monotonic() - began
    assert code == 1, err
    assert "no answer from process 1 of 2 in the time that train.timeout gives" in err
    assert "Traceback" not in err
    assert not any(rank.is_running() for rank in ranks.values())
    # The timeout, and then: others may answer for 5 s, and a process has 30 s to end by itself.
    assert seconds < 8 + 60
    record_property("reliability", f"named, the run ended after {seconds:.1f} s of 8 + 60 stated")


def steps_in(output):
    return [row["step"] for row in read_log(output) if row["kind"] == "train"]


def test_torchrun_restarts_a_run(quick, tmp_path):
    output = tmp_path / "run"
    words = (*quick, "train.aug_epochs=11", "train.eval_interval=0", "--output", output)
    launcher = (*TORCHRUN, "--standalone", "--nproc-per-node", 2, "--max-restarts", 2)
    process = begin(*launcher, "-m", "oculox", "train", "yolox-nano", *words)
    ranks = workers_of(process, 2)
    wait_for_step(output, 7, process)
    ranks[1].kill()
    code, _, err = finish(process)
    assert code == 0, err
    assert "resumed after epoch" in (output / "log.txt").read_text()
    assert steps_in(output) == list(range(1, 37))
    # And on with another number of processes.
    again = (*TORCHRUN, "--standalone", "--nproc-per-node", 1, "-m", "oculox", "train")
    code, _, err = finish(begin(*again, "--resume", output, "train.epochs=13"))
    assert code == 0, err
    assert steps_in(output) == list(range(1, 40))


def agent(*words, port, nodes=2, more=()):
    """One of several agents that find each other on this machine."""
    together = ("--nnodes", nodes, "--nproc-per-node", 1, "--rdzv-backend", "c10d")
    address = ("--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two")
    local = ("--local-addr", "127.0.0.1")
    return begin(*TORCHRUN, *together, *address, *local, *more, "-m", "oculox", *words)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def two_nodes(*words):
    """The same command under two agents."""
    port = free_port()
    nodes = [agent(*words, port=port) for _ in range(2)]
    ended = [finish(node) for node in nodes]
    assert [code for code, *_ in ended] == [0, 0], ended
    [out] = [out for _, out, _ in ended if out.strip()]
    return out


def test_two_nodes_are_one(quick, tmp_path):
    settings = (*quick, "train.max_steps=6", "train.eval_interval=0", "optimizer.lr=1e-4")
    output = tmp_path / "two"
    two_nodes("train", "yolox-nano", *settings, "--output", output)
    assert "2 processes" in (output / "log.txt").read_text()
    alone = train("yolox-nano", *settings, output=tmp_path / "one")
    ours, theirs = (
        [row["loss"] for row in read_log(folder) if row["kind"] == "train"]
        for folder in (output, alone.output)
    )
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert len(ours) == len(theirs) == 6
    data = re.search("root: (.*)", (output / "config.yaml").read_text())[1]
    words = ("--data", data, "--workers", 0, "--device", "cpu", "--json")
    together = json.loads(two_nodes("eval", output / "best.pt", *words))
    found = evaluate(output / "best.pt", data, workers=0, device="cpu")
    assert together["metrics"] == pytest.approx(found.metrics.as_dict(), abs=1e-6)
    shutil.rmtree(output)


def wait_for_port(port, process):
    limit = time.monotonic() + 60
    while time.monotonic() < limit and process.poll() is None:
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(("nobody listens", process.poll()))


def test_a_lost_node_is_done_without(quick, tmp_path, record_property):
    """``--nnodes 1:2``: of two machines one is gone, the other goes on; one comes, both go on."""
    output, port = tmp_path / "run", free_port()
    words = ("train", "yolox-nano", *quick, "train.aug_epochs=45", "train.eval_interval=0")
    conf = "last_call_timeout=20,keep_alive_interval=2,keep_alive_max_attempt=3"
    more = ("--max-restarts", 3, "--rdzv-conf", conf)
    options = {"port": port, "nodes": "1:2", "more": more}
    stays = agent(*words, "--output", output, **options)
    wait_for_port(port, stays)
    lost, comes = agent(*words, "--output", output, **options), None
    try:
        wait_for_step(output, 7, stays)
        workers_of(lost, 1)
        began = time.monotonic()
        os.killpg(lost.pid, signal.SIGKILL)
        for child in workers_of(stays, 1).values():
            psutil.wait_procs([child], timeout=200)
        wait_for_step(output, steps_in(output)[-1] + 1, stays)
        seconds = time.monotonic() - began
        assert (output / "log.txt").read_text().count("2 processes") == 1
        comes = agent(*words, "--output", output, **options)
        began = time.monotonic()
        while (output / "log.txt").read_text().count("2 processes") == 1:
            assert stays.poll() is None, stays.communicate()
            assert time.monotonic() - began < 120
            time.sleep(0.1)
        again = time.monotonic() - began
        code, _, err = finish(stays)
    finally:
        for process in filter(None, (stays, lost, comes)):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert code == 0, err
    assert "resumed after epoch" in (output / "log.txt").read_text()
    steps = steps_in(output)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 40
    record_property(
        "reliability", f"one went on after {seconds:.0f} s, and both {again:.0f} s after one came"
    )
