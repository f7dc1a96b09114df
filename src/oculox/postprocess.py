"""From raw predictions to detections: decoding, threshold, non-maximum suppression.

Source: official `yolo_head.py` (`decode_outputs`) and `boxes.py` (`postprocess`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oculox.errors import UsageError
from oculox.ops.boxes import cxcywh_to_xyxy
from oculox.ops.nms import nms
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


def select_detections(
    decoded: DecodedPredictions,
    *,
    conf: float,
    iou: float,
    max_det: int = 1000,
    agnostic_nms: bool = False,
    class_ids: Sequence[int] | None = None,
    names: tuple[str, ...] = (),
) -> list[Detections]:
    """The detections of each image, best first, in pixels of the network's input.

    A cell speaks for its most probable class alone. Boxes or scores that are not finite are
    dropped. Boxes are not clipped to the image.

    Args:
        decoded: predictions of B images.
        conf: lowest score (objectness times class probability) that is kept, 0 to 1.
        iou: IoU above which the weaker of two boxes of a class goes, 0 to 1.
        max_det: most detections of an image.
        agnostic_nms: suppress across classes.
        class_ids: keep only cells whose most probable class is one of these; None for all.
        names: class names, handed on to the detections.

    Returns:
        B detections.

    Raises:
        UsageError: when a threshold, `max_det` or a class is out of range.
    """
    _check(conf, iou, max_det, class_ids, num_classes=decoded.classes.shape[-1])
    probabilities, classes = decoded.classes.detach().max(dim=-1)
    scores = decoded.objectness.detach() * probabilities
    boxes = decoded.boxes.detach()
    wanted = (scores >= conf) & scores.isfinite() & boxes.isfinite().all(dim=-1)
    if class_ids is not None:
        chosen = torch.tensor(list(class_ids), dtype=torch.int64, device=classes.device)
        wanted &= torch.isin(classes, chosen)
    # Few, large transfers: NMS works on the CPU.
    on_cpu = [x.cpu() for x in (boxes, scores, classes, wanted)]
    return [
        _detections(
            box[keep],
            score[keep],
            label[keep],
            iou=iou,
            max_det=max_det,
            agnostic_nms=agnostic_nms,
            names=names,
        )
        for box, score, label, keep in zip(*on_cpu, strict=True)
    ]


def _detections(
    boxes: Tensor,
    scores: Tensor,
    class_ids: Tensor,
    *,
    iou: float,
    max_det: int,
    agnostic_nms: bool,
    names: tuple[str, ...],
) -> Detections:
    """What stays of one image's candidates, boxes (n, 4), scores (n,), class_ids (n,)."""
    kept = nms(boxes, scores, iou_threshold=iou, class_ids=None if agnostic_nms else class_ids)[
        :max_det
    ]
    return Detections(
        boxes[kept].numpy(), scores[kept].numpy(), class_ids[kept].numpy(), tuple(names)
    )


def _check(
    conf: float,
    iou: float,
    max_det: int,
    class_ids: Sequence[int] | None,
    *,
    num_classes: int,
) -> None:
    for name, value in (("conf", conf), ("iou", iou)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} must be between 0 and 1, got {value}")
    if max_det < 1:
        raise UsageError(f"max_det must be at least 1, got {max_det}")
    unknown = [c for c in class_ids or () if not 0 <= c < num_classes]
    if unknown:
        raise UsageError(
            f"class_ids must be between 0 and {num_classes - 1} "
            f"(the network knows {num_classes} classes), got {unknown}"
        )
