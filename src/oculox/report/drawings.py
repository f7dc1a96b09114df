"""Images with labels and detections drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from oculox.config.schema import InputConfig
from oculox.data.image import read_image
from oculox.draw import contact_sheet, draw_boxes
from oculox.evaluation.coco_metrics import CONFUSION_CONF
from oculox.files import encode_image, write_atomically
from oculox.report.diagnosis import Diagnosis, Doubles, Flags
from oculox.types import Batch, ImageArray

_SIDE = 480
"""Longest side of an image as drawn, in pixels."""

# Places in the palette of `draw_boxes`.
_GREEN, _RED = 8, 1


def draw_batch(
    batch: Batch, input_config: InputConfig, names: Sequence[str], *, most: int = 16
) -> ImageArray:
    """The first images of a batch with their labels.

    Args:
        batch: as a loader gives it.
        input_config: of the network, for the order of the colours.
        names: of the classes.
        most: images shown.

    Returns:
        uint8 (H, W, 3), BGR.
    """
    step = 1 if input_config.color == "bgr" else -1
    images = batch.images[:most].permute(0, 2, 3, 1).numpy()[..., ::step]
    cells = []
    for image, boxes, labels, mask in zip(
        images, *(t[:most].numpy() for t in batch.targets), strict=True
    ):
        kept = labels[mask]
        captions = [names[label] for label in kept]
        # Before the drawing: on an input of few pixels, lines and words would cover everything.
        scale = _SIDE / max(image.shape[:2])
        large = np.asarray(
            cv2.resize(np.ascontiguousarray(image), None, fx=scale, fy=scale), np.uint8
        )
        cells.append(draw_boxes(large, boxes[mask] * np.float32(scale), kept, captions=captions))
    return contact_sheet(cells, cell_hw=(_SIDE, _SIDE))


def draw_image(models: Sequence[Diagnosis], i: int, *, conf: float = CONFUSION_CONF) -> ImageArray:
    """An image with its labels, and beside it the detections of each model.

    Found objects and right detections are green, missed objects and false detections red and
    marked by a word. With several models, the labels show what the first one missed.

    Args:
        models: evaluations on one dataset, at least one.
        i: index of the image.
        conf: lowest score drawn.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        DataError: the image cannot be read.
    """
    index = models[0].index
    image = read_image(index.image_file(i))
    scale = min(1.0, _SIDE / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    truth = index.truth
    mine = np.flatnonzero((truth.owners == i) & ~truth.crowd)
    xyxy = truth.xywh[mine] * scale
    xyxy[:, 2:] += xyxy[:, :2]
    found = models[0].found_at[mine] >= conf
    names = [index.class_names[label] for label in truth.labels[mine]]
    panes = [_marked(small, xyxy, found, names, wrong="missed")]
    for model in models:
        rows = np.flatnonzero((model.owners == i) & (model.scores >= conf) & model.counted)
        captions = [f"{index.class_names[model.labels[r]]} {model.scores[r]:.2f}" for r in rows]
        panes.append(
            _marked(small, model.boxes[rows] * scale, model.right[rows], captions, wrong="false")
        )
    line = np.full((small.shape[0], 6, 3), 128, np.uint8)
    parts = [part for pane in panes for part in (line, pane)][1:]
    return np.concatenate(parts, axis=1)


def _marked(
    image: ImageArray,
    xyxy: Doubles,
    right: Flags,
    captions: Sequence[str],
    *,
    wrong: str,
) -> ImageArray:
    texts = [c if ok else f"{c} {wrong}" for c, ok in zip(captions, right, strict=True)]
    colors = np.where(right, _GREEN, _RED).astype(np.int64)
    return draw_boxes(image, xyxy.astype(np.float32), colors, captions=texts)


def encode_jpeg(image: ImageArray) -> bytes:
    """A BGR image as JPEG."""
    return encode_image(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 80])


def write_jpeg(path: Path, image: ImageArray) -> None:
    """Write a BGR image as JPEG.

    Raises:
        OculoxError: when it cannot be written.
    """
    write_atomically(path, lambda temporary: temporary.write_bytes(encode_jpeg(image)))
