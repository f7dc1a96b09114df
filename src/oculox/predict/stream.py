"""Results of many images, one after the other, which know the image they belong to."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from oculox.addresses import Address, is_address
from oculox.errors import DataError, OculoxWarning
from oculox.predict.inputs import ColorOrder, images_in, load_image
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import Source, find_sources
from oculox.predict.video import read_frames
from oculox.types import Detections, ImageArray

Named = tuple[str | None, Any]
"""An image in any form, and the name of its source where the image itself does not tell it."""


class Images(NamedTuple):
    """What a source holds.

    images: one after the other; not read yet.
    ahead: whether the next ones can be taken before the results of the first are used.
    """

    images: Iterator[Named]
    ahead: bool


def find_images(source: object, *, recursive: bool = False) -> Images:
    """The images of a source; what is not there is an error at once, reading comes later.

    Args:
        source: what `find_sources` takes, a camera's number, or images in any form.
        recursive: look into the folders of folders.

    Raises:
        DataError: it does not exist or holds no image.
        UsageError: its suffix is not that of an image or video.
    """
    if isinstance(source, str | Path | Address | int):
        named_one = source if isinstance(source, Address) else str(source)
        found = find_sources([named_one], recursive=recursive)
        # The frames of a camera come when they come.
        ahead = all(one.kind != "camera" for one in found)
        return Images(chain.from_iterable(map(_images_of, found)), ahead)
    images = images_in(source)
    named = ((None, image) for image in ([source] if images is None else images))
    # A generator may wait for a result, or change the array that it gave before.
    return Images(named, isinstance(source, Sequence | np.ndarray | Tensor))


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
    ahead: bool,
    color: ColorOrder | None = None,
    skip_unreadable: bool = False,
) -> Iterator[Detections]:
    """Find objects in one image after the other.

    Args:
        pipeline: what finds objects.
        images: from `find_images`.
        batch: images at once.
        ahead: see `Pipeline.each`.
        color: of arrays and tensors; see `as_bgr`.
        skip_unreadable: warn of what cannot be read, and go on.

    Yields:
        The result of each image, which reads files again when its pixels are asked for and
        keeps those of everything else.

    Raises:
        DataError: one cannot be read.
        UsageError: one is not an image; the message gives its place.
    """
    read = partial(_read, color=color)
    results = pipeline.each(enumerate(images), read=read, finish=_finish, batch=batch, ahead=ahead)
    for _, result in results:
        if not isinstance(result, DataError):
            yield result
        elif skip_unreadable:
            warnings.warn(f"{result}; left out", OculoxWarning, stacklevel=2)
        else:
            raise result


class _Read(NamedTuple):
    """An image, the name of its source, and how its pixels are had again."""

    image: ImageArray
    source: str | None
    again: Callable[[], ImageArray]


def _read(numbered: tuple[int, Named], *, color: ColorOrder | None) -> _Read:
    place, (name, image) = numbered
    pixels = load_image(image, color=color, where=name or f"image {place}")
    if not isinstance(image, str | Path | Address):
        return _Read(pixels, name, partial(np.asarray, pixels))
    if isinstance(image, Address) or is_address(image):
        return _Read(pixels, str(image), partial(np.asarray, pixels))
    return _Read(pixels, str(image), partial(load_image, Path(image).absolute()))


def _finish(read: _Read, found: Detections) -> Detections:
    return dataclasses.replace(found, source=read.source, read=read.again)
