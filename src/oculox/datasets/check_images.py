"""The check's look at image files: present, readable, of which size, seen before."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from oculox.data.image import decode_image, read_header
from oculox.errors import DataError

Depth = Literal["exists", "header", "decode"]


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What is known about an image file.

    Attributes:
        problem: why it cannot be used; None when nothing was found.
        missing: whether the file is absent.
        hw: height and width, upright; None where not looked at.
        digest: SHA-256 of the bytes; None where not looked at.
    """

    problem: str | None = None
    missing: bool = False
    hw: tuple[int, int] | None = None
    digest: str | None = None


def examine(
    folder: Path,
    names: Iterable[str],
    *,
    depth: Depth,
    on_image: Callable[[], None] | None = None,
) -> dict[str, ImageFacts]:
    """Facts of images of a folder, by name.

    Args:
        folder: the image folder.
        names: file names relative to it, known to stay inside.
        depth: only whether they exist; size and completeness from the header; everything, by
            decoding them.
        on_image: called after each image, for progress.
    """
    unique = list(dict.fromkeys(names))
    facts: dict[str, ImageFacts] = {}
    # Reading and decoding leave the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        looked = pool.map(lambda name: look_at(folder / name, depth=depth), unique)
        for name, found in zip(unique, looked, strict=True):
            facts[name] = found
            if on_image is not None:
                on_image()
    return facts


def look_at(path: Path, *, depth: Depth) -> ImageFacts:
    """Facts of one image file; a damaged or absent one is a fact, not an error."""
    if depth == "exists":
        found = path.is_file()
        return ImageFacts(None if found else f"no such image: {path}", missing=not found)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return ImageFacts(f"no such image: {path}", missing=True)
    except OSError as error:
        return ImageFacts(f"{path}: cannot be read ({error.strerror or error})")
    header = read_header(data)
    # An EXIF turn swaps the sides, and some formats tell no size: then only decoding knows.
    sure = header.size_hw is not None and b"Exif\0\0" not in data[:65536]
    try:
        if depth == "decode" or header.truncated or not sure:
            height, width = decode_image(data, where=str(path)).shape[:2]
            size = height, width
        else:
            size = header.size_hw or (0, 0)
    except DataError as error:
        return ImageFacts(str(error).removeprefix(f"{path}: "))
    digest = hashlib.sha256(data).hexdigest() if depth == "decode" else None
    return ImageFacts(hw=size, digest=digest)
