"""The folder of this machine's copies: of limited size, shared by all processes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

from oculox.addresses.address import Address, Location
from oculox.addresses.faults import AddressError
from oculox.addresses.storage import (
    Found,
    attempt,
    digest,
    download,
    list_files,
    positive_number,
    stamp_of,
)
from oculox.errors import OculoxError
from oculox.files import cache_errors, cache_folder, hold_lock, write_atomically

SIZE_VARIABLE = "OCULOX_CACHE_GB"
_CACHE_GB = 30.0
_LOCKS = 256
_THREADS = 16


def on_disk(file: Location) -> Path:
    """A path itself; of an address its `local_copy`."""
    return local_copy(file) if isinstance(file, Address) else file


def local_copy(address: Address, *, check: bool = True) -> Path:
    """A file of this machine with the content of an address, under the same name.

    Files of one folder stay beside each other. It is to be opened at once: when the cache is full
    the file that was not used for longest is removed.

    Args:
        address: of a file.
        check: compare size and ETag (or time of change) with the address's first. Without,
            what the cache has is taken for the content; see `forget_changed`.

    Raises:
        AbsentError: there is nothing.
        AddressError: it cannot be fetched, or is larger than the cache.
        OculoxError: the cache cannot be written.
    """
    copy = _place(address)
    if not check and _touch(copy):
        return copy
    with _one_at_a_time(copy):
        if not check and _touch(copy):  # another process has fetched it meanwhile
            return copy
        about = attempt(address, lambda system, path: dict(system.info(path)))
        if about.get("type") == "directory":
            raise AddressError(f"{address}: this is a folder; expected a file")
        file = Found(address, about.get("size"), stamp_of(about))
        if not (_kept_stamp(copy) == file.stamp and _touch(copy)):
            write_atomically(copy, partial(_fetch, file, in_cache=True))
    return copy


def fetch_ahead(addresses: Iterable[Address]) -> None:
    """Begin to fetch files into the cache, with threads; `Address.read_bytes` waits for its own.

    What cannot be fetched is for the reader to meet.
    """
    wanted = [address for address in addresses if not _touch(_place(address))]
    if wanted:
        pool = ThreadPoolExecutor(min(_THREADS, len(wanted)))
        for address in wanted:
            pool.submit(local_copy, address, check=False)
        pool.shutdown(wait=False)


def local_folder(folder: Address, target: Path | None = None) -> Path:
    """A folder of this machine with the files that are at an address, and in folders below it.

    Args:
        folder: the address.
        target: where to; by default a folder of the same name in the cache.

    Raises:
        AddressError: a file cannot be fetched, or has a name that leads out of the folder; or the
            cache is too small for all of them.
        OculoxError: the disk refuses.
    """
    in_cache, target = target is None, target or _place(folder)
    files = list(list_files(folder, recursive=True))
    size = sum(file.size or 0 for file in files)
    if in_cache and size > cache_limit():
        raise AddressError(f"{folder}: {size / 1e9:.1f} GB; {_too_small()}")
    copies = []
    for file in files:
        name = file.address.text[len(folder.text.rstrip("/")) + 1 :]
        copy = _below(target, name, file.address)
        copies.append(copy)
        with _one_at_a_time(copy):
            if not (_kept_stamp(copy) == file.stamp and _touch(copy)):
                write_atomically(copy, partial(_fetch, file, in_cache=in_cache))
    if not all(copy.is_file() for copy in copies):  # the last ones, or other processes, took room
        raise AddressError(f"{folder}: {_too_small()}")
    return target


def open_cached(address: Address) -> BinaryIO:
    """The content, from the cache where that has it, whatever it is now at the address.

    Raises:
        AddressError: it cannot be fetched.
    """
    for _ in range(5):
        try:
            return local_copy(address, check=False).open("rb")
        except FileNotFoundError:  # other processes needed the room, just now
            continue
    raise AddressError(f"{address}: {_too_small()}")


def forget_changed(files: Iterable[Found]) -> None:
    """Remove from the cache what is not any more as a listing says."""
    for file in files:
        copy = _place(file.address)
        if _kept_stamp(copy) not in (None, file.stamp):
            with cache_errors():
                copy.unlink(missing_ok=True)


def _fetch(file: Found, part: Path, *, in_cache: bool) -> None:
    """Write the content to `part`, whose time of change becomes the stamp of that content."""
    if in_cache and (file.size or 0) > cache_limit():
        raise AddressError(f"{file.address}: {(file.size or 0) / 1e9:.1f} GB; {_too_small()}")
    download(file.address, part, size=file.size)
    os.utime(part, (time.time(), file.stamp))
    if in_cache:
        _make_room(part)


@contextlib.contextmanager
def _one_at_a_time(copy: Path) -> Iterator[None]:
    lock = _root() / "locks" / f"{digest(str(copy)) % _LOCKS:02x}"
    with cache_errors(), hold_lock(lock):
        try:
            yield
        except OculoxError as error:  # of `write_atomically`
            if isinstance(error.__cause__, PermissionError):
                raise error.__cause__ from None
            raise


def _root() -> Path:
    return cache_folder() / "remote"


def _place(address: Address) -> Path:
    """Where the cache keeps a file."""
    folder, query = address.parent.text, address.content_query
    place = _root() / f"{digest(f'{folder}?{query}' if query else folder):016x}"
    return _below(place, address.name or "index", address)


def _below(folder: Path, name: str, address: Address) -> Path:
    """A file of a folder; its name comes from a storage, and on Windows a backslash parts it."""
    below = Path(name)
    if below.anchor or ".." in below.parts:
        raise AddressError(f"{address}: its name leads out of the folder")
    return folder / below


@cache_errors()
def _kept_stamp(copy: Path) -> int | None:
    try:
        return int(copy.stat().st_mtime)
    except FileNotFoundError:
        return None


@cache_errors()
def _touch(copy: Path) -> bool:
    """Note that a file is used; false where it is not there."""
    try:
        os.utime(copy, (time.time(), copy.stat().st_mtime))
    except FileNotFoundError:
        return False
    return True


def _make_room(new: Path) -> None:
    """Count a new file, and remove those that were not used for longest where it is one too many.

    The count is kept in a file; it may be too high, and is corrected by each removal.
    """
    root, limit, size = _root(), cache_limit(), new.stat().st_size
    with hold_lock(root / "locks" / "size") as file:
        total = int(file.read() or b"0") + size
        if total > limit:
            total = _remove_oldest(root, room=limit - size, but=new) + size
        file.seek(0)
        file.truncate()
        file.write(b"%d" % total)


def _remove_oldest(root: Path, *, room: int, but: Path) -> int:
    """Remove files but one until a tenth of the room is free; the bytes of the others left."""
    found = []
    for path in root.glob("[0-9a-f]*/**/*"):
        with contextlib.suppress(FileNotFoundError):
            if path != but and path.is_file():
                found.append((path.stat(), path))
    total = sum(stat.st_size for stat, _ in found)
    for stat, path in sorted(found, key=lambda pair: pair[0].st_atime):
        if total <= room * 0.9:
            break
        path.unlink(missing_ok=True)
        total -= stat.st_size
    return total


def cache_limit() -> int:
    """Bytes that the cache may hold."""
    return int(positive_number(SIZE_VARIABLE, _CACHE_GB) * 1e9)


def _too_small() -> str:
    return f"the cache is too small for it; set {SIZE_VARIABLE} to more gigabytes"
