"""From images to detections in their own pixels: in one view, or in several that are merged.

Prediction and evaluation both come through here, so that they find the same.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, Self, get_args

import cv2
import numpy as np

from oculox.data.preprocess import boxes_to_source, preprocess
from oculox.data.tiles import Tiling, Window
from oculox.errors import UsageError
from oculox.ops.merging import find_parts, fuse_boxes
from oculox.postprocess import DetectSettings, narrow_detections
from oculox.runtime.backend import Backend
from oculox.runtime.timing import Stopwatch
from oculox.types import Detections, FloatArray, ImageArray

Tta = Literal["flip", "full"]
"""Test-time augmentation: an image and its mirror image; or both, each at three input sizes."""

SCALES = (0.83, 1.0, 1.17)
"""Input sizes of ``full`` as shares of the given one; they are rounded to whole strides."""

VIEW_CONF = 0.01
"""Lowest score of a box in one view: several views that find something weakly count too."""

EDGE = 1 / 64
"""A box is cut when it ends nearer to a tile's inner edge than this share of the tile's side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """How an image is looked at; by default once, as it is.

    Attributes:
        tta: test-time augmentation, whose boxes are fused.
        tiling: look at each tile of an image that is larger than one, and at the whole.

    Raises:
        UsageError: when there is no such augmentation.
    """

    tta: Tta | None = None
    tiling: Tiling | None = None

    def __post_init__(self) -> None:
        """Check the name."""
        if self.tta is not None and self.tta not in get_args(Tta):
            raise UsageError(f"tta must be one of {', '.join(get_args(Tta))}, got {self.tta!r}")


