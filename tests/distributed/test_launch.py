"""Several processes of one machine; small programs take the place of training."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from oculox.distributed.launch import is_launched, is_main_process, launch
from oculox.errors import OculoxError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Replaces the interpreter that `launch` starts by a shell script."""

    def install(text):
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\ncd '{tmp_path}'\necho $$ > pid-$RANK\n{text}\n")
        path.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(path))

    return install


def pids(folder):
    return [int(path.read_text()) for path in sorted(folder.glob("pid-*"))]


def test_every_process_knows_its_place(program, tmp_path):
    program('echo "$@" > words-$RANK; env > env-$RANK')
    assert launch(["train", "a b"], processes=3) == 0
    ports = set()
    for rank in range(3):
        assert (tmp_path / f"words-{rank}").read_text() == "-m oculox train a b\n"
        lines = (tmp_path / f"env-{rank}").read_text().splitlines()
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        assert values["RANK"] == values["LOCAL_RANK"] == str(rank)
        assert values["WORLD_SIZE"] == values["LOCAL_WORLD_SIZE"] == "3"
        assert values["MASTER_ADDR"] == "localhost"
        assert int(values["OMP_NUM_THREADS"]) >= 1
        ports.add(values["MASTER_PORT"])
    assert len(ports) == 1


def test_the_caller_finds_its_process_as_it_was(program, capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = [signal.getsignal(number) for number in numbers]
    program("exit 3")
    assert launch([], processes=2) == 3
    assert [signal.getsignal(number) for number in numbers] == handlers
    assert "OMP_NUM_THREADS" not in os.environ
    assert capfd.readouterr() == ("", "")


def test_one_failure_ends_all(program, tmp_path):
    program('if [ "$RANK" = 1 ]; then sleep 0.3; exit 7; fi; exec sleep 60')
    assert launch([], processes=3) == 7
    assert len(pids(tmp_path)) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


@pytest.mark.parametrize(("number", "said"), [("9", "SIGKILL .*memory"), ("11", "SIGSEGV")])
def test_a_process_that_a_signal_ended_is_named(program, tmp_path, number, said):
    program(f'if [ "$RANK" = 1 ]; then sleep 0.3; kill -{number} $$; fi; exec sleep 60')
    began = time.monotonic()
    with pytest.raises(OculoxError, match=f"process 1 of 3 was ended by {said}") as raised:
        launch([], processes=3)
    assert raised.value.exit_code == 128 + int(number)
    assert time.monotonic() - began < 10
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


WAITS = """
from oculox.distributed.launch import one_report
try:
    with one_report():
        raise RuntimeError("Timed out waiting 5000ms for recv operation to complete")
except Exception as error:
    print(error, flush=True)
    raise SystemExit(1)
"""


def test_a_process_that_hangs_is_named(program, tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    waits = f"exec {sys.executable} {tmp_path / 'waits.py'} > said-$RANK"
    program(f'if [ "$RANK" = 1 ]; then exec sleep 60; fi; {waits}')
    assert launch([], processes=3) == 1
    said = [path.read_text() for path in tmp_path.glob("said-*")]
    [line] = [text for text in said if text]
    assert "no answer from process 1 of 3 in the time that train.timeout gives" in line
    assert "Timed out waiting 5000ms" in line
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


def test_a_notice_of_preemption_stops_all(program, tmp_path):
    def note(number, frame):
        got.append(number)

    got = []
    running = "while [ ! -f pid-0 ]; do sleep 0.05; done; sleep 0.5"
    program(f'if [ "$RANK" = 1 ]; then {running}; kill -USR1 $PPID; fi; exec sleep 60')
    before = signal.signal(signal.SIGUSR1, note)
    try:
        assert launch([], processes=2) == 128 + signal.SIGUSR1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert got == [signal.SIGUSR1]
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


def test_an_interruption_ends_all(program, tmp_path):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    running = "while [ ! -f pid-0 ]; do sleep 0.05; done; sleep 0.5"
    program(f'if [ "$RANK" = 1 ]; then {running}; kill -ALRM $PPID; fi; exec sleep 60')
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            launch([], processes=2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(pids(tmp_path)) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


@pytest.mark.parametrize(
    ("variables", "launched", "main"),
    [
        ({}, False, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True, True),
        ({"RANK": "1", "LOCAL_RANK": "1"}, True, False),
    ],
)
def test_who_is_the_main_process(monkeypatch, variables, launched, main):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_launched() is launched
    assert is_main_process() is main


PARENT = """
import os, signal, sys, time
from oculox.distributed.launch import follow_parent
reads, writes = os.pipe()
child = os.fork()
if not child:
    follow_parent(os.getppid(), alone=True)
    os.write(writes, b"1")
    time.sleep(60)
os.read(reads, 1)
print(child, flush=True)
sys.stdin.readline()
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def family():
    """A process and its child, which follows it alone."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PARENT], **pipes) as parent:
        yield parent, psutil.Process(int(parent.stdout.readline()))
        parent.kill()


def test_a_process_does_not_outlive_its_parent(family):
    parent, child = family
    parent.kill()
    parent.wait()
    child.wait(timeout=3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who sent a signal")
def test_a_process_ends_when_its_parent_says_so_and_nobody_else(family):
    parent, child = family
    child.terminate()
    with pytest.raises(psutil.TimeoutExpired):
        child.wait(timeout=1)
    print(file=parent.stdin, flush=True)
    assert parent.stdout.readline() == "0\n"
