"""Box conversion and overlap. Pure functions on tensors; coordinates in pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> left, top, right, bottom."""
    centers, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centers - half, centers + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) left, top, right, bottom -> centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Area (...) of boxes (..., 4) xyxy; inverted boxes count as empty."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (..., n, m) of every box of `a` (..., n, 4) with every box of `b` (..., m, 4), xyxy.

    Two empty boxes have IoU 0.
    """
    return _pairwise_iou(a, box_area(a), b, box_area(b))


def pairwise_iou_cxcywh(a: Tensor, b: Tensor) -> Tensor:
    """As `pairwise_iou`, for boxes in cxcywh.

    Areas come from the widths and heights, not from the rounded corners, as in the official
    `boxes.py`: it matters for boxes much smaller than their coordinates.
    """
    return _pairwise_iou(
        cxcywh_to_xyxy(a), a[..., 2] * a[..., 3], cxcywh_to_xyxy(b), b[..., 2] * b[..., 3]
    )


def _pairwise_iou(a: Tensor, area_a: Tensor, b: Tensor, area_b: Tensor) -> Tensor:
    # One axis after the other: half the memory of a (..., n, m, 2) tensor and much faster.
    inter = _pairwise_overlap(a, b, axis=0) * _pairwise_overlap(a, b, axis=1)
    union = area_a[..., :, None] + area_b[..., None, :] - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)


def _pairwise_overlap(a: Tensor, b: Tensor, *, axis: int) -> Tensor:
    low = torch.maximum(a[..., :, None, axis], b[..., None, :, axis])
    high = torch.minimum(a[..., :, None, axis + 2], b[..., None, :, axis + 2])
    return (high - low).clamp(min=0)
