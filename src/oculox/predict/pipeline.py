"""Images in, detections in the pixels of those images out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from oculox.data.transforms import apply_letterbox, boxes_to_source, letterbox_geometry
from oculox.errors import UsageError
from oculox.predict.backend import Backend, DetectSettings, ModelSpec
from oculox.predict.inputs import ColorOrder, as_bgr
from oculox.predict.timing import Stopwatch
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
        self.size_hw = check_size(backend.spec, size_hw)
        self.batch = batch
        check_classes(backend.spec, self.settings.class_ids)

    def __call__(
        self,
        images: Sequence[Any],
        *,
        color: ColorOrder = "bgr",
        watch: Stopwatch | None = None,
    ) -> list[Detections]:
        """Find objects in images of any sizes.

        Args:
            images: uint8 arrays (H, W, 3), grey or with alpha too, or Pillow images.
            color: channel order of arrays; ``bgr`` unless said otherwise.
            watch: counts the stages.

        Returns:
            One result per image, in order, in its own pixels and clipped to it.

        Raises:
            UsageError: when one is no image; the message gives its place in the list.
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
        preprocessing = self.backend.spec.preprocessing
        with watch.stage("preprocess"):
            geometries = [
                letterbox_geometry(image.shape[:2], self.size_hw, preprocessing.placement)
                for image in images
            ]
            boxed = []
            for image, geometry in zip(images, geometries, strict=True):
                canvas = apply_letterbox(image, geometry, pad_value=preprocessing.pad_value)
                if preprocessing.color == "rgb":
                    canvas = np.asarray(cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB), np.uint8)
                boxed.append(canvas)
            # A view with the memory of (B, H, W, 3): networks that run channels last need no copy.
            stacked = np.stack(boxed).transpose(0, 3, 1, 2)
        found = self.backend.detect(stacked, self.settings, watch=watch)
        with watch.stage("postprocess"):
            return [
                dataclasses.replace(result, xyxy=boxes_to_source(result.xyxy, geometry))
                for result, geometry in zip(found, geometries, strict=True)
            ]


def check_size(spec: ModelSpec, size_hw: tuple[int, int] | None) -> tuple[int, int]:
    """The input size to use.

    Raises:
        UsageError: when the network is built for another size, or the size is no multiple of
            its largest stride.
    """
    if size_hw is None or tuple(size_hw) == spec.size_hw:
        return spec.size_hw
    if not spec.dynamic_size:
        raise UsageError(
            f"this model was built for {spec.size_hw[0]} x {spec.size_hw[1]} (height x width), "
            f"got {size_hw[0]} x {size_hw[1]}; export it with that size"
        )
    stride = max(spec.strides)
    if any(side < stride or side % stride for side in size_hw):
        raise UsageError(
            f"the input size must be multiples of {stride}, got {size_hw[0]} x {size_hw[1]}"
        )
    return size_hw[0], size_hw[1]


def check_classes(spec: ModelSpec, class_ids: Sequence[int] | None) -> None:
    """Check a class filter.

    Raises:
        UsageError: when it is empty or an index is outside the network's classes.
    """
    if class_ids is None:
        return
    if not class_ids:
        raise UsageError("the class filter is empty; leave it out to keep all classes")
    for index in class_ids:
        if not 0 <= index < spec.num_classes:
            raise UsageError(
                f"class {index} does not exist; the model has 0-{spec.num_classes - 1}"
            )


def class_filter(spec: ModelSpec, classes: Sequence[str | int]) -> tuple[int, ...]:
    """Class names or indices -> class indices.

    A text that is no name but a number counts as an index, so that a command line may pass both.

    Raises:
        UsageError: when a class is unknown; the message names the nearest known one.
    """
    import difflib

    indices = []
    for item in classes:
        text = str(item).strip()
        if isinstance(item, str) and text in spec.names:
            indices.append(spec.names.index(text))
        elif text.isdecimal():
            indices.append(int(text))
        else:
            near = difflib.get_close_matches(text, spec.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else _known(spec)
            raise UsageError(f"the model has no class {text!r}; {hint}")
    check_classes(spec, indices)
    return tuple(dict.fromkeys(indices))


def _known(spec: ModelSpec) -> str:
    if not spec.names:
        return f"its classes have no names, use 0-{spec.num_classes - 1}"
    shown = ", ".join(spec.names[:10])
    return f"its classes: {shown}" + (", ..." if len(spec.names) > 10 else "")
