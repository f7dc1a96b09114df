"""The criterion: raw predictions and targets -> sums of the loss terms."""

import contextlib
import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from oculox.config.schema import LossConfig
from oculox.losses.simota import Assignment, assign, take_rows
from oculox.losses.terms import class_loss, iou_loss, l1_loss, objectness_loss
from oculox.ops.boxes import xyxy_to_cxcywh
from oculox.ops.points import Cells, decode_boxes, encode_boxes, make_cells
from oculox.types import LossTerms, RawPredictions, Targets

MAX_LOG_SIZE = 20.0
"""Bound of a predicted log width or height (in strides).

It keeps the area of an extreme prediction, and so the gradient, finite in float32. A box of e^20
strides has an IoU of 0 with any object, so the bound changes no loss.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Criterion:
    """SimOTA assignment and the four loss terms, all in float32 even under autocast.

    Attributes:
        num_classes: number of classes C.
        strides: pixels between cells of each level.
        candidates_k: see `assign`.
        center_radius: see `assign`.
        box_weight: weight of the IoU term.
    """

    num_classes: int
    strides: tuple[int, ...]
    candidates_k: int = 10
    center_radius: float = 1.5
    box_weight: float = 5.0

    def __call__(self, raw: RawPredictions, targets: Targets, *, use_l1: bool) -> LossTerms:
        """Sums of the loss terms over the batch.

        Args:
            raw: predictions of any floating type; gradients flow to them.
            targets: labels; the content of padding slots does not matter, M may be 0.
            use_l1: add the L1 term (the tail of the recipe).

        Raises:
            ValueError: when the predictions have another number of classes.
        """
        if raw.classes.shape[-1] != self.num_classes:
            raise ValueError(
                f"predictions must have {self.num_classes} classes, got {raw.classes.shape[-1]}"
            )
        with _no_autocast(raw.deltas.device.type):
            return self._terms(raw, _clean(targets), use_l1=use_l1)

    def _terms(self, raw: RawPredictions, targets: Targets, *, use_l1: bool) -> LossTerms:
        """As `__call__`; the boxes of `targets` are in cxcywh here and there is at least one."""
        deltas, objectness, classes = (values.float() for values in raw[:3])
        cells = make_cells(raw.level_sizes, self.strides, device=deltas.device)
        boxes = decode_boxes(_bounded(deltas), cells)
        found = assign(
            boxes.detach(),
            objectness.detach(),
            classes.detach(),
            targets=targets,
            cells=cells,
            level_sizes=raw.level_sizes,
            candidates_k=self.candidates_k,
            center_radius=self.center_radius,
        )
        target_boxes = take_rows(targets.boxes, found.objects)
        target_labels = targets.labels.gather(1, found.objects)
        box = iou_loss(take_rows(boxes, found.cells), target_boxes)
        by_class = class_loss(take_rows(classes, found.cells), target_labels, found.iou)
        if use_l1:
            target_deltas = _target_deltas(target_boxes, found, cells)
            l1 = _sum(l1_loss(take_rows(deltas, found.cells), target_deltas), found)
        else:
            l1 = deltas.new_zeros(())
        return LossTerms(
            box=self.box_weight * _sum(box, found),
            objectness=objectness_loss(objectness, _positives(found, objectness)).sum(),
            classes=_sum(by_class, found),
            l1=l1,
            positives=found.valid.sum().float(),
            objects=targets.mask.sum().float(),
        )


def build_criterion(config: LossConfig, *, num_classes: int, strides: Sequence[int]) -> Criterion:
    """The criterion of a configuration.

    Args:
        config: assignment and weights; the caller decides when the L1 term is on.
        num_classes: classes that the network predicts.
        strides: strides of the network's levels.
    """
    return Criterion(
        num_classes=num_classes,
        strides=tuple(strides),
        candidates_k=config.candidates_k,
        center_radius=config.center_radius,
        box_weight=config.box_weight,
    )


def _no_autocast(device_type: str) -> AbstractContextManager[object]:
    if not torch.amp.autocast_mode.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


def _clean(targets: Targets) -> Targets:
    """Targets in cxcywh, with zeros in padding, no negative sides and at least one slot."""
    boxes, labels, mask = targets
    if mask.shape[1] == 0:
        batch = len(mask)
        boxes, labels, mask = (
            boxes.new_zeros((batch, 1, 4)),
            labels.new_zeros((batch, 1)),
            mask.new_zeros((batch, 1)),
        )
    boxes = xyxy_to_cxcywh(torch.where(mask[..., None], boxes.float(), 0))
    boxes = torch.cat((boxes[..., :2], boxes[..., 2:].clamp(min=0)), dim=-1)
    return Targets(boxes, torch.where(mask, labels, 0), mask)


def _bounded(deltas: Tensor) -> Tensor:
    return torch.cat((deltas[..., :2], deltas[..., 2:].clamp(max=MAX_LOG_SIZE)), dim=-1)


def _sum(losses: Tensor, found: Assignment) -> Tensor:
    """Sum over the positives of losses (B, P)."""
    return torch.where(found.valid, losses, 0).sum()


def _positives(found: Assignment, like: Tensor) -> Tensor:
    """Float32 (B, N): 1 at positive cells, 0 elsewhere."""
    batch, n = like.shape
    # Empty slots write to one extra cell, which is cut off.
    index = torch.where(found.valid, found.cells, n)
    return like.new_zeros((batch, n + 1)).scatter_(1, index, 1.0)[:, :n]


def _target_deltas(target_boxes: Tensor, found: Assignment, cells: Cells) -> Tensor:
    return encode_boxes(target_boxes, cells.corners[found.cells], cells.strides[found.cells])
