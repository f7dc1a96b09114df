"""Non-maximum suppression: of boxes that overlap too much, only the best stays.

Exact greedy NMS: torchvision's for boxes on CUDA, where it is installed, otherwise our own on the
CPU, without compiled extensions. In ours, boxes are compared in blocks, best first, and what a
block suppresses is never looked at again. Inside a block the rows of the overlap matrix are bits of
Python integers, so that the sequential part costs a shift and an "or" for each box.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oculox.types import FloatArray, IntArray

BLOCK = 256
"""Boxes compared with one another at once: a float32 matrix of that side fits a level-2 cache."""

STRIP = 32
"""Boxes, neighbours along x, that are compared at once with those that may come too close."""

Kernel = Callable[[Tensor, Tensor, float], Tensor]
"""NMS of (n, 4) boxes with (n,) scores above a threshold -> indices that stay, best first."""

BoolArray = npt.NDArray[np.bool_]


def nms(
    boxes: Tensor, scores: Tensor, *, iou_threshold: float, class_ids: Tensor | None = None
) -> Tensor:
    """Indices of the boxes that stay, best score first (of equal scores the first one).

    A box is dropped when its IoU with a better box that stays is greater than the threshold, as in
    torchvision. Boxes on CUDA are compared there where torchvision works, all others on the
    CPU.

    Args:
        boxes: (n, 4), xyxy, of any unit.
        scores: (n,), finite.
        iou_threshold: 0 to 1; the comparison is in float32 on the CPU, float64 on CUDA.
        class_ids: int (n,); only boxes of equal class suppress one another. None for all.

    Returns:
        int64 (kept,), on the device of `boxes`.

    Raises:
        ValueError: when shapes do not agree; the message gives expected and actual.
    """
    n = len(boxes)
    for name, tensor, expected in (
        ("boxes", boxes, (n, 4)),
        ("scores", scores, (n,)),
        ("class_ids", class_ids, (n,)),
    ):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")
    kernel = torchvision_nms() if boxes.is_cuda else None
    if kernel is not None:
        return _nms_by_kernel(kernel, boxes, scores, iou_threshold, class_ids)
    xyxy: FloatArray = boxes.detach().float().cpu().numpy()
    ranking: IntArray = np.argsort(-scores.detach().float().cpu().numpy(), kind="stable")
    classes: IntArray = np.zeros(n, np.int64)
    if class_ids is not None:
        classes = class_ids.long().cpu().numpy()
    # By class, and best first in each class.
    order = ranking[np.argsort(classes[ranking], kind="stable")]
    stays = np.zeros(n, np.bool_)
    # An empty pair's 0 / 0 and an infinite area's inf / inf do not count as overlap.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        stays[order] = _suppress(xyxy[order], classes[order], np.float32(iou_threshold))
    return torch.from_numpy(ranking[stays[ranking]]).to(boxes.device)


@cache
def torchvision_nms() -> Kernel | None:
    """Torchvision's NMS; None where it is absent or was built for another PyTorch."""
    try:
        from torchvision.ops import nms as kernel
    except (ImportError, RuntimeError, OSError):
        return None
    return kernel  # type: ignore[no-any-return]


def _nms_by_kernel(
    kernel: Kernel,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    class_ids: Tensor | None,
) -> Tensor:
    """`nms` by a function that knows no classes; nothing here waits for the device.

    Each class is moved to a place of its own. In float64 that changes no width, height or overlap
    of float32 boxes; torchvision's own `batched_nms` does so in float32, which does.
    """
    corners = boxes.detach().double()
    # A box that is not finite overlaps nothing, like an empty one.
    corners = torch.where(corners.isfinite().all(-1, keepdim=True), corners, 0)
    if class_ids is not None and len(boxes):
        reach = corners.abs().max()
        # Powers of two keep the sums exact.
        step = 2.0 ** (2 * reach + 1).log2().ceil()
        corners = corners + (class_ids * step)[:, None]
    return kernel(corners, scores.detach().double(), iou_threshold)


