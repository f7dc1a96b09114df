"""Starting and ending the service by its command."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import pytest
import requests

from oculox.cli.main import main
from oculox.serve.limits import Limits
from red_images import RedBackend, red_image
from service_client import serving


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none.pt"], 1, "none.pt"),
        (["{model}", "--imgsz", "65"], 2, "multiples of 32"),
        (["{model}", "--max-mb", "0"], 2, "--max-mb must be more than 0"),
        (["{model}", "--host", "203.0.113.1", "--port", "0"], 1, "choose another --host or --port"),
        (["{model}", "--port", "{port}"], 1, "cannot listen on http://127.0.0.1:{port}"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_line(eager_pt, capsys, words, code, message):
    with serving(RedBackend()) as client:
        fill = {"model": eager_pt, "port": client.port}
        assert main(["serve", *(word.format(**fill) for word in words)]) == code
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message.format(**fill) in line


def test_a_missing_extra_is_named(eager_pt, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["serve", str(eager_pt)]) == 2
    assert capsys.readouterr().err == (
        "error: the service needs the package 'prometheus_client', which is not installed; "
        "run: pip install 'oculox[serve]'\n"
    )


def test_the_first_line(capsys, monkeypatch):
    def begin(options, *, started, **_):
        started("http://127.0.0.1:8000")

    monkeypatch.setattr("oculox.serve.run.serve", begin)
    assert main(["serve", "best.pt"]) == 0
    assert capsys.readouterr() == ("best.pt at http://127.0.0.1:8000 (Ctrl-C ends it)\n", "")
    monkeypatch.delenv("OCULOX_API_KEY", raising=False)
    assert main(["serve", "best.pt", "--host", "::"]) == 0
    assert capsys.readouterr().err == (
        "warning: no --api-key is set: everybody who can reach this URL may use it\n"
    )


@contextlib.contextmanager
def command(*words):
    """The command in a process of its own, which does not outlive the block."""
    line = [sys.executable, "-m", "oculox", "serve", *map(str, words), "--port", "0", "--json"]
    environment = {**os.environ, "OCULOX_API_KEY": "k3"}
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_command(eager_pt, workers):
    """The address, the key, the counts of all workers, the end."""
    with command(eager_pt, "--workers", workers) as process:
        text = "".join(iter(process.stdout.readline, "}\n")) + "}"
        address = json.loads(text)["address"]
        headers = {"Authorization": "Bearer k3", "Content-Type": "image/png"}
        image = cv2.imencode(".png", red_image())[1].tobytes()
        wait_for(f"{address}/readyz")
        assert requests.post(f"{address}/v1/detect", image, timeout=60).status_code == 401
        for _ in range(6):
            answer = requests.post(f"{address}/v1/detect", image, headers=headers, timeout=60)
            assert answer.status_code == 200
        counts = requests.get(f"{address}/metrics", headers=headers, timeout=60).text
        assert 'path="/v1/detect",status="200"} 6.0' in counts
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGTERM if workers == 1 else 0)
        assert errors == ""


WORKER_BREAKS = """
import sys
from pathlib import Path
from oculox.cli.main import main
from oculox.serve.batcher import Batcher

async def fails(*_):
    raise RuntimeError("out of memory")

if __name__ == "__main__":
    sys.exit(main(["serve", sys.argv[1], "--port", "0", "--workers", "2"]))
{}
"""


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("Path(sys.argv[1]).unlink(missing_ok=True)", "{}: no such file"),
        pytest.param(
            "Batcher.detect = fails",
            "a worker could not start; its message above says why",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_worker_that_cannot_start_ends_the_service(eager_pt, tmp_path, breaks, said):
    """It is started after the service has opened the model itself, and reads the script again."""
    model, script = tmp_path / "model.pt", tmp_path / "script.py"
    shutil.copy(eager_pt, model)
    script.write_text(WORKER_BREAKS.format(breaks))
    words = [sys.executable, script, model]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    *above, line = done.stderr.splitlines()
    assert line == f"error: {said.format(model)}"
    assert bool(above) == ("above" in said), done.stderr


def wait_for(address):
    """Workers start to listen when they have opened the model."""
    for _ in range(600):
        with contextlib.suppress(requests.ConnectionError):
            assert requests.get(address, timeout=60).ok
            return
        time.sleep(0.1)
    raise AssertionError("the service did not start")


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch": 0},
        {"max_mb": 0},
        {"max_mb": math.inf},
        {"max_megapixels": math.inf},
        {"max_seconds": math.nan},
        {"max_seconds": math.inf},
        {"max_wait_ms": math.inf},
    ],
)
def test_limits_are_checked(wrong):
    with pytest.raises(Exception, match=f"`{next(iter(wrong))}` must be"):
        Limits(**wrong)
