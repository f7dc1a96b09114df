"""Flip, colour jitter and affine: pure functions on one image.

Images are uint8 (H, W, 3) BGR, boxes float32 (n, 4) xyxy pixels, sizes (height, width). What
is random takes the generator as an argument. Source: official `data_augment.py`.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from oculox.data.preprocess import clip_boxes
from oculox.types import FloatArray, ImageArray, IntArray

Matrix = npt.NDArray[np.float64]
"""float64 (2, 3), affine: pixels of one image -> pixels of another."""


def keep_boxes(
    boxes: FloatArray, labels: IntArray, *, max_labels: int | None = None, min_side: float = 1.0
) -> tuple[FloatArray, IntArray]:
    """The first `max_labels` boxes whose shorter side exceeds `min_side` pixels, and their labels.

    All of them where `max_labels` is None. Source: official `TrainTransform`.
    """
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    kept = np.flatnonzero(sides > min_side)[:max_labels]
    return boxes[kept], labels[kept]


def flip_image(image: ImageArray) -> ImageArray:
    """The mirror image (left and right exchanged)."""
    return np.asarray(cv2.flip(image, 1), np.uint8)


def flip_boxes(boxes: FloatArray, *, width: float) -> FloatArray:
    """Boxes in the mirror image of an image of that width."""
    flipped = np.array(boxes, np.float32)
    flipped[:, [0, 2]] = np.float32(width) - boxes[:, [2, 0]]
    return flipped


def jitter_hsv(
    image: ImageArray, gain: tuple[int, int, int], *, rng: np.random.Generator
) -> ImageArray:
    """Shift hue, saturation and value, each with probability one half.

    Args:
        image: (H, W, 3).
        gain: largest shift of hue (of 180), saturation and value (of 255).
        rng: drawn from six times.

    Returns:
        A new image, or `image` itself where no change was drawn. Hue is cyclic, the other
        two are clipped.
    """
    shift = rng.uniform(-1, 1, 3) * gain
    shift *= rng.integers(0, 2, 3)
    hue, saturation, value = shift.astype(np.int16).tolist()
    if not (hue or saturation or value):
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if hue:
        table = ((np.arange(256) + hue) % 180).astype(np.uint8)
        cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), table), hsv, 0)
    # Both clip, and are several times as fast without negative amounts.
    for change, sign in ((cv2.add, 1), (cv2.subtract, -1)):
        amounts = np.maximum((0.0, sign * saturation, sign * value, 0.0), 0)
        if amounts.any():
            change(hsv, amounts, dst=hsv)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)


def random_affine(
    size_hw: tuple[int, int],
    *,
    degrees: float,
    scale: tuple[float, float],
    translate: float,
    shear: float,
    rng: np.random.Generator,
) -> Matrix:
    """Draw rotation, scale, shear and shift; float64 (2, 3), source pixels -> output pixels.

    Everything turns about the top-left corner, as in the official code, not about the centre.

    Args:
        size_hw: size of the output, which the shift is a fraction of.
        degrees: largest rotation either way.
        scale: range of the scale.
        translate: largest shift either way, as a fraction of the output.
        shear: largest shear either way, in degrees.
        rng: drawn from six times.
    """
    angle = rng.uniform(-degrees, degrees)
    zoom = rng.uniform(*scale)
    shear_x, shear_y = (math.tan(math.radians(v)) for v in rng.uniform(-shear, shear, 2))
    shift = rng.uniform(-translate, translate, 2) * (size_hw[1], size_hw[0])
    turn = cv2.getRotationMatrix2D((0, 0), angle, zoom)
    matrix = np.empty((2, 3), np.float64)
    matrix[0, :2] = turn[0, :2] + shear_y * turn[1, :2]
    matrix[1, :2] = turn[1, :2] + shear_x * turn[0, :2]
    matrix[:, 2] = shift
    return matrix


def transform_boxes(boxes: FloatArray, matrix: Matrix, size_hw: tuple[int, int]) -> FloatArray:
    """The upright boxes around transformed boxes, clipped to the output.

    Args:
        boxes: (n, 4) xyxy.
        matrix: (2, 3), from `random_affine`.
        size_hw: size of the output.
    """
    corners = boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 4, 2)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    around = np.concatenate((moved.min(axis=1), moved.max(axis=1)), axis=1)
    return clip_boxes(around.astype(np.float32), size_hw)
