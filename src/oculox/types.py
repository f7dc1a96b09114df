"""The values that flow between the parts of Oculox, and the legend of shapes.

Legend used in every docstring and in shape-suffixed names:

- ``B`` images in a batch, ``H``/``W`` height and width in pixels, ``C`` classes
- ``N`` prediction cells of an input: all cells of strides 8, 16, 32, in that order, row-major
- ``M`` label slots an image (padded), ``K`` candidate cells an image, ``D`` detections

Boxes are float32 ``xyxy`` pixels everywhere outside `oculox.ops` and `oculox.losses`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from oculox import draw as drawing

if TYPE_CHECKING:
    import supervision

ImageArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ImageId = int | str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels become network input; travels with every checkpoint and export.

    The official weights take BGR 0-255 with the image in the top-left corner; MindYOLO's take
    RGB 0-1 with the image centred. Both pad with 114 (of 255) and resize bilinearly.
    """

    color: Literal["bgr", "rgb"] = "bgr"
    pixel_max: Literal[255, 1] = 255
    placement: Literal["top_left", "center"] = "top_left"
    pad_value: int = 114

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and export metadata."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its labels.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        boxes: float32 (n, 4), xyxy pixels of `image`.
        labels: int64 (n,), contiguous class indices 0..C-1.
        image_id: the data set's own id, returned untouched.
        source_hw: height and width of the file's image before any resizing.
    """

    image: ImageArray
    boxes: FloatArray
    labels: IntArray
    image_id: ImageId
    source_hw: tuple[int, int]


class Targets(NamedTuple):
    """Padded labels of a batch, in the pixels of the letterboxed input.

    boxes: float32 (B, M, 4), xyxy; labels: int64 (B, M); mask: bool (B, M), true for real ones.
    """

    boxes: Tensor
    labels: Tensor
    mask: Tensor


class Batch(NamedTuple):
    """Images and labels of a batch.

    images: uint8 (B, 3, H, W), in the colour order of the preprocessing, 0-255, letterboxed;
    image_ids and source_hw have B entries in the same order.
    """

    images: Tensor
    targets: Targets
    image_ids: tuple[ImageId, ...]
    source_hw: tuple[tuple[int, int], ...]


class RawPredictions(NamedTuple):
    """What the head predicts, before decoding and without sigmoid.

    Attributes:
        deltas: (B, N, 4): centre offset (dx, dy) from the cell's corner in strides, then
            log width and log height in strides.
        objectness: (B, N) logits.
        classes: (B, N, C) logits.
        level_sizes: (rows, columns) of each stride's grid; their products sum to N.
    """

    deltas: Tensor
    objectness: Tensor
    classes: Tensor
    level_sizes: tuple[tuple[int, int], ...]


class DecodedPredictions(NamedTuple):
    """Predictions in the pixels of the network's input.

    Attributes:
        boxes: float32 (B, N, 4), xyxy.
        objectness: float32 (B, N), probabilities.
        classes: float32 (B, N, C), probabilities given an object.
    """

    boxes: Tensor
    objectness: Tensor
    classes: Tensor


class LossTerms(NamedTuple):
    """Sums of every loss term over a batch's positives (scalars, float32), not yet normalised.

    Divide by the (global) number of positives, at least 1, to get the paper's loss.

    Attributes:
        box: sum of ``1 - IoU^2`` over positives, already times the box weight (5).
        objectness: sum of BCE over all cells.
        classes: sum of BCE over positives.
        l1: sum of L1 over positives (zero while the L1 term is off).
        positives: number of positive cells.
        objects: number of labelled objects.
    """

    box: Tensor
    objectness: Tensor
    classes: Tensor
    l1: Tensor
    positives: Tensor
    objects: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best score first, in pixels of the original image.

    Attributes:
        xyxy: float32 (D, 4), left, top, right, bottom.
        scores: float32 (D,), objectness times class probability.
        class_ids: int64 (D,), contiguous class indices.
        names: class names by index; empty when unknown.

    Raises:
        ValueError: when shapes do not agree; the message gives expected and actual.
    """

    xyxy: FloatArray
    scores: FloatArray
    class_ids: IntArray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate shapes."""
        n = len(self.xyxy)
        for field, expected in (("xyxy", (n, 4)), ("scores", (n,)), ("class_ids", (n,))):
            shape = getattr(self, field).shape
            if shape != expected:
                raise ValueError(f"Detections.{field} must have shape {expected}, got {shape}")

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Detections:
        """No detections."""
        return cls(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), names
        )

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.xyxy)

    def __getitem__(self, index: npt.NDArray[Any] | slice) -> Detections:
        """Select by a boolean mask, integer indices or a slice."""
        return Detections(self.xyxy[index], self.scores[index], self.class_ids[index], self.names)

    def name(self, class_id: int) -> str:
        """The class's name, or its number where names are unknown."""
        return self.names[class_id] if class_id < len(self.names) else str(class_id)

    def draw(self, image: ImageArray) -> ImageArray:
        """A copy of `image` (uint8 (H, W, 3), BGR) with boxes, names and scores drawn on it."""
        captions = [
            f"{self.name(int(c))} {s:.2f}" for c, s in zip(self.class_ids, self.scores, strict=True)
        ]
        return drawing.draw_boxes(image, self.xyxy, self.class_ids, captions=captions)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain mapping per detection: box (xyxy), score, class_id, name."""
        return [
            {
                "box": [round(float(v), 3) for v in box],
                "score": round(float(score), 6),
                "class_id": int(c),
                "name": self.name(int(c)),
            }
            for box, score, c in zip(self.xyxy, self.scores, self.class_ids, strict=True)
        ]

    def to_coco(
        self, image_id: ImageId, category_ids: Sequence[int] | Mapping[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox (x, y, width, height), score.

        `category_ids` maps class index to the data set's category id; without it the index
        itself is written.
        """
        rows = []
        for (x1, y1, x2, y2), score, c in zip(
            self.xyxy.tolist(), self.scores.tolist(), self.class_ids.tolist(), strict=True
        ):
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": c if category_ids is None else category_ids[c],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
        return rows

    def to_supervision(self) -> supervision.Detections:
        """As `supervision.Detections`, with class names under ``data["class_name"]``."""
        import supervision as sv

        return sv.Detections(
            xyxy=self.xyxy,
            confidence=self.scores,
            class_id=self.class_ids,
            data={"class_name": np.array([self.name(int(c)) for c in self.class_ids])},
        )

    @classmethod
    def from_supervision(
        cls, detections: supervision.Detections, names: tuple[str, ...] = ()
    ) -> Detections:
        """From `supervision.Detections`; a missing confidence counts as 1, a missing class as 0."""
        n = len(detections)
        scores = np.ones(n) if detections.confidence is None else detections.confidence
        classes = np.zeros(n) if detections.class_id is None else detections.class_id
        return cls(
            np.asarray(detections.xyxy, np.float32).reshape(n, 4),
            np.asarray(scores, np.float32),
            np.asarray(classes, np.int64),
            names,
        )
