"""Fetching published weights: resumable, verified before use, from a mirror where one is set.

Two environment variables are read, when something is fetched or looked up and never on import:

- ``OCULOX_CACHE``: the folder of downloaded files (default: ``oculox`` in the user's cache folder)
- ``OCULOX_MIRROR``: a URL (http, https or file) below which all files are looked for by name

Proxies and certificates are those of Python's `urllib` (``HTTPS_PROXY``, ``SSL_CERT_FILE``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import quote, unquote, urlparse

from oculox.errors import CheckpointError, OculoxError, UsageError
from oculox.version import __version__
from oculox.weights.catalogue import PublishedWeights, find_published, published_weights

CACHE_VARIABLE = "OCULOX_CACHE"
MIRROR_VARIABLE = "OCULOX_MIRROR"
Progress = Callable[[int, int | None], None]
"""Called with the bytes there are and, where the server tells, the bytes of the whole."""

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 4
_LARGEST = 4 << 30
_SCHEMES = ("https", "http", "file")


@dataclasses.dataclass(frozen=True)
class Downloaded:
    """A file of published weights on this machine.

    Attributes:
        path: the file.
        sha256: its checksum.
        verified: whether the checksum agrees with a published one.
    """

    path: Path
    sha256: str
    verified: bool


class _Source(NamedTuple):
    """An open download: its bytes from `start` on; `total` and `validator` where they are told."""

    stream: BinaryIO
    start: int
    total: int | None
    validator: str | None


class _Interrupted(Exception):  # noqa: N818 - a state of the transfer, never seen outside
    """The connection ended early; the same file can be continued."""


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder of downloaded weights."""
    values = os.environ if environment is None else environment
    if values.get(CACHE_VARIABLE):
        return Path(values[CACHE_VARIABLE]).expanduser()
    return Path(values.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "oculox"


def source_url(entry: PublishedWeights, environment: Mapping[str, str] | None = None) -> str:
    """Where a file is fetched from: the mirror where one is set, else its publisher."""
    values = os.environ if environment is None else environment
    mirror = values.get(MIRROR_VARIABLE)
    return f"{mirror.rstrip('/')}/{quote(entry.filename)}" if mirror else entry.url


def locate_weights(name_or_path: str | Path) -> Path:
    """The file that a command means: a path, or the cached file of published weights.

    A cached file is verified every time, so that a damaged one is never used.

    Raises:
        CheckpointError: published weights of that name are not downloaded, or are damaged.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_file() or all(entry.name != name for entry in published_weights()):
        return path
    entry = find_published(name)
    cached = cache_folder() / entry.filename
    if not cached.is_file():
        raise CheckpointError(
            f"'{name}' is no file here, and the published weights of that name are not "
            f"downloaded; run: oculox weights get {name}"
        )
    _verify(cached, entry)
    return cached


def fetch_weights(
    entry: PublishedWeights,
    *,
    folder: Path,
    url: str,
    allow_unverified: bool = False,
    progress: Progress | None = None,
) -> Downloaded:
    """Download published weights into a folder, or find them there, and verify them.

    An interrupted download is continued, by itself after a lost connection and by the next call
    otherwise. A file that fails verification is deleted.

    Args:
        entry: of the catalogue.
        folder: where the file goes, under its published name.
        url: where it comes from (see `source_url`).
        allow_unverified: accept a file whose publisher gives no checksum.
        progress: told how far it is.

    Raises:
        UsageError: no checksum is known and `allow_unverified` is not set, or the URL's scheme is
            none of https, http, file.
        CheckpointError: the file is not the published one.
        OculoxError: the server cannot be reached or has no such file, or the disk is full.
    """
    if entry.sha256 is None and not allow_unverified:
        raise UsageError(
            f"{entry.name} is not pinned: no published checksum; if you trust {url}, "
            "pass --allow-unverified"
        )
    if urlparse(url).scheme not in _SCHEMES:
        raise UsageError(f"{url}: expected a URL with {', '.join(_SCHEMES)}")
    target = folder / entry.filename
    if target.is_file():
        with contextlib.suppress(CheckpointError):
            return _verify(target, entry)
    part = folder / f"{entry.filename}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _transfer(url, part, pinned=entry.sha256 is not None, progress=progress)
        result = _verify(part, entry, called=url)
        part.replace(target)
        _recorded(target).write_text(f"{result.sha256}  {target.name}\n", "utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise OculoxError(f"{target}: could not be written ({reason})") from error
    _state_of(part).unlink(missing_ok=True)
    return dataclasses.replace(result, path=target)


def _transfer(url: str, part: Path, *, pinned: bool, progress: Progress | None) -> None:
    failures, before = 0, -1
    while True:
        try:
            _continue(url, part, pinned=pinned, progress=progress)
            return
        except _Interrupted as stop:
            there = part.stat().st_size if part.is_file() else 0
            failures, before = (failures + 1 if there <= before else 1), there
            if failures >= _ATTEMPTS:
                kept = f"{there} bytes are kept: run the same command again to go on, or "
                raise OculoxError(
                    f"{url}: {stop}; {kept if there else ''}"
                    f"set {MIRROR_VARIABLE} to a mirror that you can reach"
                ) from None
            time.sleep(0.5 * failures)


def _continue(url: str, part: Path, *, pinned: bool, progress: Progress | None) -> None:
    """Fetch what is missing of a file."""
    have, validator = _resumable(part, url, pinned=pinned)
    with _open(url, have, validator) as source:
        _state_of(part).write_text(json.dumps({"url": url, "validator": source.validator}), "utf-8")
        done = source.start
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            file.truncate()
            while chunk := _read(source.stream):
                done += len(chunk)
                if done > (source.total or _LARGEST):
                    raise OculoxError(f"{url}: sends more than it announced; not the file")
                file.write(chunk)
                if progress is not None:
                    progress(done, source.total)
    if source.total is not None and done < source.total:
        raise _Interrupted(f"the connection ended after {done} of {source.total} bytes")


def _resumable(part: Path, url: str, *, pinned: bool) -> tuple[int, str | None]:
    """Bytes of an earlier attempt that can be kept, and what tells that the file is the same."""
    try:
        state = json.loads(_state_of(part).read_text("utf-8"))
        size = part.stat().st_size
    except (OSError, ValueError):
        return 0, None
    if not isinstance(state, dict) or state.get("url") != url:
        return 0, None
    validator = state.get("validator")
    # Without a validator only a checksum would notice that the file has changed meanwhile.
    return (size, validator) if validator or pinned else (0, None)


@contextlib.contextmanager
def _open(url: str, have: int, validator: str | None) -> Iterator[_Source]:
    parsed = urlparse(url)
    if parsed.scheme == "file":
        path = Path(unquote(parsed.path))
        if not path.is_file():
            raise OculoxError(f"{url}: no such file")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = file.seek(min(have, size))
            yield _Source(file, start, size, None)
        return
    headers = {"User-Agent": f"oculox/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - scheme checked
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            # What is there is no beginning of the file.
            with _open(url, 0, None) as source:
                yield source
            return
        raise _refused(url, error) from None
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise _Interrupted(f"cannot be reached ({getattr(error, 'reason', error)})") from None
    with response:
        if parsed.scheme == "https" and urlparse(response.url).scheme != "https":
            raise OculoxError(f"{url}: leads to an unencrypted address, {response.url}")
        start = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        told = response.headers.get("Content-Range", f"bytes {start}-")
        if start and not told.startswith(f"bytes {start}-"):
            raise OculoxError(f"{url}: asked for the bytes from {start} on, was sent '{told}'")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        yield _Source(response, start, total, None if tag and tag.startswith("W/") else tag)


def _refused(url: str, error: urllib.error.HTTPError) -> Exception:
    what = f"the server answered {error.code} ({error.reason})"
    if error.code >= 500 or error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
        return _Interrupted(what)
    return OculoxError(f"{url}: {what}")


def _read(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_CHUNK)
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _Interrupted(f"the connection was lost ({error})") from None


def _verify(path: Path, entry: PublishedWeights, *, called: str | None = None) -> Downloaded:
    """Compare a file with the published checksum and the one recorded when it was fetched."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    recorded = _recorded(path)
    known = [recorded.read_text("utf-8").split()[0]] if recorded.is_file() else []
    for expected in (*([entry.sha256] if entry.sha256 else []), *known):
        if not found.startswith(expected):
            path.unlink()
            _state_of(path).unlink(missing_ok=True)
            raise CheckpointError(
                f"{called or path}: not the published {entry.name}: its SHA-256 should start with "
                f"{expected}, is {found}; the file was deleted"
            )
    return Downloaded(path, found, entry.sha256 is not None)


def _recorded(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _state_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")
