"""From raw predictions to detections: decoding, threshold, non-maximum suppression.

Source: official `yolo_head.py` (`decode_outputs`) and `boxes.py` (`postprocess`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from oculox.errors import UsageError
from oculox.ops.boxes import cxcywh_to_xyxy
from oculox.ops.nms import nms, torchvision_nms
from oculox.ops.points import decode_boxes, make_cells
from oculox.types import DecodedPredictions, Detections, RawPredictions


def decode(raw: RawPredictions, strides: Sequence[int]) -> DecodedPredictions:
    """Boxes in pixels of the network's input, and probabilities.

    Args:
        raw: predictions of any floating type; the result is float32.
        strides: pixels between cells of each level.
    """
    deltas = raw.deltas.float()
    cells = make_cells(raw.level_sizes, strides, device=deltas.device)
    return DecodedPredictions(
        boxes=cxcywh_to_xyxy(decode_boxes(deltas, cells)),
        objectness=raw.objectness.float().sigmoid(),
        classes=raw.classes.float().sigmoid(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """Which predictions become detections.

    Attributes:
        conf: lowest score (objectness times class probability) kept, 0 to 1.
        iou: IoU above which NMS drops the weaker of two boxes, 0 to 1.
        max_det: most detections kept in an image.
        agnostic_nms: NMS across classes instead of within each.
        class_ids: keep only cells whose most probable class is one of these; None for all.

    Raises:
        UsageError: when a value is out of its range.
    """

    conf: float = 0.3
    iou: float = 0.45
    max_det: int = 1000
    agnostic_nms: bool = False
    class_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in ("conf", "iou"):
            value = getattr(self, field)
            if not (isinstance(value, int | float | np.number) and 0 <= value <= 1):
                raise UsageError(f"{field} must be between 0 and 1, got {value!r}")
        most: object = self.max_det
        if not (isinstance(most, int | np.integer) and most >= 1):
            raise UsageError(f"max_det must be a whole number from 1 on, got {most!r}")


def select_detections(
    decoded: DecodedPredictions, settings: DetectSettings, *, names: tuple[str, ...] = ()
) -> list[Detections]:
    """The detections of each image, best first, in pixels of the network's input.

    A cell counts only for its most probable class. Boxes or scores that are not finite are
    dropped. Boxes are not clipped to the image.

    Args:
        decoded: predictions of B images.
        settings: thresholds and class filter.
        names: class names, handed on to the detections.

    Returns:
        B detections.
    """
    classes = decoded.classes.detach()
    every = decoded.objectness.detach() * classes.amax(dim=-1)
    # Few cells pass: only theirs are looked at further, and moved.
    image, cell = (every >= settings.conf).nonzero(as_tuple=True)
    boxes, scores = decoded.boxes.detach()[image, cell], every[image, cell]
    ids = classes[image, cell].argmax(dim=-1)
    wanted = scores.isfinite() & boxes.isfinite().all(dim=-1)
    if settings.class_ids is not None:
        chosen = torch.tensor(list(settings.class_ids), dtype=torch.int64, device=ids.device)
        wanted &= torch.isin(ids, chosen)
    rows = wanted.nonzero().squeeze(1)
    kept = (boxes[rows], scores[rows], ids[rows])
    counts = image[rows].cpu().bincount(minlength=len(every)).tolist()
    # Moved once for all images: each move waits for the device.
    found = tuple(values.cpu() for values in kept)
    compared = kept if boxes.is_cuda and torchvision_nms() else found
    split = (torch.split(values, counts) for values in (*found, *compared))
    return [
        _apply_nms(parts[:3], parts[3:], settings=settings, names=names)
        for parts in zip(*split, strict=True)
    ]


def narrow_detections(found: Detections, settings: DetectSettings) -> Detections:
    """What `settings` keep of detections that went through NMS already, best first.

    NMS at the threshold they went through changes nothing, at a stricter one it drops more.
    """
    kept = found.scores >= settings.conf
    if settings.class_ids is not None:
        kept &= np.isin(found.class_ids, settings.class_ids)
    arrays = (found.xyxy[kept], found.scores[kept], found.class_ids[kept])
    tensors = tuple(map(torch.from_numpy, arrays))
    return _apply_nms(tensors, tensors, settings=settings, names=found.names)


def _apply_nms(
    found: Sequence[Tensor],
    compared: Sequence[Tensor],
    *,
    settings: DetectSettings,
    names: tuple[str, ...],
) -> Detections:
    """Boxes, scores and classes of an image, on the CPU and where NMS compares them."""
    boxes, scores, class_ids = compared
    classes = None if settings.agnostic_nms else class_ids
    kept = nms(boxes, scores, iou_threshold=settings.iou, class_ids=classes)[: settings.max_det]
    xyxy, best, ids = (values[kept.cpu()].numpy() for values in found)
    return Detections(xyxy, best, ids, names)
