"""Downloads of published weights: verified before use, from a mirror where one is set.

``OCULOX_MIRROR`` is a URL (http, https or file) of a folder with the same files. It is read when
something is fetched and never on import, as is `oculox.files.cache_folder`.

Proxies and certificates are those of `requests` (``HTTPS_PROXY``, ``REQUESTS_CA_BUNDLE``).
"""

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlparse
from urllib.request import url2pathname

from oculox.addresses import Address, Location, local_copy, local_folder, to_location
from oculox.distributed.launch import is_main_process
from oculox.errors import CheckpointError, OculoxError, UsageError, first_line, system_error
from oculox.files import cache_errors, cache_folder, file_sha256, scratch_beside, write_text
from oculox.version import __version__
from oculox.weights.catalogue import PublishedWeights, find_published, published_weights

MIRROR_VARIABLE = "OCULOX_MIRROR"
Progress = Callable[[int, int | None], None]
"""That of `oculox.types`, without which `oculox weights list` needs no numpy."""

_FREE_LICENSE = "Apache-2.0"
"""Of the weights that are fetched without being asked for."""
_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 30
_RETRIES = 3
_BUSY = (429, 500, 502, 503, 504)
_LARGEST = 4 << 30
_FOLDERS = (".ncnn", ".mlpackage")
"""Suffixes of exported models that are folders."""
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


