"""What to predict on: images, folders, patterns, standard input, addresses, videos and cameras.

Two steps: `find_sources` names everything and fails at once on what does not exist;
`read_source` then decodes one of them.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal
from urllib.parse import urlsplit

from oculox.addresses import (
    WEB_PREFIXES,
    Address,
    Found,
    Location,
    as_text,
    fetch_ahead,
    forget_changed,
    is_address,
    list_files,
    local_copy,
    to_location,
)
from oculox.data.image import IMAGE_SUFFIXES, decode_image, read_file, read_header
from oculox.errors import DataError, UsageError, first_line, system_error
from oculox.types import ImageArray

VIDEO_SUFFIXES = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"))
STREAM_PREFIXES = ("rtsp://", "rtmp://", *WEB_PREFIXES)
STDIN = "-"
MAX_DOWNLOAD = 100 << 20
"""Most bytes of an image from the web."""
_TIMEOUT_SECONDS = 10
_AHEAD = 32
"""Images that are fetched from a storage at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One thing to predict on, known to exist but not read yet.

    Attributes:
        kind: ``image``, ``stdin`` (one encoded image), ``video`` or ``camera``.
        name: as the user would recognise it.
        path: the file; None for the others.
        address: camera number or stream address for ``camera``; of an image on the web or in a
            storage.
    """

    kind: Literal["image", "stdin", "video", "camera"]
    name: str
    path: Path | None = None
    address: int | str | Address | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedImage:
    """A decoded image.

    Attributes:
        source: where it came from.
        image: uint8 (H, W, 3), BGR, upright.
        truncated: whether the end of its file is missing, and with it a part of the pixels.
    """

    source: Source
    image: ImageArray
    truncated: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that could not be read, and why."""

    source: Source
    error: DataError


def find_sources(given: Iterable[str | Location], *, recursive: bool = False) -> tuple[Source, ...]:
    """Resolve what the user named.

    Args:
        given: image or video files; folders; patterns such as ``shots/*.jpg`` (``**`` for any
            depth); ``-`` for one encoded image on standard input; a camera's number; the
            address of a stream (``rtsp://...``), of an image on the web, or of a file or folder in
            a storage (``s3://...``).
        recursive: look into the folders of folders as well.

    Returns:
        The sources in the order given, those of a folder or pattern sorted; an image named
        twice comes once.

    Raises:
        DataError: when something does not exist or holds no image.
        UsageError: when nothing was given, or a file's suffix is not that of an image or video.
    """
    found: dict[object, Source] = {}
    for item in given:
        for source in _resolve(item, recursive):
            key = source.path.resolve() if source.path else source.name
            found.setdefault(key, source)
    if not found:
        raise UsageError("no sources given: name images, folders, patterns, a video or a camera")
    return tuple(found.values())


def list_images(given: Sequence[str | Path], *, recursive: bool = False) -> Iterator[str]:
    """The addresses of images, one after the other: any number of them.

    Args:
        given: what `find_sources` takes, but for standard input, videos, cameras and streams.
        recursive: look into the folders of folders as well.

    Yields:
        Files by their absolute paths; those of a folder sorted, then those of the folders in it.
        An image named twice comes once.

    Raises:
        DataError: when something does not exist, cannot be listed or holds no image.
        UsageError: when nothing was given, or something that is no image.
    """
    if not given:
        raise UsageError("no sources given: name images, folders or patterns")
    seen: set[str] = set()
    for item in given:
        for address in _image_addresses(str(item), recursive):
            # A single source names nothing twice, and may be too long to remember.
            if len(given) == 1:
                yield address
            elif address not in seen:
                seen.add(address)
                yield address


def _image_addresses(item: str, recursive: bool) -> Iterator[str]:
    if is_address(item) and not item.startswith(STREAM_PREFIXES):
        address = to_location(item)
        assert isinstance(address, Address)
        if address.suffix.lower() in IMAGE_SUFFIXES:
            yield item
        else:
            yield from (file.address.text for file in _stored_images(address, recursive))
        return
    if not os.path.isdir(item):  # noqa: PTH112 - of a name that is too long it says no
        for source in _resolve(item, recursive):
            if source.kind != "image":
                raise UsageError(f"{source.name}: expected images, this is a {source.kind}")
            yield source.name if source.path is None else str(source.path.absolute())
        return

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: this folder cannot be listed ({error.strerror})")

    found = False
    for folder, folders, names in os.walk(Path(item).absolute(), onerror=refuse):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(names):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                found = True
                yield str(Path(folder, name))
    if not found:
        raise _no_images(Path(item), recursive)


def _stored_images(folder: Address, recursive: bool) -> Iterator[Found]:
    found = False
    for file in list_files(folder, recursive=recursive):
        if file.address.suffix.lower() in IMAGE_SUFFIXES:
            found = True
            yield file
    if not found:
        raise _no_images(folder, recursive)


