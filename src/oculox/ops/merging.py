"""Boxes of several views of one image, brought together: fusion, and parts of cut objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oculox.ops.nms import BLOCK, BoolArray, shared_length
from oculox.types import FloatArray, IntArray


def fuse_boxes(
    boxes: FloatArray,
    scores: FloatArray,
    class_ids: IntArray,
    *,
    views: int,
    iou_threshold: float,
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Weighted box fusion: boxes that mean one object become their average.

    Best first, each box joins the fused box of its class with which it overlaps most, above the
    threshold, or starts a new one. A fused box is the average of its members weighted by their
    scores; its score is their mean, times ``min(members, views) / views``: what few views found
    counts less.

    Source: Solovyev et al., arXiv 1910.13302, section 3.

    Args:
        boxes: float32 (n, 4), xyxy, of all views together.
        scores: float32 (n,).
        class_ids: int64 (n,).
        views: how many views the boxes come from.
        iou_threshold: IoU above which two boxes mean one object.

    Returns:
        Boxes (m, 4), scores (m,) and classes (m,), class by class.
    """
    found: list[tuple[FloatArray, FloatArray, IntArray]] = [(boxes[:0], scores[:0], class_ids[:0])]
    order = np.argsort(-scores, kind="stable")
    for class_id in np.unique(class_ids):
        mine = order[class_ids[order] == class_id]
        # One fused box a column, so that a box is compared with all of them at once.
        fused, totals = np.zeros((4, len(mine))), np.zeros(len(mine))
        members, n = np.zeros(len(mine), np.int64), 0
        for box, score in zip(boxes[mine].astype(np.float64), scores[mine].tolist(), strict=True):
            ious = _iou(box, fused[:, :n])
            at = int(ious.argmax()) if n else 0
            if not n or not ious[at] > iou_threshold:
                at, n = n, n + 1
            totals[at] += score
            members[at] += 1
            if totals[at] > 0:
                fused[:, at] += (box - fused[:, at]) * (score / totals[at])
        share = np.minimum(members[:n], views) / views
        found.append(
            (
                fused[:, :n].T.astype(np.float32),
                (totals[:n] / members[:n] * share).astype(np.float32),
                np.full(n, class_id, np.int64),
            )
        )
    merged = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return merged[0], merged[1], merged[2]


def find_parts(
    boxes: FloatArray, scores: FloatArray, class_ids: IntArray, cut: BoolArray
) -> BoolArray:
    """Which boxes are only a part of an object that another box shows better.

    A cut box is such a part when more than half of it lies in a box of its class that has at least
    half its score and is whole, or cut as well but larger. Whole boxes never are.

    Args:
        boxes: float32 (n, 4), xyxy, of all tiles of an image together.
        scores: float32 (n,).
        class_ids: int64 (n,).
        cut: bool (n,), boxes that end at the edge of a tile inside the image.
    """
    parts = np.zeros(len(boxes), np.bool_)
    boxes = boxes.astype(np.float64)  # of an untrained network they may be too large for float32
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    rows = np.flatnonzero(cut)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        inside = shared_length(boxes[block], boxes, axis=0)
        inside *= shared_length(boxes[block], boxes, axis=1)
        better = inside > 0.5 * areas[block, None]
        better &= class_ids[block, None] == class_ids
        better &= scores >= 0.5 * scores[block, None]
        better &= ~cut | (areas > areas[block, None])
        parts[block] = better.any(axis=1)
    return parts


Floats = npt.NDArray[np.float64]


def _iou(box: Floats, others: Floats) -> Floats:
    """IoU (m,) of a box (4,) with boxes (4, m), xyxy; 0 for two empty ones."""
    left, top, right, bottom = box
    width = np.minimum(others[2], right) - np.maximum(others[0], left)
    height = np.minimum(others[3], bottom) - np.maximum(others[1], top)
    inter = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (others[2] - others[0]) * (others[3] - others[1])
    union = (right - left) * (bottom - top) + areas - inter
    return np.asarray(inter / np.maximum(union, np.finfo(np.float64).tiny), np.float64)
