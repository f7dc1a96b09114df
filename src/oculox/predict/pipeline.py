"""Images in, detections in the pixels of those images out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Iterator, MutableSequence, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

from oculox.distributed.ahead import usable_threads, work_ahead
from oculox.errors import DataError
from oculox.postprocess import DetectSettings
from oculox.predict.inputs import ColorOrder, as_bgr
from oculox.runtime.backend import Backend
from oculox.runtime.timing import StageTimes, Stopwatch
from oculox.runtime.views import ImageDetector, Views
from oculox.types import Detections, ImageArray


class Loaded(Protocol):
    """What was read: its image, uint8 (H, W, 3), BGR, and whatever belongs to it."""

    @property
    def image(self) -> ImageArray:
        """The pixels."""


T = TypeVar("T")
L = TypeVar("L", bound=Loaded)
R = TypeVar("R")


class Pipeline:
    """An `ImageDetector` for images of any kind.

    Arrays are BGR, as OpenCV reads images, unless a call says ``color="rgb"``.

    Args:
        backend: the network.
        settings: thresholds and class filter.
        views: how each image is looked at; by default once.
        size_hw: input height and width; None for the network's own.
        batch: most images that go through the network at once.

    Raises:
        UsageError: when the network does not take that size, or a class of the filter is
            unknown.
    """

    def __init__(
        self,
        backend: Backend,
        settings: DetectSettings | None = None,
        *,
        views: Views | None = None,
        size_hw: tuple[int, int] | None = None,
        batch: int = 8,
    ) -> None:
        self.backend = backend
        self.settings = settings or DetectSettings()
        self.views = views or Views()
        self.batch = batch
        self._detector = ImageDetector(
            backend, self.settings, views=self.views, size_hw=size_hw, batch=batch
        )

    def with_settings(self, settings: DetectSettings) -> Pipeline:
        """The same pipeline with other thresholds; this one stays as it is.

        Raises:
            UsageError: a class of the filter is unknown.
        """
        changed = copy.copy(self)
        changed.settings = settings
        changed._detector = self._detector.with_settings(settings)
        return changed

    def each(
        self,
        items: Iterable[T],
        *,
        read: Callable[[T], L],
        finish: Callable[[L, Detections], R],
        batch: int | None = None,
        ahead: bool = True,
        rounds: MutableSequence[StageTimes] | None = None,
    ) -> Iterator[tuple[T, R | DataError]]:
        """Read one item after the other, find objects and finish; several at once, in threads.

        The first batch goes alone: a short list needs no threads.

        Args:
            items: taken in the caller's thread.
            read: gives an item's image; a DataError is the item's result.
            finish: what to do with an image and its detections, such as drawing.
            batch: items that go through the network at once; that of the pipeline by default.
            ahead: false to begin with a batch only when the one before is done.
            rounds: gets the times of every batch.

        Yields:
            Each item, in order, with its result.
        """
        given = _chunks(items, batch or self.batch)
        threads = usable_threads() if ahead else 1

        def work(
            pipeline: Pipeline, chunk: tuple[list[T], Stopwatch]
        ) -> tuple[list[tuple[T, R | DataError]], StageTimes]:
            taken, watch = chunk
            with watch.stage("decode"):
                loaded = [_or_error(read, item) for item in taken]
            good = [one.image for one in loaded if not isinstance(one, DataError)]
            found = iter(pipeline(good, watch=watch))
            results = [
                one if isinstance(one, DataError) else finish(one, next(found)) for one in loaded
            ]
            return list(zip(taken, results, strict=True)), watch.times()

        def done() -> Generator[tuple[list[tuple[T, R | DataError]], StageTimes], None, None]:
            for chunk in islice(given, 1):
                yield work(self, chunk)
            for chunk in islice(given, 1):
                shared = partial(work, self._for_threads(threads))
                yield from work_ahead(shared, chain([chunk], given), threads=threads)

        with closing(done()) as batches:
            for results, times in batches:
                if rounds is not None:
                    rounds.append(times)
                yield from results

    def _for_threads(self, threads: int) -> Pipeline:
        changed = copy.copy(self)
        changed._detector = self._detector.for_threads(threads)
        return changed

    def __call__(
        self,
        images: Sequence[Any],
        *,
        color: ColorOrder | None = None,
        watch: Stopwatch | None = None,
    ) -> list[Detections]:
        """Find objects in images of any sizes.

        Args:
            images: what `as_bgr` takes, such as uint8 arrays (H, W, 3).
            color: see `as_bgr`.
            watch: counts the stages.

        Returns:
            One result per image, in order, in its own pixels and clipped to it.

        Raises:
            UsageError: when one is not an image; the message gives its place in the list.
        """
        watch = watch or Stopwatch()
        with watch.stage("preprocess"):
            arrays = [
                as_bgr(image, color=color, where=f"image {i}") for i, image in enumerate(images)
            ]
        found = self._detector(arrays, watch=watch)
        watch.count(len(arrays))
        return found


def _chunks(items: Iterable[T], size: int) -> Iterator[tuple[list[T], Stopwatch]]:
    """Lists of `size` items, and the time it took to get them."""
    rest = iter(items)
    while True:
        watch = Stopwatch()
        with watch.stage("decode"):
            chunk = list(islice(rest, size))
        if not chunk:
            return
        yield chunk, watch


def _or_error(read: Callable[[T], L], item: T) -> L | DataError:
    try:
        return read(item)
    except DataError as error:
        return error
