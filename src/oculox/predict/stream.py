"""Results of many images, one after the other, which know the image they belong to."""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from oculox.errors import DataError
from oculox.predict.inputs import ColorOrder, images_in, load_image
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import WEB_PREFIXES, Source, find_sources
from oculox.predict.video import read_frames
from oculox.types import Detections, ImageArray

Named = tuple[str | None, Any]
"""An image in any form, and the name of its source where the image itself does not tell it."""


def find_images(source: object, *, recursive: bool = False) -> Iterator[Named]:
    """The images of a source; what is not there is an error at once, reading comes later.

    Args:
        source: what `find_sources` takes, a camera's number, or images in any form.
        recursive: look into the folders of folders.

    Raises:
        DataError: it does not exist or holds no image.
        UsageError: its suffix is not that of an image or video.
    """
    if isinstance(source, str | Path | int):
        found = find_sources([str(source)], recursive=recursive)
        return chain.from_iterable(map(_images_of, found))
    images = images_in(source)
    return ((None, image) for image in ([source] if images is None else images))


def _images_of(source: Source) -> Iterable[Named]:
    if source.kind in ("video", "camera"):
        return ((source.name, frame) for frame in read_frames(source))
    if source.kind == "stdin":
        return [(source.name, sys.stdin.buffer)]
    return [(None, source.path or source.address)]


def detect_each(
    pipeline: Pipeline,
    images: Iterable[Named],
    *,
    batch: int,
    color: ColorOrder | None = None,
    skip_unreadable: bool = False,
) -> Iterator[Detections]:
    """Find objects in one image after the other; no more than a batch is in memory.

    Args:
        pipeline: what finds objects.
        images: from `find_images`.
        batch: images at once.
        color: of arrays and tensors; see `as_bgr`.
        skip_unreadable: warn of what cannot be read, and go on.

    Yields:
        The result of each image, which reads files again when its pixels are asked for and
        keeps those of everything else.

    Raises:
        DataError: one cannot be read.
        UsageError: one is not an image; the message gives its place.
    """
    numbered = enumerate(images)
    while chunk := list(islice(numbered, batch)):
        pixels: list[ImageArray] = []
        origins: list[dict[str, Any]] = []
        for i, (name, image) in chunk:
            try:
                pixels.append(load_image(image, color=color, where=name or f"image {i}"))
            except DataError as error:
                if not skip_unreadable:
                    raise
                warnings.warn(f"{error}; left out", stacklevel=2)
                continue
            named = isinstance(image, str | Path)
            again = named and not str(image).startswith(WEB_PREFIXES)
            origins.append(
                {
                    "source": str(image) if named else name,
                    "read": functools.partial(load_image, Path(image).absolute())
                    if again
                    else functools.partial(np.asarray, pixels[-1]),
                }
            )
        for found, origin in zip(pipeline(pixels), origins, strict=True):
            yield dataclasses.replace(found, **origin)
