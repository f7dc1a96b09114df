"""Folders that are written here and sent to an address."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from oculox.addresses.address import Address, Location
from oculox.addresses.faults import AddressError
from oculox.addresses.storage import remove, upload
from oculox.errors import OculoxError, UsageError

_SECONDS = 5.0
"""Between looks at what has changed."""

FileState = tuple[int, int, int]
"""What tells whether a file has changed: its number, size and time."""


@contextmanager
def local_output(output: Location, *, overwrite: bool = False) -> Iterator[Path]:
    """The folder to write to in place of `output`; at an address everything arrives at the end.

    Args:
        output: a folder; a path is yielded as it is.
        overwrite: allow an address that holds something already.

    Raises:
        UsageError: the address holds something.
        AddressError: something cannot be sent; the files stay here, and the message says where.
    """
    if isinstance(output, Path):
        yield output
        return
    if not overwrite and output.exists():
        raise UsageError(
            f"{output} already holds files; name another `output`, or pass `overwrite`"
        )
    with contextlib.ExitStack() as stack:
        scratch = Path(tempfile.mkdtemp(prefix="oculox-"))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        folder = scratch / (output.name or "output")
        folder.mkdir()
        yield folder
        try:
            _send_all(folder, output, {})
        except AddressError:
            stack.pop_all()
            raise


@contextmanager
def mirrored(
    folder: Path,
    address: Address,
    *,
    last: str,
    sent: Mapping[str, FileState],
    tell: Callable[[str], None],
) -> Iterator[None]:
    """Send the files of a folder in the background whenever they change, and at the end.

    What is sent is what the folder held at one moment. What goes away here goes away there. When
    all is sent the folder here is removed.

    Args:
        folder: files appear in it whole, or only grow.
        address: of the folder there.
        last: name of the file that is sent after those that it was written after.
        sent: the states of the files that have come from there.
        tell: gets a line where sending fails; it goes on, and is tried again.

    Raises:
        AddressError: at the end, something cannot be sent; the folder stays as it is. An error of
            the block itself goes first.
    """
    known = dict(sent)
    over = threading.Event()

    def work() -> None:
        while not over.wait(_SECONDS):
            try:
                _send_changes(folder, address, known, last=last)
            except (OculoxError, OSError) as error:
                tell(f"not sent: {error}; trying again")

    thread = threading.Thread(target=work, daemon=True)

    def finish() -> None:
        over.set()
        thread.join()
        _send_all(folder, address, known, last=last)
        shutil.rmtree(folder, ignore_errors=True)

    thread.start()
    try:
        yield
    except BaseException:
        try:
            finish()
        except AddressError as error:
            tell(f"not sent: {error}")
        raise
    finish()


def _send_all(
    folder: Path, address: Address, sent: dict[str, FileState], *, last: str = ""
) -> None:
    """Send for the last time what is not in `sent`.

    Raises:
        AddressError: something cannot be sent; it says where the files are.
    """
    try:
        _send_changes(folder, address, sent, last=last)
    except (OculoxError, OSError) as error:
        raise AddressError(f"{error}; the files are in {folder}") from None


def file_states(folder: Path) -> dict[str, FileState]:
    """The state of each file in a folder and below it, by name; without hidden ones."""
    states = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                states[name.as_posix()] = _state(path)
    return states


def _state(file: Path) -> FileState:
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _send_changes(folder: Path, address: Address, sent: dict[str, FileState], *, last: str) -> None:
    """Send what is not in `sent` as it is now, and note it there."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sending-") as scratch:
        # Second names keep this moment's content while new files take the place of these. That of
        # `last` comes first: what it was written after is then there, or newer.
        snapshots = {last: _snapshot(folder / last, Path(scratch) / "last")} if last else {}
        states = file_states(folder)
        if last in states and (file := snapshots[last]) is not None:
            states[last] = _state(file)
        changed = {name: state for name, state in states.items() if sent.get(name) != state}
        for i, name in enumerate(changed.keys() - snapshots.keys()):
            snapshots[name] = _snapshot(folder / name, Path(scratch) / str(i))
        for name in sorted(changed, key=lambda name: (name == last, name)):
            if (file := snapshots[name]) is not None:
                upload(file, address / name)
                sent[name] = changed[name]
        for name in sent.keys() - states.keys():
            remove(address / name)
            del sent[name]


def _snapshot(file: Path, name: Path) -> Path | None:
    """Another name for a file, itself where there can be none, None where it is gone."""
    try:
        os.link(file, name)
    except FileNotFoundError:
        return None
    except OSError:
        return file
    return name