def _suppress(boxes: FloatArray, classes: IntArray, threshold: np.float32) -> BoolArray:
    """Which boxes stay; they come sorted by class, and best first in each class."""
    gone = np.zeros(len(boxes), np.bool_)
    for start, end in _runs(classes):
        # A run that is longer than a block is of one class.
        alive = np.arange(start, end)
        by_left = alive[np.argsort(boxes[alive, 0])] if len(alive) > BLOCK else alive[:0]
        while len(alive):
            block, alive = alive[:BLOCK], alive[BLOCK:]
            overlaps = _overlaps(boxes[block], boxes[block], threshold)
            overlaps &= classes[block][:, None] == classes[block]
            stays = _greedy(overlaps)
            gone[block[~stays]] = True
            if len(alive):
                by_left = by_left[by_left >= alive[0]]
                gone[_reached(boxes, block[stays], by_left, threshold)] = True
                alive, by_left = alive[~gone[alive]], by_left[~gone[by_left]]
    return ~gone


def _reached(
    boxes: FloatArray, kept: IntArray, others: IntArray, threshold: np.float32
) -> IntArray:
    """Those of `others`, sorted by their left edge, that overlap a box of `kept` too much.

    Where two boxes have an IoU above t, so have their extents along x; their left edges are then
    less than (1 - t) / t widths of either apart. So only neighbours along x are compared.
    """
    kept = kept[np.argsort(boxes[kept, 0])]
    lefts = boxes[others, 0]
    # One percent more, for rounding; the smallest divisor lets a threshold of 0 reach everything.
    widths_apart = np.float32(1.01 * (1 - float(threshold)) / max(float(threshold), 1e-30))
    reach = (boxes[kept, 2] - boxes[kept, 0]) * widths_apart
    found = []
    for i in range(0, len(kept), STRIP):
        strip = slice(i, i + STRIP)
        # NaN, from boxes that are not finite and suppress nothing, is passed over.
        low = np.fmin.reduce(boxes[kept[strip], 0] - reach[strip])
        high = np.fmax.reduce(boxes[kept[strip], 0] + reach[strip])
        near = others[np.searchsorted(lefts, low) : np.searchsorted(lefts, high, side="right")]
        found.append(near[_overlaps(boxes[kept[strip]], boxes[near], threshold).any(axis=0)])
    return np.concatenate(found)


def _runs(classes: IntArray) -> list[tuple[int, int]]:
    """Ranges of whole classes: large classes alone, small ones together up to a block."""
    edges = np.flatnonzero(np.diff(classes)) + 1
    ends = [*edges.tolist(), len(classes)]
    runs: list[tuple[int, int]] = []
    start = 0
    for end, following in zip(ends, [*ends[1:], None], strict=True):
        if following is None or following - start > BLOCK:
            runs.append((start, end))
            start = end
    return runs


def _greedy(overlaps: BoolArray) -> BoolArray:
    """Which boxes stay, given bool (n, n) overlaps of boxes sorted best first."""
    n = len(overlaps)
    packed = np.packbits(overlaps, axis=1, bitorder="little")
    width, data = packed.shape[1], packed.tobytes()
    gone = 0
    stays = np.ones(n, np.bool_)
    for i in range(n):
        if gone >> i & 1:
            stays[i] = False
        else:
            gone |= int.from_bytes(data[i * width : (i + 1) * width], "little")
    return stays


def _overlaps(a: FloatArray, b: FloatArray, threshold: np.float32) -> BoolArray:
    """Bool (n, m): the IoU of boxes `a` (n, 4) with boxes `b` (m, 4) exceeds the threshold."""
    width = shared_length(a, b, axis=0)
    inter = shared_length(a, b, axis=1)
    inter *= width
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    union = np.add(area_a[:, None], area_b, out=width)
    union -= inter
    inter /= union
    return np.greater(inter, threshold)


def shared_length(a: FloatArray, b: FloatArray, *, axis: int) -> FloatArray:
    """How much boxes (n, 4) share with boxes (m, 4) along x (0) or y (1): (n, m), at least 0."""
    length = np.minimum(a[:, axis + 2, None], b[:, axis + 2])
    length -= np.maximum(a[:, axis, None], b[:, axis])
    return np.maximum(length, 0, out=length)
