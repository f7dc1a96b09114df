"""Runs whose folder is at an address: they work in a folder here, which is sent there."""

from __future__ import annotations

import dataclasses
import filecmp
import hashlib
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from oculox.addresses import (
    Address,
    FileState,
    Location,
    file_states,
    local_folder,
    mirrored,
    stamp_at,
)
from oculox.distributed.launch import count_machines, is_main_process, is_of_launch
from oculox.errors import OculoxError, OculoxWarning, UsageError
from oculox.files import cache_errors, cache_folder, free_path, hold_lock
from oculox.training.checkpoints import LAST, is_state, state_file, steps_of
from oculox.training.run_folder import check_free, is_held
from oculox.training.stop import resume_command


@dataclasses.dataclass(frozen=True)
class RunPlace:
    """Where a run works, and where its folder is sent.

    Attributes:
        output: folder of a new run here; None for the default one, or a resumed run.
        resume: folder of a run to go on with here, or a checkpoint in it.
        remote: the address of the run's folder; None where it has none.
        sent: the files of the run that have come from there, as they came.
    """

    output: Path | None
    resume: Path | None
    remote: Address | None = None
    sent: Mapping[str, FileState] = dataclasses.field(default_factory=dict)

    def sending(self, folder: Path, *, enabled: bool) -> AbstractContextManager[None]:
        """Sends the run's folder meanwhile and at the end, and removes it; see `mirrored`."""
        if self.remote is None or not enabled:
            return nullcontext()
        # The log of the run closes before the end.
        console = Console(stderr=True, highlight=False, emoji=False)
        return mirrored(
            folder,
            self.remote,
            last=LAST,
            sent=self.sent,
            tell=lambda text: console.print(text, markup=False, soft_wrap=True),
        )

    @contextmanager
    def naming_address(self) -> Iterator[None]:
        """In errors a run that goes on has its address, not the folder of its copy here."""
        try:
            yield
        except OculoxError as error:
            if self.remote is not None and self.resume is not None:
                here = str(state_file(self.resume).parent)
                error.args = (str(error).replace(here, str(self.remote).rstrip("/")),)
            raise

    def shown(self, folder: Path) -> Location:
        """The folder of the run for people: its address where it has one."""
        return self.remote or folder


def run_place(output: Location | None, resume: Location | None) -> RunPlace:
    """Settle where a run works; what it goes on with is fetched from its address.

    Raises:
        UsageError: the address holds another run, a process here trains that one, or several
            machines train together.
        AddressError: the run cannot be fetched.
        OculoxError: the disk refuses.
    """
    for place in (output, resume):
        if isinstance(place, Address) and (machines := count_machines()) > 1:
            # A copy on each, of which only the main process's is sent and removed.
            raise UsageError(
                f"{place}: only one machine can train a run at a URL, and here are {machines} "
                "(of torchrun); name a folder that all of them share, or take one machine"
            )
    with cache_errors():
        if isinstance(resume, Address):
            if output is not None:
                raise UsageError("a resumed run has its own folder: leave out `output`")
            return _fetch_run(resume)
        if isinstance(output, Address):
            check_free(output)
            folder = free_path(_folder_of(output))
            _tell_left(output, folder)
            return RunPlace(folder, None, output)
    return RunPlace(output, resume)


def _fetch_run(resume: Address) -> RunPlace:
    remote = resume.parent if is_state(resume) else resume
    folder = _folder_of(remote)
    with hold_lock(folder.parent.with_suffix(".lock")):
        if is_held(folder):
            raise UsageError(f"{remote}: another process is training this run; wait for its end")
        last, left = folder / LAST, None
        if last.exists() and int(last.stat().st_mtime) != stamp_at(remote / LAST):
            # Of a run that was killed, or whose files could not be sent: it may be ahead.
            left = folder.rename(free_path(folder))
        local_folder(remote, folder)
        if left and last.exists() and filecmp.cmp(left / LAST, last, shallow=False):
            shutil.rmtree(left)  # `last.pt` is sent after all that it goes with
        _tell_left(remote, folder)
    here = folder / resume.name if is_state(resume) else folder
    return RunPlace(None, here, remote, file_states(folder))


def _tell_left(remote: Address, folder: Path) -> None:
    """Warn of folders beside that of a run which other runs at its address have left here."""
    if is_of_launch() or not is_main_process():
        return  # another process tells
    for left in sorted(folder.parent.glob("*/")):
        if left == folder or is_held(left):
            continue
        size = sum(path.stat().st_size for path in left.rglob("*") if path.is_file())
        steps = steps_of(left / LAST)
        holds, end = ("no whole last.pt", "remove it")
        if steps is not None:
            holds = f"last.pt after step {steps}"
            end = f"remove it, or resume it here: {resume_command(left)}"
        warnings.warn(
            f"{remote}: a run that was killed, or could not be sent, has left {left} on this "
            f"machine ({holds}; {size / 1e6:.1f} MB in all), which is not used; {end}",
            OculoxWarning,
            stacklevel=2,
        )


def _folder_of(remote: Address) -> Path:
    return (
        cache_folder()
        / "runs"
        / hashlib.sha256(remote.text.rstrip("/").encode()).hexdigest()[:16]
        / (remote.name or "run")
    )
