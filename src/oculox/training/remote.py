"""Runs whose folder is at an address: they work in a folder here, which is sent there."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console

from oculox.addresses import Address, Location, local_folder, mirrored, stamp_at
from oculox.errors import UsageError
from oculox.files import cache_folder, free_path, hold_lock
from oculox.training.checkpoints import LAST, is_state
from oculox.training.run_folder import CONFIG, is_held


@dataclasses.dataclass(frozen=True)
class RunPlace:
    """Where a run works, and where its folder is sent.

    Attributes:
        output: folder of a new run here; None for the default one, or a resumed run.
        resume: folder of a run to go on with here, or a checkpoint in it.
        remote: the address of the run's folder; None where it has none.
    """

    output: Path | None
    resume: Path | None
    remote: Address | None = None

    def sending(self, folder: Path, *, enabled: bool) -> AbstractContextManager[None]:
        """Sends the run's folder meanwhile, and all of it at the end; see `mirrored`."""
        if self.remote is None or not enabled:
            return nullcontext()
        # The log of the run closes before the end.
        console = Console(stderr=True, highlight=False)
        return mirrored(
            folder,
            self.remote,
            last=LAST,
            sent=self.resume is not None,
            tell=lambda text: console.print(text, markup=False, soft_wrap=True),
        )

    def shown(self, folder: Path) -> Location:
        """The folder of the run for people: its address where it has one."""
        return self.remote or folder

    def clear(self, folder: Path) -> None:
        """Remove the folder here, when everything is at the address."""
        if self.remote is not None:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


def run_place(output: Location | None, resume: Location | None) -> RunPlace:
    """Settle where a run works; what it goes on with is fetched from its address.

    Raises:
        UsageError: the address holds another run, or a process here trains that one.
        AddressError: the run cannot be fetched.
        OculoxError: the disk refuses.
    """
    if isinstance(resume, Address):
        if output is not None:
            raise UsageError("a resumed run has its own folder: leave out `output`")
        return _fetch_run(resume)
    if isinstance(output, Address):
        for name in (CONFIG, LAST):
            if (output / name).is_file():
                raise UsageError(
                    f"{output}: holds another run; choose another `output`, or go on with it: "
                    f"`resume` {output}"
                )
        return RunPlace(free_path(_folder_of(output)), None, output)
    return RunPlace(output, resume)


def _fetch_run(resume: Address) -> RunPlace:
    remote = resume.parent if is_state(resume) else resume
    folder = _folder_of(remote)
    with hold_lock(folder.parent.with_suffix(".lock")):
        if is_held(folder):
            raise UsageError(f"{remote}: another process is training this run; wait for its end")
        last = folder / LAST
        if last.exists() and int(last.stat().st_mtime) != stamp_at(remote / LAST):
            # Of a run that was killed, or whose files could not be sent: it may be ahead.
            folder.rename(free_path(folder))
        local_folder(remote, folder)
    return RunPlace(None, folder / resume.name if is_state(resume) else folder, remote)


def _folder_of(remote: Address) -> Path:
    return (
        cache_folder()
        / "runs"
        / hashlib.sha256(remote.text.rstrip("/").encode()).hexdigest()[:16]
        / (remote.name or "run")
    )
