"""SimOTA: which prediction cells belong to which object (YOLOX paper, section 2.1).

The same result as the official `yolo_head.py` (`get_assignments`, `simota_matching`), worked out
for whole groups of images at once with shapes that depend only on sizes. Nothing waits for the
device, no loop runs over single objects, and no (objects, cells, classes) tensor is made.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oculox.ops.boxes import pairwise_iou_cxcywh
from oculox.ops.points import Cells
from oculox.types import Targets

IOU_WEIGHT = 3.0
OUTSIDE_PENALTY = 1e6
"""Added to the cost of a cell outside the object's centre region: taken only if others lack."""
MIN_LOG = -100.0
"""Bound of the logarithms of a cross entropy, as in PyTorch's own."""
PAIRS_AT_ONCE = 2**21
"""Most (object, candidate) pairs worked on together.

Images, and the objects of one image, are taken in groups of that size, so that memory grows with
neither: about ten tensors of 8 MiB are alive. Larger groups are slower on a CPU, whose caches they
leave.
"""
PAIRS_AT_ONCE_ON_GPU = 2**25
"""The same on a GPU, which small groups leave idle between their kernels: tensors of 128 MiB."""


class Assignment(NamedTuple):
    """The positive cells of every image, in ascending order, then empty slots.

    P, the number of slots, is the most positives that M objects can have.

    Attributes:
        cells: int64 (B, P), index of the cell; 0 in empty slots.
        objects: int64 (B, P), index of the cell's object; 0 in empty slots.
        iou: float32 (B, P), IoU of the cell's predicted box with the object; 0 in empty slots.
        valid: bool (B, P), false in empty slots.
    """

    cells: Tensor
    objects: Tensor
    iou: Tensor
    valid: Tensor


