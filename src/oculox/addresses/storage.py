"""Storages behind addresses: opening, listing, sending, and what can go wrong with them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import math
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from oculox.addresses.address import S3_SCHEMES, WEB_SCHEMES, Address
from oculox.addresses.faults import AbsentError, explain, is_of_library
from oculox.errors import OculoxError, OculoxWarning, UsageError, first_line
from oculox.extras import require

PATIENCE_VARIABLE = "OCULOX_PATIENCE"
OBS_VARIABLE = "OBS_ENDPOINT"
_PATIENCE = 180.0
_SLOWEST = 100_000
"""Bytes a second: a transfer that is slower is given up."""
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_LONGEST_PAUSE = 15.0
_QUIET_SECONDS = 2.0
"""Faults that last longer are told of."""

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"} | dict.fromkeys(
    ("az", "abfs", "abfss", "adl"), "adlfs"
)
"""Of storages that the extra does not bring."""
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Found:
    """A file of a listing.

    Attributes:
        address: where it is.
        size: in bytes; None where the storage does not tell.
        stamp: changes with the content.
    """

    address: Address
    size: int | None
    stamp: int


def open_filesystem(address: Address) -> tuple[Any, str]:
    """The fsspec file system of an address, and the address as that system names it.

    It is made anew in each process (a forked one included), and shared by the threads of one.

    Raises:
        MissingExtraError: the extra `cloud` is not installed.
        UsageError: the storage is unknown, or needs a package or setting that is not there.
    """
    fsspec = require("fsspec", extra="cloud", purpose=f"the URL {address}")
    scheme, options = address.scheme, {}
    if scheme in S3_SCHEMES:
        require("s3fs", extra="cloud", purpose=f"the URL {address}")
        options, scheme = _s3_options(address), "s3"
    elif scheme in WEB_SCHEMES:
        aiohttp = require("aiohttp", extra="cloud", purpose=f"the URL {address}")
        limits = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        options = {"client_kwargs": {"timeout": limits}}
    try:
        system = fsspec.filesystem(scheme, use_listings_cache=False, **options)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        what = f"run: pip install {package}" if package else first_line(error)
        raise UsageError(
            f"{address}: a package for '{scheme}://' is not installed; {what}"
        ) from None
    except ValueError:
        raise UsageError(
            f"{address}: '{scheme}://' is no storage that is known; expected a path, or a "
            "URL such as s3://bucket/folder or https://server/file"
        ) from None
    text = address.text.partition("://")[2]
    return system, system._strip_protocol(f"{scheme}://{text}")


def _s3_options(address: Address) -> dict[str, Any]:
    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "retries": {"total_max_attempts": 1, "mode": "standard"},  # they are made here
        # Servers other than Amazon's may not know the newer checksums.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if address.scheme != "obs":
        return {"config_kwargs": config}
    endpoint = os.environ.get(OBS_VARIABLE, "")
    if not endpoint:
        raise UsageError(
            f"{address}: set {OBS_VARIABLE} to the server of your region, such as "
            "https://obs.cn-north-4.myhuaweicloud.com"
        )
    endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"
    if str(urlsplit(endpoint).hostname).endswith(".myhuaweicloud.com"):
        config["s3"] = {"addressing_style": "virtual"}
    return {"endpoint_url": endpoint, "config_kwargs": config}


def list_files(folder: Address, *, recursive: bool = False) -> Iterator[Found]:
    """The files of a folder by name, then those of each folder in it; listed folder by folder.

    Args:
        folder: its address.
        recursive: go into the folders of folders. Those without a name, as in ``a//b.jpg``, are
            left out with a warning: storages list the folder above in their place.

    Raises:
        AbsentError: there is no such folder.
        AddressError: it cannot be listed.
    """
    pending = [folder]
    while pending:
        here = pending.pop()
        entries = attempt(here, lambda system, path: system.ls(path, detail=True))
        below = []
        for entry in sorted(entries, key=lambda entry: str(entry["name"])):
            name = str(entry["name"]).rstrip("/").rpartition("/")[2]
            if _is_nameless(entry, here):
                if recursive and entry["type"] == "directory":
                    warnings.warn(
                        f"{str(here).rstrip('/')}//: what is below this is left out, since a "
                        "folder without a name cannot be listed; use names without '//'",
                        OculoxWarning,
                        stacklevel=2,
                    )
            elif entry["type"] == "directory":
                below.append(here / name)
            else:
                yield Found(here / name, entry.get("size"), stamp_of(entry))
        if recursive:
            pending += reversed(below)


def list_names(folder: Address) -> dict[str, bool]:
    """The names in a folder, and whether each is a folder; none where it is not there.

    Raises:
        AddressError: it cannot be listed.
    """
    try:
        entries = attempt(folder, lambda system, path: system.ls(path, detail=True))
    except AbsentError:
        return {}
    return {
        str(entry["name"]).rstrip("/").rpartition("/")[2]: entry["type"] == "directory"
        for entry in entries
        if not _is_nameless(entry, folder)
    }


def _is_nameless(entry: Mapping[str, Any], folder: Address) -> bool:
    """Whether an entry of a folder's listing ends after the folder's own slash.

    It is a folder with an empty name, or an empty file that some programs write for each folder.
    """
    name = str(entry["name"])
    is_folder = entry["type"] == "directory" or name.endswith("/")
    return is_folder and name.rstrip("/") == open_filesystem(folder)[1].rstrip("/")


def upload(file: Path, address: Address) -> None:
    """Send a file; the address holds the old content or the new one, never a part.

    Raises:
        AddressError: it cannot be sent; what was there is unchanged.
    """
    size = file.stat().st_size

    def send(system: Any, path: str) -> None:
        system.put_file(str(file), path)
        found = system.info(path).get("size")
        if found is None or found < size:  # a log may have grown meanwhile
            raise OSError(f"{found} bytes arrived, of {size}")

    attempt(address, send, size=size)


def remove(address: Address) -> None:
    """Delete a file; nothing happens where there is none.

    Raises:
        AddressError: it cannot be deleted.
    """
    with contextlib.suppress(AbsentError):
        attempt(address, lambda system, path: system.rm_file(path))


def attempt(
    address: Address, work: Callable[[Any, str], _Result], *, size: int | None = None
) -> _Result:
    """Work with an address, again after faults that pass, with pauses.

    Args:
        address: for messages too.
        work: takes the fsspec file system and the address as it names it.
        size: bytes to transfer, where there are many: they take their time.

    Raises:
        AbsentError: there is nothing at the address.
        AddressError: the fault does not pass, or has not for ``OCULOX_PATIENCE`` seconds.
    """
    limit, quiet_until = _limit(size), time.monotonic() + _QUIET_SECONDS
    system, path = open_filesystem(address)
    for number in itertools.count():
        try:
            return work(system, path)
        except Exception as error:
            # The libraries of storages raise exceptions of many kinds, one of which is kept.
            if not isinstance(error, OSError) and not is_of_library(error):
                raise
            problem, may_pass = explain(address, error, system, path)
            pause = min(_LONGEST_PAUSE, 0.2 * 2**number) * secrets.SystemRandom().uniform(0.5, 1)
            if not may_pass or time.monotonic() + pause > limit:
                raise problem from None
            if time.monotonic() + pause > quiet_until:
                quiet_until = math.inf
                # The same words for all files of a storage, as the same are shown once.
                storage = "/".join(str(address).split("/")[:3])
                warnings.warn(
                    f"{str(problem).replace(str(address), storage)}; trying again, for at least "
                    f"{_patience():g} seconds in all ({PATIENCE_VARIABLE})",
                    OculoxWarning,
                    stacklevel=1,
                )
        time.sleep(pause)
    raise AssertionError


def describe(address: Address) -> dict[str, Any] | None:
    """What a storage tells of a file or folder: its type, size, ETag and so on; None for nothing.

    Raises:
        AddressError: it cannot be asked.
    """
    try:
        return attempt(address, lambda system, path: dict(system.info(path)))
    except AbsentError:
        return None


def stamp_at(address: Address) -> int | None:
    """The time of change, in seconds, that a copy of a file gets; None for nothing there.

    Raises:
        AddressError: it cannot be asked.
    """
    about = describe(address)
    return None if about is None else stamp_of(about)


def download(address: Address, target: Path, *, size: int | None) -> None:
    """Fetch a file.

    Args:
        address: of the file.
        target: the file to write.
        size: in bytes, as the storage told; None where it does not.

    Raises:
        AddressError: it cannot be fetched.
        OculoxError: the disk is full.
    """

    def get(system: Any, path: str) -> None:
        try:
            system.get_file(path, str(target), callback=_until(_limit(size)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OculoxError(
                f"{address}: cannot be kept in {target.parent} ({error.strerror}); make room, or "
                "set OCULOX_CACHE to a folder on another disk"
            ) from None
        arrived = target.stat().st_size
        if size is not None and arrived != size:
            raise OSError(f"{arrived} bytes arrived, of {size}")

    attempt(address, get, size=size)


def stamp_of(about: Mapping[str, Any]) -> int:
    """A number for a content, by size and ETag; by size and time where there is no ETag.

    It fits into the time of change of a file, in whole seconds, where the cache keeps it: no
    second file has to be kept in step.
    """
    tags = [about[key] for key in ("ETag", "etag", "md5Hash", "blob_id") if about.get(key)]
    times = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created")
    known = [str(tag).strip('"') for tag in tags] or [str(about.get(key)) for key in times]
    return digest(f"{about.get('size')} {known[0] if tags else known}") >> 34


def digest(text: str) -> int:
    """64 bits of a hash of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def positive_number(variable: str, default: float) -> float:
    """A setting of the environment.

    Raises:
        UsageError: it is no positive number.
    """
    text = os.environ.get(variable, "")
    try:
        value = float(text or default)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise UsageError(f"{variable}: expected a positive number, got {text!r}")
    return value


def _until(deadline: float) -> Any:
    """A callback that ends a transfer which takes too long, even while bytes still come."""
    from fsspec.callbacks import Callback

    class Clock(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            if time.monotonic() > deadline:
                raise OSError("the transfer is too slow")

    return Clock()


def _limit(size: int | None) -> float:
    """The moment when a transfer of that many bytes has taken too long."""
    return time.monotonic() + _patience() + (size or 0) / _SLOWEST


def _patience() -> float:
    return positive_number(PATIENCE_VARIABLE, _PATIENCE)
