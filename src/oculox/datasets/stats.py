"""Statistics of a dataset: counts, sizes and shapes of objects, advice on the input size."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from oculox.config.schema import DataConfig
from oculox.data.coco import CocoIndex
from oculox.types import FloatArray, IntArray

SMALL, MEDIUM = 32.0**2, 96.0**2
"""COCO's limits of small and medium objects, in square pixels."""
_CELL = 8.0
# What networks take; below 96 their coarsest level has fewer than 3 x 3 cells.
_SIZES = range(96, 1281, 32)


@dataclasses.dataclass(frozen=True)
class SizeHistogram:
    """Objects by area: below 32 x 32 pixels, below 96 x 96, larger (COCO's three ranges)."""

    small: int
    medium: int
    large: int


@dataclasses.dataclass(frozen=True)
class Percentiles:
    """Smallest, 10 %, median, 90 % and largest of something; all 0 when there is nothing."""

    low: float
    p10: float
    median: float
    p90: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitStats:
    """Statistics of one split.

    Attributes:
        images: images.
        objects: labelled objects, crowd regions left out.
        backgrounds: images without an object.
        per_class: objects by class name, in the dataset's order.
        images_per_class: images that show the class, by class name.
        sizes: objects by area in the images as they are.
        input_hw: network input, height and width in pixels, that the next two are about.
        sizes_at_input: objects by area after the images are fitted into that input.
        below_cell: objects with a side under 8 pixels there (the finest prediction cell).
        per_image: objects in an image.
        aspect: box width by height.
        image_width, image_height: of the images, in pixels.
        hints: advice in sentences.
    """

    images: int
    objects: int
    backgrounds: int
    per_class: dict[str, int]
    images_per_class: dict[str, int]
    sizes: SizeHistogram
    input_hw: tuple[int, int]
    sizes_at_input: SizeHistogram
    below_cell: int
    per_image: Percentiles
    aspect: Percentiles
    image_width: Percentiles
    image_height: Percentiles
    hints: tuple[str, ...]


def index_stats(index: CocoIndex, *, input_hw: tuple[int, int] = (640, 640)) -> SplitStats:
    """Statistics of a loaded split; see `split_stats`."""
    return split_stats(
        index.class_names,
        sizes_hw=index.sizes_hw,
        boxes=index.all_boxes,
        labels=index.all_labels,
        owners=np.repeat(np.arange(len(index)), np.diff(index.offsets)),
        input_hw=input_hw,
    )


def split_stats(
    class_names: Sequence[str],
    *,
    sizes_hw: npt.NDArray[np.int32],
    boxes: FloatArray,
    labels: IntArray,
    owners: IntArray,
    input_hw: tuple[int, int] = (640, 640),
) -> SplitStats:
    """Count and measure a split.

    Args:
        class_names: C names.
        sizes_hw: int32 (n, 2), height and width of each image.
        boxes: float32 (m, 4), xyxy pixels.
        labels: int64 (m,), class indices.
        owners: int64 (m,), image index of each object.
        input_hw: height and width of the network input in pixels.
    """
    count, classes = len(sizes_hw), len(class_names)
    per_image = np.bincount(owners, minlength=count)
    shown = np.unique(np.stack((owners, labels)), axis=1)[1]
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6).astype(np.float64)
    ratio = (np.array(input_hw) / np.maximum(sizes_hw, 1)).min(axis=1)
    fitted = sides * ratio[owners][:, None]
    totals = np.bincount(labels, minlength=classes).tolist()
    images = np.bincount(shown, minlength=classes).tolist()
    return SplitStats(
        images=count,
        objects=len(labels),
        backgrounds=int((per_image == 0).sum()),
        per_class=dict(zip(class_names, totals, strict=True)),
        images_per_class=dict(zip(class_names, images, strict=True)),
        sizes=_histogram(sides),
        input_hw=input_hw,
        sizes_at_input=_histogram(fitted),
        below_cell=int((fitted.min(axis=1, initial=np.inf) < _CELL).sum()),
        per_image=_percentiles(per_image),
        aspect=_percentiles(sides[:, 0] / sides[:, 1]),
        image_width=_percentiles(sizes_hw[:, 1]),
        image_height=_percentiles(sizes_hw[:, 0]),
        hints=tuple(
            _hints(sizes_hw, sides, owners, totals=dict(zip(class_names, totals, strict=True)))
        ),
    )


def _histogram(sides: npt.NDArray[np.float64]) -> SizeHistogram:
    area = sides.prod(axis=1)
    small, medium = int((area < SMALL).sum()), int((area < MEDIUM).sum())
    return SizeHistogram(small, medium - small, len(area) - medium)


def _percentiles(values: npt.NDArray[Any]) -> Percentiles:
    if len(values) == 0:
        return Percentiles(0.0, 0.0, 0.0, 0.0, 0.0)
    return Percentiles(*(round(float(v), 3) for v in np.percentile(values, (0, 10, 50, 90, 100))))


def _hints(
    sizes_hw: npt.NDArray[np.int32],
    sides: npt.NDArray[np.float64],
    owners: IntArray,
    *,
    totals: dict[str, int],
) -> list[str]:
    """Advice on input size, shape and labels; nothing when there is nothing to go by."""
    if len(sides) == 0:
        return ["no objects: there is nothing to learn"]
    longest = sizes_hw.max(axis=1)
    extent = np.sqrt(sides.prod(axis=1)) / longest[owners]
    hints = [_size_hint(float(np.percentile(extent, 10)), float(np.percentile(longest, 90)))]
    height, width = (float(v) for v in np.median(sizes_hw, axis=0))
    if max(width / height, height / width) >= 1.4:
        short = max(32, round(640 * min(height, width) / max(height, width) / 32) * 32)
        shape = f"[{short},640]" if width > height else f"[640,{short}]"
        hints.append(
            f"the typical image is {width:.0f} x {height:.0f}: a rectangular input such as "
            f"input.size={shape} saves {100 - short / 6.4:.0f} % of the work"
        )
    most = DataConfig().max_labels
    crowded = int((np.bincount(owners) > most).sum())
    if crowded:
        hints.append(f"images with more than {most} objects: {crowded}; raise data.max_labels")
    rare = [name for name, total in totals.items() if 0 < total < 20]
    if rare:
        hints.append(f"fewer than 20 examples of: {', '.join(rare[:8])}")
    return hints


def _size_hint(extent: float, longest: float) -> str:
    """The smallest input at which nine objects of ten measure 16 pixels or more.

    An object's measure is the root of its area, as that of COCO's sizes.
    """
    # Enlarging images far beyond their own size adds cost and no detail.
    useful = [s for s in _SIZES if s <= max(320.0, longest * 1.35)]
    enough = [s for s in useful if extent * s >= 16]
    if enough:
        size = enough[0]
        return (
            f"input.size={size} is enough: nine of ten objects measure at least "
            f"{extent * size:.0f} pixels there (16 or more are wanted)"
        )
    size = useful[-1]
    return (
        f"objects are small: even at input.size={size} one in ten measures under "
        f"{extent * size:.0f} pixels; cut the images into tiles, or expect to miss those"
    )
