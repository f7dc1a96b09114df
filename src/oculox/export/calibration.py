"""Images that show a quantiser which activations to expect."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from oculox.config.schema import DataConfig
from oculox.data.coco import load_split
from oculox.data.image import read_image
from oculox.data.transforms import apply_letterbox, letterbox_geometry
from oculox.errors import DataError
from oculox.predict.sources import IMAGE_SUFFIXES
from oculox.types import FloatArray, Preprocessing


def load_calibration(
    source: Path, *, preprocessing: Preprocessing, size_hw: tuple[int, int], limit: int
) -> FloatArray:
    """Read images and make network inputs of them.

    Args:
        source: a data set in COCO layout, whose training images are used, or a folder of
            images.
        preprocessing: of the network.
        size_hw: height and width of the input.
        limit: most images, spread evenly over all there are.

    Returns:
        float32 (n, 3, H, W).

    Raises:
        DataError: when there is no image, or one cannot be read.
    """
    paths = _images(source)
    if not paths:
        raise DataError(
            f"{source}: no images to calibrate on (looked for a data set in COCO layout and for "
            f"{' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    chosen = np.linspace(0, len(paths) - 1, min(limit, len(paths))).astype(int)
    inputs = np.empty((len(chosen), 3, *size_hw), np.float32)
    for row, i in enumerate(chosen):
        image = read_image(paths[i])
        geometry = letterbox_geometry(image.shape[:2], size_hw, preprocessing.placement)
        boxed = apply_letterbox(image, geometry, pad_value=preprocessing.pad_value)
        if preprocessing.color == "rgb":
            boxed = np.asarray(cv2.cvtColor(boxed, cv2.COLOR_BGR2RGB), np.uint8)
        inputs[row] = boxed.transpose(2, 0, 1)
    return inputs / np.float32(255) if preprocessing.pixel_max == 1 else inputs


def _images(source: Path) -> list[Path]:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder of images or data set")
    if (source / "annotations").is_dir():
        index = load_split(DataConfig(root=source), "train")
        return [index.image_path(i) for i in range(len(index))]
    return sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
