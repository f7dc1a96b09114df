"""The contract between a network in any format and the pipeline.

A backend takes letterboxed images and answers with detections in the pixels of its input. A
format whose network ends at the predictions of all cells derives from `DecodingBackend` and
supplies `predict` alone; one with NMS inside supplies `detect`.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from oculox.errors import UsageError
from oculox.postprocess import select_detections
from oculox.runtime.timing import Stopwatch
from oculox.types import DecodedPredictions, Detections, ImageArray, Preprocessing


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a network expects and what it answers; read from the weights or export metadata.

    Attributes:
        name: the network's name, such as ``yolox-s``.
        names: class names by index; empty when the file does not tell.
        category_ids: the training data's category id of each class, where known.
        preprocessing: colour order, pixel range, letterbox.
        size_hw: input height and width in pixels (the default one when `dynamic_size`).
        strides: pixels between the cells of each level.
        num_classes: number of classes.
        dynamic_size: whether other sizes (multiples of the largest stride) work.
        batch: the only batch size that works; None for any.

    Raises:
        ValueError: when the number of names or category ids is not `num_classes`.
    """

    name: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...] | None
    preprocessing: Preprocessing
    size_hw: tuple[int, int]
    strides: tuple[int, ...]
    num_classes: int
    dynamic_size: bool = True
    batch: int | None = None

    def __post_init__(self) -> None:
        """Check the counts against each other."""
        if self.names and len(self.names) != self.num_classes:
            raise ValueError(f"expected {self.num_classes} class names, got {len(self.names)}")
        if self.category_ids is not None and len(self.category_ids) != self.num_classes:
            raise ValueError(
                f"expected {self.num_classes} category ids, got {len(self.category_ids)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """Post-processing of predictions.

    Attributes:
        conf: lowest score kept, 0 to 1.
        iou: IoU above which the weaker of two boxes goes, 0 to 1.
        max_det: most detections kept in an image.
        agnostic_nms: suppress across classes.
        class_ids: keep only these class indices; None for all.

    Raises:
        UsageError: when a value is out of its range.
    """

    conf: float = 0.3
    iou: float = 0.45
    max_det: int = 1000
    agnostic_nms: bool = False
    class_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in ("conf", "iou"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise UsageError(f"{field} must be between 0 and 1, got {value}")
        if self.max_det < 1:
            raise UsageError(f"max_det must be at least 1, got {self.max_det}")


class Backend(Protocol):
    """A network in some format, ready to run."""

    @property
    def kind(self) -> str:
        """The format's short name, such as ``torch``."""

    @property
    def spec(self) -> ModelSpec:
        """What the network expects and answers."""

    def detect(
        self,
        images: ImageArray | Tensor,
        settings: DetectSettings,
        *,
        watch: Stopwatch | None = None,
    ) -> list[Detections]:
        """Find objects.

        Args:
            images: uint8 (B, 3, H, W), letterboxed, in the colour order of `spec`; any memory
                layout (the pipeline's is channels last).
            settings: thresholds and class filter.
            watch: counts the network and the post-processing.

        Returns:
            B results in pixels of the input, best score first.
        """


class DecodingBackend(abc.ABC):
    """A backend whose network predicts every cell: thresholds and NMS happen here."""

    kind: str

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @abc.abstractmethod
    def predict(self, images: ImageArray | Tensor) -> DecodedPredictions:
        """Run the network on uint8 (B, 3, H, W); B is `spec.batch` where that is set."""

    def detect(
        self,
        images: ImageArray | Tensor,
        settings: DetectSettings,
        *,
        watch: Stopwatch | None = None,
    ) -> list[Detections]:
        """See `Backend.detect`."""
        watch = watch or Stopwatch()
        found: list[Detections] = []
        for chunk, real in fixed_batches(images, self.spec.batch):
            with watch.stage("network"):
                decoded = self.predict(chunk)
            with watch.stage("postprocess"):
                found += select_detections(
                    DecodedPredictions(*(t[:real] for t in decoded)),
                    conf=settings.conf,
                    iou=settings.iou,
                    max_det=settings.max_det,
                    agnostic_nms=settings.agnostic_nms,
                    class_ids=settings.class_ids,
                    names=self.spec.names,
                )
        return found


def fixed_batches(
    images: ImageArray | Tensor, batch: int | None
) -> Iterator[tuple[ImageArray | Tensor, int]]:
    """Split images into batches of exactly `batch`, the last one filled up with zeros.

    Args:
        images: uint8 (B, 3, H, W).
        batch: the size that the network was built for; None passes `images` on whole.

    Yields:
        Images (batch, 3, H, W) and how many of them are real.
    """
    if batch is None:
        yield images, len(images)
        return
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        real = len(chunk)
        if real < batch:
            filler = (batch - real, *chunk.shape[1:])
            if isinstance(chunk, Tensor):
                chunk = torch.cat((chunk, chunk.new_zeros(filler)))
            else:
                chunk = np.concatenate((chunk, np.zeros(filler, chunk.dtype)))
        yield chunk, real


def network_input(
    images: ImageArray | Tensor,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Letterboxed uint8 (B, 3, H, W) -> floats in the pixel range that the network expects.

    The only place where predictions turn bytes into floats; bytes are moved to the device first,
    a quarter of the traffic.
    """
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(images)
    tensor = tensor.to(device).to(dtype)
    return tensor / 255 if preprocessing.pixel_max == 1 else tensor


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