def read_source(source: Source, *, stdin: BinaryIO | None = None) -> LoadedImage:
    """Decode an image; of a truncated JPEG what there is of it.

    Args:
        source: from `find_sources`, of kind ``image`` or ``stdin``.
        stdin: read for the source ``-``; standard input if None.

    Raises:
        DataError: it cannot be read.
    """
    if source.kind == "stdin":
        data, where = (stdin or sys.stdin.buffer).read(), "standard input"
    elif source.path is not None:
        data, where = read_file(source.path), str(source.path)
    elif isinstance(source.address, Address):
        data, where = read_file(source.address), source.name
    else:
        data, where = download(str(source.address)), source.name
    image = decode_image(data, where=where, allow_truncated=True)
    return LoadedImage(source=source, image=image, truncated=read_header(data).truncated)


def _resolve(item: str | Location, recursive: bool) -> list[Source]:
    text = as_text(to_location(item))
    try:
        return _sources(text, recursive)
    except OSError as error:
        raise DataError(
            f"{error.filename or text}: cannot be read ({error.strerror or error})"
        ) from None


def _sources(item: str, recursive: bool) -> list[Source]:
    if item == STDIN:
        return [Source(kind="stdin", name="stdin")]
    if is_address(item) and not item.startswith(STREAM_PREFIXES):
        return _in_storage(Address(item), recursive)
    path = Path(item)
    if path.is_dir():
        return _folder(path, recursive)
    if path.exists():
        return [_file(path)]
    if item.isdecimal():
        return [Source(kind="camera", name=f"camera-{item}", address=int(item))]
    if item.startswith(WEB_PREFIXES) and _is_web_image(item):
        return [Source(kind="image", name=item, address=item)]
    if item.startswith(STREAM_PREFIXES):
        return [Source(kind="camera", name=item, address=item)]
    if glob.has_magic(item):
        # A name with brackets that exists was taken above: it is not a pattern.
        matches = [Path(m) for m in sorted(glob.glob(item, recursive=True))]  # noqa: PTH207
        files = [m for m in matches if m.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
        if not files:
            raise DataError(f"{item}: no image or video matches this pattern")
        return [_file(m) for m in files]
    raise DataError(f"{item}: no such file or folder")


def _in_storage(address: Address, recursive: bool) -> list[Source]:
    """A file, of which videos are fetched now, or the images of a folder."""
    suffix = address.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return [Source(kind="video", name=str(address), path=local_copy(address))]
    if suffix in IMAGE_SUFFIXES:
        local_copy(address)
        return [Source(kind="image", name=str(address), address=address)]
    found = list(_stored_images(address, recursive))
    forget_changed(found)
    return [Source(kind="image", name=str(f.address), address=f.address) for f in found]


def fetching(sources: Iterable[Source]) -> Iterator[Source]:
    """The sources; images in storages are fetched while those before them are worked on."""
    ahead: deque[Source] = deque()
    for source in sources:
        if isinstance(source.address, Address):
            fetch_ahead([source.address])
        ahead.append(source)
        if len(ahead) > _AHEAD:
            yield ahead.popleft()
    yield from ahead


def _folder(folder: Path, recursive: bool) -> list[Source]:
    entries = folder.rglob("*") if recursive else folder.iterdir()
    files = sorted(e for e in entries if e.suffix.lower() in IMAGE_SUFFIXES and e.is_file())
    if not files:
        raise _no_images(folder, recursive)
    return [_file(f) for f in files]


def _no_images(folder: Location, recursive: bool) -> DataError:
    hint = "" if recursive else " (folders inside it are searched only with `recursive`)"
    return DataError(f"{folder}: no images in this folder{hint}")


def _file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Source(kind="video", name=str(path), path=path)
    if suffix in IMAGE_SUFFIXES:
        return Source(kind="image", name=str(path), path=path)
    raise UsageError(
        f"{path}: {suffix or 'a file without suffix'} is not an image or video that can be read "
        f"(images: {' '.join(sorted(IMAGE_SUFFIXES))}; videos: "
        f"{' '.join(sorted(VIDEO_SUFFIXES))})"
    )


def _is_web_image(url: str) -> bool:
    """Whether the server says that this is an image; its suffix where nothing comes from there."""
    import requests

    looks_so = PurePosixPath(urlsplit(url).path).suffix.lower() in IMAGE_SUFFIXES

    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            kind: str = response.headers.get("Content-Type", "")
            return kind.lower().startswith("image/") if response.ok else looks_so
    except requests.RequestException:
        return looks_so


def download(url: str) -> bytes:
    """The bytes of an image on the web.

    Raises:
        DataError: it cannot be downloaded, or is larger than `MAX_DOWNLOAD`.
    """
    import requests

    data, handled = bytearray(), sys.exception()
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            for chunk in response.iter_content(1 << 16):
                data += chunk
                if len(data) > MAX_DOWNLOAD:
                    raise DataError(
                        f"{url}: the image is larger than {MAX_DOWNLOAD >> 20} MiB; download it "
                        "and name the file"
                    )
    except requests.RequestException as error:
        why = first_line(system_error(error, handled=handled))
        raise DataError(f"{url}: the image cannot be downloaded ({why})") from None
    return bytes(data)
