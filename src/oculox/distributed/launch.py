"""Starting a run on several processes of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_CHILD = "OCULOX_CHILD"
"""Set in the processes that `launch` starts."""


def is_launched() -> bool:
    """Whether this process is already one of several (torchrun, accelerate launch or ours)."""
    return "LOCAL_RANK" in os.environ


def speaks_for_the_run() -> bool:
    """Whether this process should print the summary.

    Of several processes the one that launched them does, or the first under torchrun.
    """
    return _CHILD not in os.environ and os.environ.get("RANK", "0") == "0"


def launch(arguments: Sequence[str], *, processes: int) -> int:
    """Run ``python -m oculox ARGUMENTS`` as that many cooperating processes, and wait.

    When one fails the others are stopped, so that none waits for it forever.

    Returns:
        0, or the exit code of the first process that failed.
    """
    environment = {
        **os.environ,
        _CHILD: "1",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    # Without a share of the cores for each, processes on a CPU get in each other's way.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    children = [_start(arguments, environment, rank) for rank in range(processes)]
    try:
        return _wait(children)
    finally:
        _stop(children)


def _start(
    arguments: Sequence[str], environment: Mapping[str, str], rank: int
) -> subprocess.Popen[bytes]:
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    return subprocess.Popen(
        [sys.executable, "-m", "oculox", *arguments], env={**environment, **ranks}
    )


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [child.poll() for child in children]
        failed = [code for code in codes if code]
        if failed:
            return failed[0] if failed[0] > 0 else 1
        if all(code == 0 for code in codes):
            return 0
        time.sleep(_POLL_SECONDS)


def _stop(children: Sequence[subprocess.Popen[bytes]]) -> None:
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for child in running:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