@torch.no_grad()
def assign(
    boxes: Tensor,
    objectness: Tensor,
    classes: Tensor,
    *,
    targets: Targets,
    cells: Cells,
    level_sizes: Sequence[tuple[int, int]],
    candidates_k: int = 10,
    center_radius: float = 1.5,
) -> Assignment:
    """Give every object its cells.

    Time and memory grow with the padded number of objects M: pad to the fullest image, not to
    a fixed number.

    Args:
        boxes: float32 (B, N, 4), predicted, cxcywh pixels.
        objectness: float32 (B, N) logits.
        classes: float32 (B, N, C) logits.
        targets: the objects, but with boxes in cxcywh; M is at least 1, labels are classes
            0..C-1 in padding too.
        cells: the N cells.
        level_sizes: (rows, columns) of each level.
        candidates_k: how many of the best IoUs are summed to an object's number of cells.
        center_radius: half the side of the centre region, in strides of the cell.
    """
    objects = targets.mask.shape[1]
    cells_a_side = math.ceil(2 * center_radius)  # An open interval of 2r holds that many points.
    slots = min(len(level_sizes) * cells_a_side**2 * objects, boxes.shape[1])
    near = _near_any_object(targets, cells, level_sizes, center_radius=center_radius)
    candidates, candidate_valid = _compact(near, size=slots)
    group = max(1, _pairs_at_once(boxes.device) // (objects * slots))
    parts = [
        _match(
            boxes=take_rows(boxes[s], candidates[s]),
            objectness=objectness[s].gather(1, candidates[s]),
            classes=take_rows(classes[s], candidates[s]),
            valid=candidate_valid[s],
            targets=Targets(*(values[s] for values in targets)),
            centers=cells.centers[candidates[s]],
            radii=cells.strides[candidates[s]] * center_radius,
            candidates_k=min(candidates_k, slots),
        )
        for s in (slice(i, i + group) for i in range(0, len(boxes), group))
    ]
    positive, matched, iou = (torch.cat(x) for x in zip(*parts, strict=True))
    chosen, valid = _compact(positive, size=min(candidates_k * objects, slots))
    return Assignment(
        cells=candidates.gather(1, chosen) * valid,
        objects=matched.gather(1, chosen) * valid,
        iou=iou.gather(1, chosen).masked_fill(~valid, 0),
        valid=valid,
    )


def _pairs_at_once(device: torch.device) -> int:
    return PAIRS_AT_ONCE_ON_GPU if device.type == "cuda" else PAIRS_AT_ONCE


def _near_any_object(
    targets: Targets, cells: Cells, level_sizes: Sequence[tuple[int, int]], *, center_radius: float
) -> Tensor:
    """Bool (B, N): the candidates, cells in the centre region of at least one object."""
    near, first = [], 0
    for rows, columns in level_sizes:
        level = slice(first, first + rows * columns)
        centers = cells.centers[level].reshape(rows, columns, 2)
        radius = cells.strides[first] * center_radius
        first += rows * columns
        in_column = (centers[0, :, 0] - targets.boxes[..., 0, None]).abs() < radius
        in_row = (centers[:, 0, 1] - targets.boxes[..., 1, None]).abs() < radius
        # Regions are squares, so "near any object" is a product of two small 0/1 matrices.
        rows_of_objects = (in_row & targets.mask[..., None]).float().transpose(1, 2)
        near.append((rows_of_objects @ in_column.float() > 0).flatten(1))
    return torch.cat(near, dim=1)


def _compact(mask: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Indices of the true entries of each row of a bool (B, n) mask, ascending, then zeros.

    Returns int64 (B, size) and, bool of the same shape, which of them are real.
    """
    batch, n = mask.shape
    # False entries all go to one extra slot at the end, which is cut off.
    slot = torch.where(mask, mask.cumsum(1) - 1, size).clamp(max=size)
    indices = torch.zeros((batch, size + 1), dtype=torch.int64, device=mask.device)
    indices.scatter_(1, slot, torch.arange(n, device=mask.device).expand(batch, n))
    ranks = torch.arange(size, device=mask.device)
    return indices[:, :size], ranks < mask.sum(1, keepdim=True)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, c) and int64 (B, K) -> (B, K, c)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _match(
    *,
    boxes: Tensor,
    objectness: Tensor,
    classes: Tensor,
    valid: Tensor,
    targets: Targets,
    centers: Tensor,
    radii: Tensor,
    candidates_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The matching proper, over K candidates an image (those that are not `valid` take no part).

    Returns bool (B, K) positive, int64 (B, K) object and float32 (B, K) IoU with it.
    """
    class_cost = _class_costs(objectness, classes)
    rows = max(1, _pairs_at_once(boxes.device) // valid.numel())
    parts = []
    for first in range(0, targets.mask.shape[1], rows):
        some = Targets(*(values[:, first : first + rows] for values in targets))
        iou = pairwise_iou_cxcywh(some.boxes, boxes).masked_fill_(~valid[:, None], 0)
        cost = class_cost(some.labels)
        cost -= (iou + 1e-8).log_().mul_(IOU_WEIGHT)
        away = torch.maximum(
            *((centers[:, None, :, axis] - some.boxes[..., None, axis]).abs_() for axis in (0, 1))
        )
        cost += torch.where(away < radii[:, None], 0.0, OUTSIDE_PENALTY)
        # A NaN is chosen last, but can be chosen: it must reach the loss, where training stops.
        cost.nan_to_num_(nan=1e30).masked_fill_(~(valid[:, None] & some.mask[..., None]), math.inf)

        # An object takes as many cells as its best IoUs sum to, at least one (dynamic k).
        count = iou.topk(candidates_k).values.sum(-1).int().clamp(1, candidates_k)
        cheapest = cost.topk(candidates_k, largest=False)
        ranks = torch.arange(candidates_k, device=cost.device)
        taken = (ranks < count[..., None]) & (cheapest.values != math.inf)
        lowest = cost.argmin(1, keepdim=True)
        parts.append((cheapest.indices, taken, lowest + first, cost.gather(1, lowest)))
    indices, taken, lowest, costs = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
    takers, taker = _takers(indices, taken, candidates=boxes.shape[1])

    # A cell that several objects took goes to the object with the lowest cost for it.
    best = lowest.gather(1, costs.argmin(1, keepdim=True)).squeeze(1)
    matched = torch.where(takers > 1, best, taker)
    own = take_rows(targets.boxes, matched)
    matched_iou = pairwise_iou_cxcywh(own[..., None, :], boxes[..., None, :])[..., 0, 0]
    return takers > 0, matched, matched_iou.masked_fill_(~valid, 0)


def _takers(indices: Tensor, taken: Tensor, *, candidates: int) -> tuple[Tensor, Tensor]:
    """How many objects took each candidate, and one of them, int64 (B, K) each.

    `indices` (B, M, k) are candidates, `taken` says which of them the object took.
    """
    batch, objects, k = indices.shape
    # What was not taken is counted in an extra column, which is cut off.
    column = torch.where(taken, indices, candidates).flatten(1)
    takers = torch.zeros((batch, candidates + 1), dtype=torch.int64, device=indices.device)
    takers.scatter_add_(1, column, torch.ones_like(column))
    numbers = torch.arange(objects, device=indices.device).repeat_interleave(k)
    taker = torch.zeros_like(takers).scatter_(1, column, numbers.expand(batch, -1))
    return takers[:, :candidates], taker[:, :candidates]


def _class_costs(objectness: Tensor, classes: Tensor) -> Callable[[Tensor], Tensor]:
    """Cross entropy, summed over classes, of every cell's scores with an object's class.

    The score of a class is sqrt(class probability * objectness). The sum over classes of
    -log(1 - score) is the cell's own; only the term of the object's class depends on the pair.

    Args:
        objectness: (B, K) logits.
        classes: (B, K, C) logits.

    Returns:
        The costs of objects: int64 (B, M), their labels -> float32 (B, M, K).
    """
    score = (classes.sigmoid() * objectness.sigmoid()[..., None]).sqrt_()
    absent = (-score).log1p_().clamp_(min=MIN_LOG)
    present = score.log_().clamp_(min=MIN_LOG)
    difference = (absent - present).transpose(1, 2).contiguous()
    alone = absent.sum(-1)[:, None]
    images = torch.arange(len(classes), device=classes.device)[:, None]
    return lambda labels: difference[images, labels] - alone