class ImageDetector:
    """Letterbox, network, post-processing and the way back to source pixels.

    Args:
        backend: the network.
        settings: thresholds and class filter, of the merged boxes too.
        views: how each image is looked at.
        size_hw: input height and width; None for the network's own.
        batch: most views that go through the network at once.
        clip: move boxes inside their image.

    Raises:
        UsageError: when the network does not take a size that is needed, or a class of the filter
            is unknown.
    """

    def __init__(
        self,
        backend: Backend,
        settings: DetectSettings,
        *,
        views: Views,
        size_hw: tuple[int, int] | None = None,
        batch: int = 8,
        clip: bool = True,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch must be at least 1, got {batch}")
        self._backend, self._settings, self._views = backend, settings, views
        self._batch, self._clip = batch, clip
        self._sizes = input_sizes(backend, size_hw, views.tta)
        backend.spec.check_classes(settings.class_ids)

    def with_settings(self, settings: DetectSettings) -> Self:
        """The same detector with other thresholds; this one stays as it is.

        Raises:
            UsageError: a class of the filter is unknown.
        """
        self._backend.spec.check_classes(settings.class_ids)
        changed = copy.copy(self)
        changed._settings = settings
        return changed

    def for_threads(self, threads: int) -> Self:
        """The same detector with `Backend.for_threads`; together they take no more memory."""
        changed = copy.copy(self)
        changed._backend = self._backend.for_threads(threads)
        if changed._backend.side_by_side:
            changed._batch = max(1, self._batch // threads)
        return changed

    def __call__(self, images: Sequence[ImageArray], *, watch: Stopwatch) -> list[Detections]:
        """Find objects.

        Args:
            images: uint8 (H, W, 3) of any sizes, BGR.
            watch: counts the stages.

        Returns:
            One result per image, in order, in its own pixels, best score first.
        """
        found = self._look(images, watch, clip=self._clip)
        tiling = self._views.tiling
        if tiling is None:
            return found
        return [
            self._add_tiles(whole, image, tiling.windows(image.shape[:2]), watch)
            for whole, image in zip(found, images, strict=True)
        ]

    def _look(
        self, images: Iterable[ImageArray], watch: Stopwatch, *, clip: bool
    ) -> list[Detections]:
        """Detections in images, without tiles."""
        rest, found = iter(images), list[Detections]()
        while part := list(itertools.islice(rest, self._batch)):
            if self._views.tta is None:
                found += self._detect(part, self._sizes[0], self._settings, watch, clip=clip)
            else:
                found += self._augmented(part, watch, clip=clip)
        return found

    def _detect(
        self,
        images: Sequence[ImageArray],
        size_hw: tuple[int, int],
        settings: DetectSettings,
        watch: Stopwatch,
        *,
        clip: bool,
    ) -> list[Detections]:
        """Detections in a batch, seen once."""
        with watch.stage("preprocess"):
            stacked, geometries = preprocess(images, self._backend.spec.input.at(size_hw))
        found = self._backend.detect(stacked, settings, watch=watch)
        with watch.stage("postprocess"):
            return [
                dataclasses.replace(result, xyxy=boxes_to_source(result.xyxy, geometry, clip=clip))
                for result, geometry in zip(found, geometries, strict=True)
            ]

    def _augmented(
        self, images: Sequence[ImageArray], watch: Stopwatch, *, clip: bool
    ) -> list[Detections]:
        """Detections in a batch, seen in all sizes, straight and mirrored."""
        settings = dataclasses.replace(
            self._settings,
            conf=min(self._settings.conf, VIEW_CONF),
            max_det=max(self._settings.max_det, 1000),
        )
        with watch.stage("preprocess"):
            mirrored = [np.asarray(cv2.flip(image, 1), np.uint8) for image in images]
        views: list[list[Detections]] = []
        for size in self._sizes:
            views.append(self._detect(images, size, settings, watch, clip=clip))
            turned = self._detect(mirrored, size, settings, watch, clip=clip)
            views.append(
                [
                    dataclasses.replace(one, xyxy=_mirrored(one.xyxy, image.shape[1]))
                    for one, image in zip(turned, images, strict=True)
                ]
            )
        with watch.stage("postprocess"):
            return [self._fused(seen) for seen in zip(*views, strict=True)]

    def _fused(self, seen: Sequence[Detections]) -> Detections:
        """What the views of one image agree on."""
        joined = _joined(seen)
        fused = fuse_boxes(
            joined.xyxy,
            joined.scores,
            joined.class_ids,
            views=len(seen),
            # With a lower one the boxes that NMS leaves side by side in one view would be fused.
            iou_threshold=self._settings.iou,
        )
        return narrow_detections(Detections(*fused, joined.names), self._settings)

    def _add_tiles(
        self, whole: Detections, image: ImageArray, windows: Sequence[Window], watch: Stopwatch
    ) -> Detections:
        """What was found in an image, and in its tiles."""
        if len(windows) == 1:
            return whole
        crops = (image[top:bottom, left:right] for left, top, right, bottom in windows)
        seen, cut = [whole], [np.zeros(len(whole), np.bool_)]
        height, width = image.shape[:2]
        # Beyond the edge of a tile a box is a guess, so it is clipped in any case.
        for found, window in zip(self._look(crops, watch, clip=True), windows, strict=True):
            edges = np.array(window, np.float32)
            boxes = found.xyxy + edges[[0, 1, 0, 1]]
            inner = edges != [0, 0, width, height]
            near = np.abs(boxes - edges) < EDGE * (edges[2:] - edges[:2])[[0, 1, 0, 1]]
            seen.append(dataclasses.replace(found, xyxy=boxes))
            cut.append((inner & near).any(axis=1))
        with watch.stage("postprocess"):
            joined = _joined(seen)
            parts = find_parts(joined.xyxy, joined.scores, joined.class_ids, np.concatenate(cut))
            return narrow_detections(joined[~parts], self._settings)


def input_sizes(
    backend: Backend, size_hw: tuple[int, int] | None, tta: Tta | None
) -> list[tuple[int, int]]:
    """The input heights and widths that an augmentation needs.

    Args:
        backend: the network.
        size_hw: the middle one; None for the network's own.
        tta: the augmentation.

    Raises:
        UsageError: when the network does not take them.
    """
    height, width = backend.spec.check_size(size_hw)
    if tta != "full":
        return [(height, width)]
    if not backend.spec.dynamic_size:
        raise UsageError(
            f"tta full needs three input sizes, and this model was built for {height} x {width} "
            "(height x width) alone; take tta flip, or export it with `dynamic_size`"
        )
    stride = max(backend.spec.strides)
    scaled = (
        [max(1, round(side * scale / stride)) * stride for side in (height, width)]
        for scale in SCALES
    )
    return list(dict.fromkeys((h, w) for h, w in scaled))


def _joined(seen: Sequence[Detections]) -> Detections:
    arrays = ([one.xyxy, one.scores, one.class_ids] for one in seen)
    xyxy, scores, class_ids = (np.concatenate(parts) for parts in zip(*arrays, strict=True))
    return Detections(xyxy, scores, class_ids, seen[0].names)


def _mirrored(boxes: FloatArray, width: int) -> FloatArray:
    """Boxes of a mirrored image of that width, in the image itself."""
    return np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), axis=1)
