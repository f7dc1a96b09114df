"""Box conversion, clipping and overlap. Pure functions on tensors; coordinates in pixels."""

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


def clip_boxes(boxes: Tensor, *, height: float, width: float) -> Tensor:
    """Boxes (..., 4) xyxy moved inside an image of that size."""
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)


def box_area(boxes: Tensor) -> Tensor:
    """Area (...) of boxes (..., 4) xyxy; inverted boxes count as empty."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (..., n, m) of every box of `a` (..., n, 4) with every box of `b` (..., m, 4), xyxy.

    Two empty boxes have IoU 0.
    """
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)
