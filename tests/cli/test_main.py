"""The command as people start it: a process of its own."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import typer

import oculox as package
from oculox.cli.main import command_line, main
from oculox.errors import DataError, ExportError, OculoxError, UsageError

COMMANDS = ("train", "eval", "predict", "config", "models", "demo", "data")


def run(*command, **options):
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_version():
    done = run(sys.executable, "-m", "oculox", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"oculox {package.__version__}\n", "")


def test_a_failure_of_the_installed_command(tmp_path):
    script = Path(sysconfig.get_path("scripts")) / "oculox"
    if not script.exists():
        pytest.skip("the package is not installed, so there is no command")
    failed = run(script, "train", "yolox-nano", "data.root=nowhere", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr == "error: data.root: nowhere is not a folder\n"


def test_a_reader_that_goes_away_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "oculox", "config", "yolox-s"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
def test_output_to_a_full_disk_is_no_traceback():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "oculox", "weights", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"error: the operating system reports: No space left on device\n"


def test_help_names_every_command(oculox):
    for words in (("--help",), ()):
        outcome = oculox(*words)
        text = outcome.out + outcome.err
        assert all(f"  {command} " in text for command in COMMANDS)
        assert outcome.code == (0 if words else 2)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(oculox, command):
    outcome = oculox(command, "--help")
    assert outcome.code == 0
    assert "Usage: oculox" in outcome.out
    assert "--help" in outcome.out


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (DataError("a.jpg: gone"), 1, "error: a.jpg: gone\n"),
        (ExportError("differs"), 1, "error: differs\n"),
        (UsageError("no"), 2, "error: no\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (typer.Exit(3), 3, ""),
        (PermissionError(13, "no", "a.txt"), 1, "error: a.txt: the operating system reports: no\n"),
    ],
)
def test_exit_codes(oculox, monkeypatch, raised, code, said):
    def failing(**_):
        raise raised

    monkeypatch.setattr(command_line().commands["models"], "callback", failing)
    outcome = oculox("models")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.lstrip("\n") == said


def test_other_exceptions_are_mistakes_of_ours_and_keep_their_traceback(monkeypatch):
    def failing(**_):
        raise ZeroDivisionError

    monkeypatch.setattr(command_line().commands["models"], "callback", failing)
    with pytest.raises(ZeroDivisionError):
        main(["models"])


def test_a_process_of_several_says_which_it_is(oculox, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    outcome = oculox("config", "nothing-like-it")
    assert outcome.code == 2
    assert outcome.err.startswith("error (process 1): 'nothing-like-it'")


def test_errors_for_people_have_one_root():
    assert all(issubclass(e, OculoxError) for e in (DataError, ExportError, UsageError))
