"""Folders that are written here and sent to an address."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oculox.addresses.address import Address, Location
from oculox.addresses.storage import remove, upload
from oculox.errors import OculoxError, UsageError

_SECONDS = 5.0
"""Between looks at what has changed."""

_State = tuple[int, int, int]


@contextmanager
def local_output(output: Location, *, overwrite: bool = False) -> Iterator[Path]:
    """The folder to write to in place of `output`; at an address everything arrives at the end.

    Args:
        output: a folder; a path is yielded as it is.
        overwrite: allow an address that holds something already.

    Raises:
        UsageError: the address holds something.
        AddressError: something cannot be sent.
    """
    if isinstance(output, Path):
        yield output
        return
    if not overwrite and output.exists():
        raise UsageError(
            f"{output} already holds files; name another `output`, or pass `overwrite`"
        )
    with tempfile.TemporaryDirectory(prefix="oculox-") as scratch:
        folder = Path(scratch) / (output.name or "output")
        folder.mkdir()
        yield folder
        _send_changes(folder, output, {}, last="")


@contextmanager
def mirrored(
    folder: Path, address: Address, *, last: str, sent: bool, tell: Callable[[str], None]
) -> Iterator[None]:
    """Send the files of a folder in the background whenever they change, and at the end.

    What is sent is what the folder held at one moment. What goes away here goes away there.

    Args:
        folder: files appear in it whole, or only grow.
        address: of the folder there.
        last: name of the file that is sent after those that it was written after.
        sent: whether what the folder holds now has come from there.
        tell: gets a line where sending fails; it goes on, and is tried again.

    Raises:
        AddressError: at the end, something cannot be sent; the folder stays as it is. An error of
            the block itself goes first.
    """
    known = _states(folder) if sent else {}
    over = threading.Event()

    def work() -> None:
        while not over.wait(_SECONDS):
            try:
                _send_changes(folder, address, known, last=last)
            except (OculoxError, OSError) as error:
                tell(f"not sent: {error}; trying again")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        over.set()
        thread.join()
        try:
            _send_changes(folder, address, known, last=last)
        except OculoxError as error:
            tell(f"not sent: {error}; the files are in {folder}")
        raise
    over.set()
    thread.join()
    try:
        _send_changes(folder, address, known, last=last)
    except OculoxError as error:
        raise type(error)(f"{error}; the files are in {folder}") from None


def _states(folder: Path) -> dict[str, _State]:
    """What tells whether a file has changed: its number, size and time, by name."""
    states = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                stat = path.stat()
                states[name.as_posix()] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return states


def _send_changes(folder: Path, address: Address, sent: dict[str, _State], *, last: str) -> None:
    """Send what is not in `sent` as it is now, and note it there."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sending-") as scratch:
        states = _states(folder)
        changed = {name: state for name, state in states.items() if sent.get(name) != state}
        # Second names keep this moment's content while new files take the place of these.
        pinned = {
            name: _pin(folder / name, Path(scratch) / str(i)) for i, name in enumerate(changed)
        }
        for name in sorted(changed, key=lambda name: (name == last, name)):
            if (file := pinned[name]) is not None:
                upload(file, address / name)
                sent[name] = changed[name]
        for name in sent.keys() - states.keys():
            remove(address / name)
            del sent[name]


def _pin(file: Path, name: Path) -> Path | None:
    """Another name for a file, itself where there can be none, None where it is gone."""
    try:
        os.link(file, name)
    except FileNotFoundError:
        return None
    except OSError:
        return file
    return name
