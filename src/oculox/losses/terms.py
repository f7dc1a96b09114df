"""The terms of the loss, not yet summed (YOLOX paper, section 2.1; official `yolo_head.py`)."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU^2 of boxes (..., 4) in cxcywh with their targets: (...) (official `losses.py`).

    Gradients are finite for empty boxes and for boxes that do not touch.
    """
    half, target_half = predicted[..., 2:] / 2, target[..., 2:] / 2
    low = torch.maximum(predicted[..., :2] - half, target[..., :2] - target_half)
    high = torch.minimum(predicted[..., :2] + half, target[..., :2] + target_half)
    sides = high - low
    sides = torch.where((sides > 0).all(dim=-1, keepdim=True), sides, 0)
    inter = sides[..., 0] * sides[..., 1]
    area = predicted[..., 2] * predicted[..., 3]
    union = area + target[..., 2] * target[..., 3] - inter
    return 1 - (inter / (union + 1e-16)) ** 2


def l1_loss(deltas: Tensor, target: Tensor) -> Tensor:
    """Sum over the four deltas (..., 4) of the distance from their target: (...)."""
    return (deltas - target).abs().sum(dim=-1)


def objectness_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of objectness logits (...) with 0 or 1 (...): (...)."""
    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def class_loss(logits: Tensor, labels: Tensor, iou: Tensor) -> Tensor:
    """Binary cross entropy, summed over classes.

    The target of a cell's own class is the IoU of its predicted box, that of other classes 0.

    Args:
        logits: (..., C).
        labels: int64 (...), the cell's class.
        iou: (...), 0 to 1.

    Returns:
        (...).
    """
    target = torch.zeros_like(logits).scatter(-1, labels[..., None], iou[..., None])
    return binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=-1)
