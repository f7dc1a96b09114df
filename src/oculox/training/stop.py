"""SIGTERM, SIGINT and SIGUSR1 as a request to stop once the state of a run is saved."""

import shlex
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Self

from oculox.addresses import Location
from oculox.errors import TrainingError

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
)
"""Those that stop a run; schedulers announce the end of a job with SIGUSR1."""

_ONCE = 1.0
"""Seconds in which further signals count as the same: a terminal and a launcher may both send."""


def resume_command(run: Location) -> str:
    """The command that continues the run in a folder, or from one of its checkpoints."""
    return f"oculox train --resume {shlex.quote(str(run))}"


class RunStopped(TrainingError):  # noqa: N818 - nothing is wrong
    """A signal, `number`, has stopped a run whose state is saved."""

    def __init__(self, number: int, *, step: int, folder: Location) -> None:
        """Say after which step, and how to go on with the run in `folder`."""
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}; last.pt is saved, resume "
            f"with: {resume_command(folder)}"
        )
        self.number = number


class StopRequest(ExitStack):
    """Notes the first of `SIGNALS` inside its block; a later one ends the process at once.

    Only the main thread can do that, and only signals that are not ignored (as under ``nohup``).

    Attributes:
        agreed: whether all processes of the run know that it stops after the last step.
        number: of the signal that came, 0 for none.
        cancelled: whether the program stops the run, in which there is one process.
    """

    def __init__(self, folder: Location, *, tell: Callable[[str], None]) -> None:
        """A request for the run in `folder`; `tell` gets the message when it stops."""
        super().__init__()
        self.agreed = False
        self.cancelled = False
        self.number = 0
        self._folder = folder
        self._tell = tell
        self._since = 0.0

    def __enter__(self) -> Self:
        """Take the signals over; the end of the block gives them back."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.callback(signal.signal, number, signal.signal(number, self._note))
        return super().__enter__()

    def agree(self) -> None:
        """Note that all processes stop now, whichever of them got the signal."""
        self.agreed = True
        if not self.number:
            # The launcher sends its own as soon as the process that got the signal has ended.
            self.number, self._since = signal.SIGTERM, time.monotonic()

    def check(self, step: int) -> None:
        """Leave the block where a signal came; the state after `step` is saved.

        Raises:
            RunStopped: one came.
        """
        if self.number:
            stopped = RunStopped(self.number, step=step, folder=self._folder)
            self._tell(str(stopped))
            raise stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if not self.number:
            self.number, self._since = number, now
        elif now - self._since > _ONCE:
            self.close()
            raise_again(number)


def raise_again(number: int) -> None:
    """Let a signal do what it would have done before.

    It returns only where the program has a handler that returns.
    """
    signal.raise_signal(number)
    if signal.getsignal(number) is signal.SIG_DFL:
        # The first process of a container is not ended by its own signals.
        raise SystemExit(128 + number)
