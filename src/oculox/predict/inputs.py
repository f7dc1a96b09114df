"""Images in memory, of any channels, as the one form that the pipeline takes."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from oculox.errors import UsageError
from oculox.types import ImageArray

ColorOrder = Literal["bgr", "rgb"]


def as_bgr(image: object, *, color: ColorOrder = "bgr", where: str = "image") -> ImageArray:
    """Check an image and bring it to three channels, BGR.

    Args:
        image: a numpy array, uint8: (H, W) or (H, W, 1) grey, (H, W, 3) or (H, W, 4) with
            alpha (dropped). Or a Pillow image, whose mode gives its colours; its EXIF
            orientation is applied.
        color: channel order of an array: ``bgr`` as OpenCV reads it, or ``rgb``.
        where: which image this is, for messages.

    Returns:
        uint8 (H, W, 3), BGR; the argument itself where nothing had to change.

    Raises:
        UsageError: when it is not an image, empty, or of another dtype or shape.
    """
    if color not in ("bgr", "rgb"):
        raise UsageError(f"color must be 'bgr' or 'rgb', got {color!r}")
    array = image if isinstance(image, np.ndarray) else None
    if array is None:
        array = _from_pillow(image)
        color = "rgb"
    if array is None:
        raise UsageError(
            f"{where}: expected a numpy array (H, W, 3) or a Pillow image, "
            f"got {type(image).__name__}"
        )
    if array.dtype != np.uint8:
        raise UsageError(
            f"{where}: expected uint8 pixels from 0 to 255, got {array.dtype}; "
            "scale to 0-255 and call .astype('uint8')"
        )
    channels = {2: 1, 3: array.shape[-1]}.get(array.ndim)
    if channels not in (1, 3, 4):
        raise UsageError(
            f"{where}: expected shape (height, width, 3), got {array.shape}"
            + ("; pass a list for several images" if array.ndim == 4 else "")
        )
    if array.size == 0:
        raise UsageError(f"{where}: the image is empty, its shape is {array.shape}")
    if channels == 1:
        array = np.broadcast_to(array.reshape(*array.shape[:2], 1), (*array.shape[:2], 3))
        return np.ascontiguousarray(array)
    if color == "bgr":
        return array if channels == 3 else np.ascontiguousarray(array[..., :3])
    return np.asarray(
        cv2.cvtColor(array, cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGR), np.uint8
    )


def _from_pillow(image: object) -> ImageArray | None:
    """RGB pixels of a Pillow image, turned upright; None for anything else.

    Pillow is optional: without it there are none of its images.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        return None
    if not isinstance(image, Image.Image):
        return None
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
