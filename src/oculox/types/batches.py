"""What passes between loaders, network, criterion and post-processing; see `oculox.types`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from oculox.types.arrays import FloatArray, ImageArray, ImageId, IntArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its labels.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        boxes: float32 (n, 4), xyxy pixels of `image`.
        labels: int64 (n,), contiguous class indices 0..C-1.
        image_id: the dataset's own id, returned untouched.
        source_hw: height and width of the file's image before any resizing.
        faults: what is wrong with image files that were left out of it, each named.
    """

    image: ImageArray
    boxes: FloatArray
    labels: IntArray
    image_id: ImageId
    source_hw: tuple[int, int]
    faults: tuple[str, ...] = ()


class Targets(NamedTuple):
    """Padded labels of a batch, in the pixels of the letterboxed input.

    boxes: float32 (B, M, 4), xyxy; labels: int64 (B, M); mask: bool (B, M), true for real ones.
    """

    boxes: Tensor
    labels: Tensor
    mask: Tensor


class Batch(NamedTuple):
    """Images and labels of a batch.

    images: uint8 (B, 3, H, W), in the colour order of the input section, 0-255, letterboxed;
    image_ids, source_hw and faults have B entries in the same order. faults: what is wrong with
    image files that were left out of an image, such as the tile of a mosaic.
    """

    images: Tensor
    targets: Targets
    image_ids: tuple[ImageId, ...]
    source_hw: tuple[tuple[int, int], ...]
    faults: tuple[tuple[str, ...], ...] = ()


class RawPredictions(NamedTuple):
    """What the head predicts, before decoding and without sigmoid.

    Attributes:
        deltas: (B, N, 4): centre offset (dx, dy) from the cell's corner in strides, then
            log width and log height in strides.
        objectness: (B, N) logits.
        classes: (B, N, C) logits.
        level_sizes: (rows, columns) of each stride's grid; their products sum to N.
    """

    deltas: Tensor
    objectness: Tensor
    classes: Tensor
    level_sizes: tuple[tuple[int, int], ...]


class DecodedPredictions(NamedTuple):
    """Predictions in the pixels of the network's input.

    Attributes:
        boxes: float32 (B, N, 4), xyxy.
        objectness: float32 (B, N), probabilities.
        classes: float32 (B, N, C), probabilities given an object.
    """

    boxes: Tensor
    objectness: Tensor
    classes: Tensor


class LossTerms(NamedTuple):
    """Sums of every loss term over a batch's positives (scalars, float32), not yet normalised.

    Divide by the (global) number of positives, at least 1, to get the paper's loss.

    Attributes:
        box: sum of ``1 - IoU^2`` over positives, already times the box weight (5).
        objectness: sum of BCE over all cells.
        classes: sum of BCE over positives.
        l1: sum of L1 over positives (zero while the L1 term is off).
        positives: number of positive cells.
        objects: number of labelled objects.
    """

    box: Tensor
    objectness: Tensor
    classes: Tensor
    l1: Tensor
    positives: Tensor
    objects: Tensor
