"""The prediction cells of an input: their corners and strides, and boxes to and from deltas.

Cells are ordered as everywhere in Oculox: all of stride 8, then 16, then 32, row-major.
Source: YOLOX paper, section 2.1 (anchor-free); official `yolo_head.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """corners: float32 (N, 2), (column, row) in strides; strides: float32 (N,), in pixels."""

    corners: Tensor
    strides: Tensor

    @property
    def centers(self) -> Tensor:
        """Cell centres in pixels, float32 (N, 2)."""
        return (self.corners + 0.5) * self.strides[:, None]


def level_sizes_of(height: int, width: int, strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of each level's grid for an input of that size."""
    return tuple((height // s, width // s) for s in strides)


def make_cells(
    level_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    device: torch.device | str | None = None,
) -> Cells:
    """Corners and strides of all cells of an input.

    Args:
        level_sizes: (rows, columns) for each stride.
        strides: pixels between cells, one for each level.
        device: where the tensors are made.
    """
    corners, cell_strides = [], []
    for (rows, columns), stride in zip(level_sizes, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(rows, device=device, dtype=torch.float32),
            torch.arange(columns, device=device, dtype=torch.float32),
            indexing="ij",
        )
        corners.append(torch.stack((x, y), dim=-1).reshape(-1, 2))
        cell_strides.append(torch.full((rows * columns,), float(stride), device=device))
    return Cells(torch.cat(corners), torch.cat(cell_strides))


def decode_boxes(deltas: Tensor, cells: Cells) -> Tensor:
    """Predicted deltas (..., N, 4) -> boxes (..., N, 4) in cxcywh pixels."""
    strides = cells.strides[:, None]
    centers = (deltas[..., :2] + cells.corners) * strides
    return torch.cat((centers, deltas[..., 2:].exp() * strides), dim=-1)


def encode_boxes(boxes: Tensor, corners: Tensor, strides: Tensor) -> Tensor:
    """Boxes in cxcywh pixels -> the deltas that decode to them (the target of the L1 term).

    Args:
        boxes: (..., 4) cxcywh pixels.
        corners: (..., 2) of the cell of each box, in strides.
        strides: (...) of the cell of each box.

    The 1e-8 keeps the logarithm of an empty box finite, as in the official code.
    """
    strides = strides[..., None]
    offsets = boxes[..., :2] / strides - corners
    return torch.cat((offsets, torch.log(boxes[..., 2:] / strides + 1e-8)), dim=-1)
