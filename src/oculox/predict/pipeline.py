"""Images in, detections in the pixels of those images out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from oculox.postprocess import DetectSettings
from oculox.predict.inputs import ColorOrder, as_bgr
from oculox.runtime.backend import Backend
from oculox.runtime.timing import Stopwatch
from oculox.runtime.views import ImageDetector, Views
from oculox.types import Detections


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