def source_url(entry: PublishedWeights) -> str:
    """Where a file is fetched from: the mirror where one is set, else its publisher."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    return f"{mirror.rstrip('/')}/{quote(entry.filename)}" if mirror else entry.url


def locate_weights(name_or_path: str | Location) -> Path:
    """The file that a command means: a path, or the cached file of an address or published weights.

    Published weights under Apache-2.0 are fetched where they are not here yet, and a line on
    standard error says so. A cached file is verified every time, so that a damaged one is never
    used.

    Raises:
        UsageError: it is the folder of a run.
        CheckpointError: a name without suffix is neither a file nor that of published weights; or
            the published weights have another license or no checksum, and are not here; or the
            file is not the published one.
        OculoxError: they cannot be fetched.
    """
    place = to_location(name_or_path)
    if isinstance(place, Address):
        return _from_address(place)
    path, name = place, str(place)
    if (best := path / "best.pt").is_file():
        raise UsageError(f"{path}: the folder of a run, where a model is expected; name {best}")
    known = any(entry.name == name for entry in published_weights())
    if path.is_file() or (not known and (path.exists() or path.suffix or path.name != name)):
        return path
    try:
        entry = find_published(name)
    except UsageError as error:
        raise CheckpointError(f"{name}: no such file, and {error}") from None
    cached = cache_folder() / entry.filename
    with cache_errors():
        is_here = cached.is_file()
    if is_here:
        _verify_cached(cached, entry)
        return cached
    if entry.license != _FREE_LICENSE or entry.sha256 is None:
        reason = f"are {entry.license}" if entry.sha256 else "have no published checksum"
        raise CheckpointError(
            f"'{name}' is not a file here; the published weights of that name {reason} and are "
            f"fetched only when asked for: oculox weights get {name}"
        )
    url = source_url(entry)
    with show_download(f"fetching {name} ({entry.license}) from {url}") as progress:
        return fetch_weights(entry, folder=cached.parent, url=url, progress=progress).path


def _from_address(address: Address) -> Path:
    if address.suffix in _FOLDERS:
        return local_folder(address)
    if address.suffix == ".xml":  # OpenVINO keeps the weights beside it
        local_copy(address.parent / f"{address.stem}.bin")
    return local_copy(address)


@contextlib.contextmanager
def show_download(title: str) -> Iterator[Progress]:
    """A line on standard error and, where that is a terminal, a bar below it.

    Yields:
        A function to call with the bytes received and, where known, the size of the file.
    """
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True, emoji=False, quiet=not is_main_process())
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    with rich.Progress(
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def fetch_weights(
    entry: PublishedWeights,
    *,
    folder: Path,
    url: str,
    allow_unverified: bool = False,
    progress: Progress | None = None,
) -> Downloaded:
    """Download published weights into a folder, or find them there, and verify them.

    The file appears in the folder only after it has been verified. One that is there and differs
    is never replaced.

    Args:
        entry: of the catalogue.
        folder: where the file goes, under its published name.
        url: where it comes from (see `source_url`).
        allow_unverified: accept a file whose publisher gives no checksum.
        progress: called with the bytes received and, where the server sends it, the file's size;
            after each part.

    Raises:
        UsageError: no checksum is known and `allow_unverified` is not set, or the URL's scheme is
            not https, http or file.
        CheckpointError: the file is not the published one.
        OculoxError: the server cannot be reached or has no such file, or the disk is full.
    """
    if entry.sha256 is None and not allow_unverified:
        raise UsageError(
            f"{entry.name} is not pinned: no published checksum; if you trust {url}, "
            "pass `allow_unverified`"
        )
    if urlparse(url).scheme not in _SCHEMES:
        raise UsageError(f"{url}: expected a URL with {', '.join(_SCHEMES)}")
    target = folder / entry.filename
    if target.is_file():
        return Downloaded(target, _verify_cached(target, entry), entry.sha256 is not None)
    wanted = "it" if url == entry.url else entry.url
    otherwise = (
        f"download {wanted} elsewhere and put it at {target}, or set {MIRROR_VARIABLE} to a mirror"
    )
    with scratch_beside(target) as scratch:
        part = scratch / target.name
        if urlparse(url).scheme == "file":
            _copy(url, part, otherwise=otherwise)
        else:
            _download(url, part, otherwise=otherwise, progress=progress)
        sha256 = _verify(
            part, [entry.sha256], where=url, entry=entry, otherwise=f"nothing was kept; {otherwise}"
        )
        part.replace(target)
    write_text(_recorded(target), f"{sha256}  {target.name}\n")
    return Downloaded(target, sha256, entry.sha256 is not None)


def _copy(url: str, part: Path, *, otherwise: str) -> None:
    source = Path(url2pathname(urlparse(url).path))
    if not source.is_file():
        raise OculoxError(f"{url}: no such file; {otherwise}")
    shutil.copyfile(source, part)


def _download(url: str, part: Path, *, otherwise: str, progress: Progress | None) -> None:
    # Imported here: most commands download nothing.
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    retries = Retry(
        _RETRIES,
        backoff_factor=0.5,
        status_forcelist=_BUSY,
        raise_on_status=False,
        respect_retry_after_header=False,  # it may ask for hours
    )
    handled = sys.exception()
    try:
        with requests.Session() as session:
            session.adapters.clear()  # a redirect to a scheme without adapter is refused
            for prefix in ("https://", "http://")[: 1 if url.startswith("https:") else 2]:
                session.mount(prefix, HTTPAdapter(max_retries=retries))
            session.headers["User-Agent"] = f"oculox/{__version__}"
            with (
                session.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response,
                part.open("wb") as file,
            ):
                if not response.ok:
                    answer = f"{response.status_code} ({response.reason})"
                    raise OculoxError(f"{url}: the server answered {answer}; {otherwise}")
                total = int(response.headers.get("Content-Length", 0)) or None
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    if file.tell() > _LARGEST:
                        raise OculoxError(f"{url}: larger than {_LARGEST} bytes; not the file")
                    if progress is not None:
                        progress(file.tell(), total)
    except requests.exceptions.InvalidSchema as error:
        raise OculoxError(f"{url}: leads to a URL that is not encrypted ({error})") from None
    except requests.exceptions.RequestException as error:
        why = first_line(system_error(error, handled=handled))
        raise OculoxError(f"{url}: cannot be downloaded ({why}); try again, {otherwise}") from None


def _verify_cached(path: Path, entry: PublishedWeights) -> str:
    """Compare with the published checksum and the recorded one.

    A file that differs is kept: the user may have put it there.
    """
    recorded = _recorded(path)
    known = recorded.read_text("utf-8").split()[0] if recorded.is_file() else None
    otherwise = (
        "it was left as it is. Delete or replace it; weights of your own are named by their path, "
        "outside of the cache"
    )
    expected = [entry.sha256, known]
    return _verify(path, expected, where=str(path), entry=entry, otherwise=otherwise)


def _verify(
    path: Path, expected: list[str | None], *, where: str, entry: PublishedWeights, otherwise: str
) -> str:
    """The SHA-256 of a file, which must start with each of the expected ones."""
    found = file_sha256(path)
    for digits in filter(None, expected):
        if not found.startswith(digits):
            raise CheckpointError(
                f"{where}: not the published {entry.name}: its SHA-256 should begin with "
                f"{digits}, is {found}; {otherwise}"
            )
    return found


def _recorded(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
