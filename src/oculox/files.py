"""Writing files and folders: complete or not at all, and never over existing files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from oculox.errors import DataError, OculoxError, UsageError, first_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FileMode = Literal["copy", "symlink"]


def cache_folder() -> Path:
    """The folder of what can be fetched or made again: published weights, annotations as columns.

    ``OCULOX_CACHE`` names it; by default it is ``oculox`` in the user's cache folder.
    """
    if chosen := os.environ.get("OCULOX_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "oculox"


@contextlib.contextmanager
def cache_errors() -> Iterator[None]:
    """Around work in the cache folder, which the system may refuse, such as another user's.

    Raises:
        OculoxError: for an OSError of the block.
    """
    try:
        yield
    except OSError as error:
        whose = ", it may be another user's" if isinstance(error, PermissionError) else ""
        raise OculoxError(
            f"{cache_folder()}: the cache cannot be written ({error.strerror}{whose}); set "
            "OCULOX_CACHE to a folder of your own where files can be made and locked"
        ) from None


def try_lock(file: BinaryIO | int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed, or its process ends; false where it is locked already.

    Windows has no such locks: always true there.

    Args:
        file: the file, or its descriptor.
        shared: let others hold such a lock as well.
        wait: for those who hold it.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[BinaryIO]:
    """One process or thread at a time; the system lets go of it if the process dies.

    Args:
        path: the file that is locked; it is made where it does not exist.

    Yields:
        The file, for reading and writing.

    Raises:
        OSError: it cannot be made, or the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o666), "r+b") as file:
        try_lock(file, wait=True)
        try:
            yield file
        finally:
            # Closing it would not do: a process forked meanwhile holds the same lock.
            if sys.platform != "win32":
                import fcntl

                file.flush()
                fcntl.flock(file, fcntl.LOCK_UN)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that `path` holds the old content or the new one, never a part.

    Args:
        path: the final name; its folder is created.
        write: writes the whole content to the path it is given, in the same folder.

    Raises:
        UsageError: `path` was made of an address.
        OculoxError: when the disk is full or the folder cannot be written; `path` is unchanged.
    """
    require_local(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        # In place of mkstemp, which makes private files: this has the permissions of any new file.
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = name
        write(temporary)
        with temporary.open("r+b") as written:  # Windows flushes no file opened for reading
            os.fsync(written.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise OculoxError(
            f"{path}: could not be written ({_reason(error)}); what was there before is unchanged"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically.

    Raises:
        OculoxError: when it cannot be written.
    """
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write plain values as JSON, atomically.

    Raises:
        OculoxError: when the file cannot be written.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_image(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an image, uint8 (H, W, 3), BGR, in the format of its suffix, atomically.

    Raises:
        UsageError: images are not written with that suffix.
        DataError: the format has no images of that size.
        OculoxError: when it cannot be written.
    """
    import cv2

    if not cv2.haveImageWriter(str(path)):
        raise UsageError(f"{path}: an image is written with a suffix such as .jpg or .png")
    encoded = encode_image(image, path.suffix, where=str(path))
    write_atomically(path, lambda temporary: temporary.write_bytes(encoded))


def encode_image(
    image: npt.NDArray[np.uint8], suffix: str, options: Sequence[int] = (), *, where: str = ""
) -> bytes:
    """An image, uint8 (H, W, 3), BGR, as a file of the format with that suffix.

    Args:
        image: to encode.
        suffix: such as ``.jpg``.
        options: of `cv2.imencode`.
        where: the file, for messages.

    Raises:
        DataError: the format has no images of that size.
    """
    import cv2

    done, encoded = cv2.imencode(suffix, image, options)
    if not done:
        height, width = image.shape[:2]
        raise DataError(
            f"{where}{': ' if where else ''}an image of {width} x {height} pixels cannot be "
            f"encoded as {suffix.removeprefix('.')}; choose another format or a smaller image"
        )
    return encoded.tobytes()


def free_path(wanted: Path, *, suffix: str = "", companions: Sequence[str] = ()) -> Path:
    """`wanted` where nothing has that name, else ``wanted-2``, ``wanted-3`` and so on.

    Args:
        wanted: a folder or file.
        suffix: the end of its name, which stays after the number.
        companions: ends of other names that have to be free as well.
    """
    stem, number = wanted.name.removesuffix(suffix), 2
    name = stem
    # Also a link that leads nowhere takes a name.
    while any(os.path.lexists(wanted.with_name(f"{name}{end}")) for end in (suffix, *companions)):
        name, number = f"{stem}-{number}", number + 1
    return wanted.with_name(f"{name}{suffix}")


def require_local(path: Path) -> Path:
    """The path, unless it was made of an address and has lost a slash.

    Raises:
        UsageError: it was.
    """
    if re.match(r"(s3a?|obs|gc?s|az|abfss?|hf|https?):/", path.as_posix()):
        raise UsageError(
            f"{path}: expected a path on this machine, not a URL; where a URL is allowed, pass it "
            "as a string, since Path() changes it"
        )
    return path


def require_new_file(target: Path, *, overwrite: bool) -> Path:
    """The file to write, refused before the work begins where there is one already.

    Args:
        target: the file.
        overwrite: whether it may be replaced.

    Raises:
        UsageError: it is a folder, or there and not to be replaced.
    """
    if require_local(target).is_dir():
        raise UsageError(f"{target} is a folder; name a file")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; name another file, or pass `overwrite` to replace it")
    return target


def require_free(target: Path, *, replaceable: bool = False) -> None:
    """Refuse a target that is a file or a folder with something in it; nothing is created.

    Args:
        target: the folder to write to.
        replaceable: whether `overwrite` would allow it, for the message.

    Raises:
        UsageError: it is.
        OculoxError: it cannot be looked into.
    """
    try:
        there, used = require_local(target).exists(), target.is_dir() and any(target.iterdir())
    except OSError as error:
        raise OculoxError(
            f"{target}: the folder cannot be looked into ({error.strerror}); name another"
        ) from None
    if there and not target.is_dir():
        raise UsageError(f"{target}: the output must be a folder, this is a file")
    if used:
        choice = ", or pass `overwrite`" if replaceable else ""
        raise UsageError(f"{target} already holds files; name a new or empty folder{choice}")


def require_own(target: Path, mark: str, *, overwrite: bool) -> None:
    """Refuse a target that is in use, but for a dataset that the same command wrote there.

    Args:
        target: the folder to write to; its dataset's JSON files are in ``annotations``.
        mark: what the first bytes of those files hold.
        overwrite: whether such a dataset may be replaced.

    Raises:
        UsageError: it is in use, or `overwrite` is false.
    """
    if not is_own(target, mark):
        require_free(target)
    elif not overwrite:
        raise UsageError(f"{target} holds such a dataset already; pass `overwrite` to replace it")


def is_own(target: Path, mark: str) -> bool:
    """Whether a folder holds a dataset whose annotation files all begin with that mark."""
    files = list((target / "annotations").glob("*.json"))
    return bool(files) and all(mark.encode() in _first_bytes(file) for file in files)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(200)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; nothing happens where it exists.

    Raises:
        OculoxError: when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder}: the output must be a folder, this is a file") from None
    except OSError as error:
        raise OculoxError(f"{folder}: the folder cannot be made ({error.strerror})") from error


@contextlib.contextmanager
def remove_empty(folder: Path) -> Iterator[None]:
    """Remove a folder and those above it again, where the block made them and left them empty."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for one in made:
                one.rmdir()


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` whose entries move there when the block succeeds.

    Raises:
        UsageError: `target` is a file or holds something.
        OculoxError: the disk refuses.
    """
    require_free(target)
    with scratch_beside(target) as scratch:
        yield scratch
        move_entries(scratch, target)


@contextlib.contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `target`, removed at the end.

    Folders that were made for it and stay empty, because the block failed, are removed too.

    Raises:
        UsageError: `target` was made of an address.
        OculoxError: the disk refuses, here or inside the block.
    """
    target = require_local(target).expanduser().absolute()
    folder = target.parent
    with remove_empty(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{target.name}-") as scratch:
                yield Path(scratch)
        except OSError as error:
            raise OculoxError(f"{target}: could not be written ({_reason(error)})") from error


def move_entries(source: Path, target: Path, *, last: str = "") -> tuple[Path, ...]:
    """Move everything in `source` into `target`, in place of what has the same name.

    Args:
        source: a folder on the same disk.
        target: a folder; it is made where it does not exist.
        last: name of the entry to move last, the one that people open.

    Returns:
        The new paths.
    """
    target.mkdir(exist_ok=True)
    moved = []
    for entry in sorted(source.iterdir(), key=lambda entry: (entry.name == last, entry.name)):
        final = target / entry.name
        if final.is_dir():
            shutil.rmtree(final)
        moved.append(entry.replace(final))
    return tuple(moved)


def place_file(source: Path, target: Path, *, mode: FileMode) -> None:
    """Copy a file byte by byte, or link to it; folders are made as needed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "symlink":
        target.symlink_to(source.absolute())
    else:
        shutil.copyfile(source, target)


def _reason(error: BaseException) -> str:
    """The system's words: PyTorch turns a failed write of its archive into a RuntimeError."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return first_line(error)
