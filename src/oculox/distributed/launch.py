"""Several processes on this machine, through PyTorch's elastic launcher (that of torchrun)."""

import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from oculox.errors import OculoxError, first_line

_REPORTED = "reported"
_LAUNCHER = "OCULOX_LAUNCHER"
"""Tells the processes of `launch` the number of the process that started them."""


class ProcessDiedError(OculoxError):
    """One of several processes was ended by a signal."""

    def __init__(self, rank: int, *, processes: int, number: int) -> None:
        """Name the process `rank` of `processes` and the signal `number`."""
        memory = (
            " (Linux does that where memory runs out: lower the batch, data.workers, or take "
            "data.cache=none)"
        )
        super().__init__(
            f"process {rank} of {processes} was ended by {signal.Signals(number).name}"
            f"{memory if number == 9 else ''}; the others were stopped, saved files are whole"
        )
        self.exit_code = 128 + number


def is_launched() -> bool:
    """Whether this process is already one of several (torchrun, accelerate launch or `launch`)."""
    return "LOCAL_RANK" in os.environ


def is_of_launch() -> bool:
    """Whether `launch` started this process; its command has been checked before that."""
    return _LAUNCHER in os.environ


def was_restarted() -> bool:
    """Whether torchrun (``--max-restarts``) runs this command again after a process failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def count_machines() -> int:
    """How many machines train together: the agents of torchrun, of which each has one."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def count_processes_here(world_size: int) -> int:
    """How many of a job's `world_size` processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def is_main_process() -> bool:
    """Whether this process is the first of its job, or the only one: the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def launch(arguments: Sequence[str], *, processes: int) -> int:
    """Run ``python -m oculox ARGUMENTS`` as that many cooperating processes, and wait.

    When one fails, or this process gets SIGINT, SIGTERM, SIGUSR1, SIGHUP or SIGQUIT, all are
    stopped; they get the same signal. It then does to this process what it would have done without
    `launch`. When this process is killed, they end by themselves (`follow_launcher`).

    Returns:
        0, or the exit code of the first process that failed, which says why; 128 and the number of
        the signal that has ended it.

    Raises:
        ProcessDiedError: a signal ended one that has not said why (`note_report`).
    """
    # Imported here because it takes a second, and most commands start no processes.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    try:
        with _prepared(processes), tempfile.TemporaryDirectory() as scratch:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                run_id="oculox",
                role="oculox",
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",  # a free port
                local_addr="localhost",
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=scratch),
            )
            try:
                elastic_launch(config, sys.executable)("-m", "oculox", *arguments)
            except ChildFailedError as failed:
                rank, failure = failed.get_first_failure()
                if failure.exitcode >= 0:
                    return failure.exitcode
                number = -failure.exitcode
                if not any(Path(scratch).rglob(_REPORTED)):
                    raise ProcessDiedError(rank, processes=processes, number=number) from None
                return 128 + number
    except SignalException as stopped:
        signal.raise_signal(stopped.sigval)
        return 128 + stopped.sigval
    return 0


def follow_launcher() -> None:
    """In a process that `launch` or torchrun started: end soon after that one, however it ended."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Asking for the parent here would be too late, were it gone already.
        follow_parent(int(os.environ.get(_LAUNCHER, os.getppid())))


def follow_parent(parent: int, *, alone: bool = False) -> None:
    """Let this process end within a second of its parent, however that one ended.

    Args:
        parent: number of the parent process.
        alone: on Linux, whether SIGTERM ends this process only when it comes from the parent.
            Launchers and service managers send it to all processes of a run at once, and the
            parent may need this one until its own work is saved.
    """
    own_sender = alone and sys.platform == "linux"
    if own_sender:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def watch() -> None:
        while os.getppid() == parent:
            if not own_sender:
                time.sleep(0.5)
            elif (
                told := signal.sigtimedwait({signal.SIGTERM}, 0.5)
            ) is not None and told.si_pid == parent:
                break
        os._exit(0 if alone else 1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def one_report() -> Iterator[None]:
    """When several processes fail for one reason, let only the first report it.

    The launcher stops the others when that one has ended.
    """
    try:
        yield
    except Exception as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            silent: list[int] = []
            if not isinstance(error, OculoxError):
                # Most often the lost connection to a process that failed: that one reports first.
                silent = _without_an_error(after=5)
            elif not is_main_process():
                time.sleep(1)
            if not note_report():
                time.sleep(30)
                raise SystemExit(1) from None
            if silent and re.search("time[sd]? ?out", str(error), re.IGNORECASE):
                named = ", ".join(map(str, silent))
                raise OculoxError(
                    f"no answer from process {named} of {os.environ['WORLD_SIZE']} in the time "
                    f"that train.timeout gives ({first_line(error)}); look at what it waits for"
                ) from error
        raise


def _without_an_error(*, after: float) -> list[int]:
    """The ranks of this machine's processes that have no error so many seconds after this one."""
    shared = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not shared:
        time.sleep(after)
        return []
    folder, local = Path(shared).parents[1], int(os.environ["LOCAL_RANK"])
    (folder / f"failed-{local}").touch()
    time.sleep(after)
    first = int(os.environ["RANK"]) - local
    others = range(int(os.environ["LOCAL_WORLD_SIZE"]))
    return [first + n for n in others if not (folder / f"failed-{n}").exists()]


def note_report() -> bool:
    """Note that this process says why it ends.

    Returns:
        Whether it is the first of this machine's processes to do so; launchers share a folder.
    """
    shared = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not shared:
        return True
    try:
        (Path(shared).parents[1] / _REPORTED).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@contextmanager
def _prepared(processes: int) -> Iterator[None]:
    """Set up what the launcher needs, and afterwards restore this process as it was."""
    with ExitStack() as undo:
        # Without a share of the cores for each, processes on a CPU slow each other down.
        if "OMP_NUM_THREADS" not in os.environ:
            share = max(1, (os.cpu_count() or 1) // processes)
            os.environ["OMP_NUM_THREADS"] = str(share)
            undo.callback(os.environ.pop, "OMP_NUM_THREADS")
        os.environ[_LAUNCHER] = str(os.getpid())
        undo.callback(os.environ.pop, _LAUNCHER)
        # The process that fails says why: the launcher's own lines would hide it.
        log, silent = logging.getLogger("torch.distributed.elastic"), logging.NullHandler()
        undo.callback(setattr, log, "propagate", log.propagate)
        undo.callback(log.removeHandler, silent)
        log.addHandler(silent)
        log.propagate = False
        # The launcher puts handlers of its own in place, and leaves them there.
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
                if number := getattr(signal, name, None):
                    undo.callback(signal.signal, number, signal.getsignal(number))
            # What schedulers announce an end with; not all launchers know it.
            if number := getattr(signal, "SIGUSR1", None):
                undo.callback(signal.signal, number, signal.getsignal(number))
                signal.signal(number, _pass_on)
        yield


def _pass_on(number: int, frame: object) -> None:
    """Stop the processes by the signal that this one got, as the launcher does for others."""
    from torch.distributed.elastic.multiprocessing import SignalException

    name = signal.Signals(number)
    raise SignalException(f"got {name.name}", name)
