"""Images in, detections in the pixels of those images out."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from oculox.data.preprocess import boxes_to_source, preprocess
from oculox.errors import UsageError
from oculox.postprocess import DetectSettings
from oculox.predict.inputs import ColorOrder, as_bgr
from oculox.runtime.backend import Backend
from oculox.runtime.timing import Stopwatch
from oculox.types import Detections, ImageArray


class Pipeline:
    """Letterbox, network, post-processing and the way back to source pixels.

    Arrays are BGR, as OpenCV reads images, unless a call says ``color="rgb"``.

    Args:
        backend: the network.
        settings: thresholds and class filter.
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
        size_hw: tuple[int, int] | None = None,
        batch: int = 8,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch must be at least 1, got {batch}")
        self.backend = backend
        self.settings = settings or DetectSettings()
        self.input_config = backend.spec.input.at(backend.spec.check_size(size_hw))
        self.batch = batch
        backend.spec.check_classes(self.settings.class_ids)

    def with_settings(self, settings: DetectSettings) -> Pipeline:
        """The same pipeline with other thresholds; this one stays as it is.

        Raises:
            UsageError: a class of the filter is unknown.
        """
        self.backend.spec.check_classes(settings.class_ids)
        changed = copy.copy(self)
        changed.settings = settings
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
        found: list[Detections] = []
        for start in range(0, len(arrays), self.batch):
            found += self._detect(arrays[start : start + self.batch], watch)
        watch.count(len(arrays))
        return found

    def _detect(self, images: list[ImageArray], watch: Stopwatch) -> list[Detections]:
        with watch.stage("preprocess"):
            stacked, geometries = preprocess(images, self.input_config)
        found = self.backend.detect(stacked, self.settings, watch=watch)
        with watch.stage("postprocess"):
            return [
                dataclasses.replace(result, xyxy=boxes_to_source(result.xyxy, geometry))
                for result, geometry in zip(found, geometries, strict=True)
            ]
