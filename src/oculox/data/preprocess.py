"""From images to the network's input and back: the one place for all of Oculox.

Training, evaluation, prediction, calibration and the proof of exported files all come through
here. `preprocess` letterboxes and stacks bytes, `to_floats` turns them into the numbers that the
weights were trained with, `boxes_to_source` takes boxes back into an image's own pixels.

Sources: official `data_augment.py` (`preproc`); the centred letterbox: MindYOLO,
`transforms_factory.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from oculox.config.schema import InputConfig
from oculox.types import FloatArray, ImageArray


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """How an image of one size lies in an input of another.

    Attributes:
        scale: input pixels for each source pixel.
        left: columns of padding before the image.
        top: rows of padding above it.
        inner_hw: size of the resized image.
        size_hw: size of the input.
        source_hw: size of the source image.
    """

    scale: float
    left: int
    top: int
    inner_hw: tuple[int, int]
    size_hw: tuple[int, int]
    source_hw: tuple[int, int]


def preprocess(
    images: Sequence[ImageArray], input_config: InputConfig
) -> tuple[ImageArray, list[Letterbox]]:
    """Letterbox images of any sizes and stack them.

    Args:
        images: at least one, uint8 (h, w, 3), BGR.
        input_config: size, placement, padding and colour order.

    Returns:
        uint8 (B, 3, H, W) as `stack_images` gives it, and where each image lies in it.
    """
    geometries = [
        letterbox_geometry(image.shape[:2], input_config.size, input_config.placement)
        for image in images
    ]
    boxed = [
        apply_letterbox(image, geometry, pad_value=input_config.pad_value)
        for image, geometry in zip(images, geometries, strict=True)
    ]
    return stack_images(boxed, color=input_config.color), geometries


def stack_images(images: Sequence[ImageArray], *, color: Literal["bgr", "rgb"]) -> ImageArray:
    """Stack images of one size.

    Args:
        images: at least one, uint8 (H, W, 3), BGR.
        color: channel order of the result.

    Returns:
        uint8 (B, 3, H, W), a view with the memory of (B, H, W, 3): networks that run channels
        last need no copy.
    """
    batch = np.empty((len(images), *images[0].shape), np.uint8)
    for row, image in zip(batch, images, strict=True):
        if color == "rgb":
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=row)
        else:
            row[:] = image
    stacked: ImageArray = batch.transpose(0, 3, 1, 2)
    return stacked


def to_floats(
    images: ImageArray | Tensor,
    input_config: InputConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Letterboxed bytes (B, 3, H, W) -> floats in the pixel range that the network expects.

    Bytes are moved to the device first, a quarter of the traffic.
    """
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(images)
    tensor = tensor.to(device, non_blocking=True).to(dtype)
    return tensor / 255 if input_config.pixel_max == 1 else tensor


def to_float_array(images: ImageArray, input_config: InputConfig) -> FloatArray:
    """The same numbers as `to_floats` gives, for exported files that take floats.

    Returns:
        float32 (B, 3, H, W) in that order in memory; numpy gets there in one step, several times
        as fast as PyTorch.
    """
    floats = images.astype(np.float32, order="C")
    if input_config.pixel_max == 1:
        floats /= np.float32(255)
    return floats


def letterbox_geometry(
    source_hw: tuple[int, int],
    size_hw: tuple[int, int],
    placement: Literal["top_left", "center"] = "top_left",
) -> Letterbox:
    """The largest undistorted fit of a source image into an input.

    Args:
        source_hw: height and width of the source, each at least 1.
        size_hw: height and width of the input.
        placement: ``top_left`` rounds the new size down (official); ``center`` rounds it to the
            nearest and halves the padding (MindYOLO).
    """
    height, width = source_hw
    scale = min(size_hw[0] / height, size_hw[1] / width)
    if placement == "top_left":
        inner = max(1, int(height * scale)), max(1, int(width * scale))
        left = top = 0
    else:
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        # The 0.1 sends an odd row or column of padding below and to the right.
        top, left = (
            round((full - part) / 2 - 0.1) for full, part in zip(size_hw, inner, strict=True)
        )
    return Letterbox(
        scale=scale, left=left, top=top, inner_hw=inner, size_hw=size_hw, source_hw=source_hw
    )


def apply_letterbox(image: ImageArray, geometry: Letterbox, *, pad_value: int) -> ImageArray:
    """Resize an image bilinearly and pad it to the input.

    Args:
        image: (H, W, 3), of `geometry.source_hw`, or a smaller copy of that image (a cache's).
        geometry: from `letterbox_geometry`.
        pad_value: grey of the padding.

    Returns:
        A new image of `geometry.size_hw`.
    """
    height, width = geometry.inner_hw
    out = np.full((*geometry.size_hw, 3), pad_value, np.uint8)
    window = out[geometry.top : geometry.top + height, geometry.left : geometry.left + width]
    if image.shape[:2] == geometry.inner_hw:
        window[:] = image
    else:
        window[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return out


def boxes_to_input(boxes: FloatArray, geometry: Letterbox) -> FloatArray:
    """Boxes in source pixels -> boxes in input pixels."""
    shift = np.array([geometry.left, geometry.top] * 2, np.float32)
    return np.asarray(boxes * np.float32(geometry.scale) + shift, np.float32)


def boxes_to_source(boxes: FloatArray, geometry: Letterbox, *, clip: bool = True) -> FloatArray:
    """Boxes in input pixels -> boxes in source pixels.

    Args:
        boxes: float32 (n, 4), xyxy.
        geometry: of the image's letterbox.
        clip: move them inside the source image; the official evaluation leaves them outside.
    """
    shift = np.array([geometry.left, geometry.top] * 2, np.float32)
    with np.errstate(over="ignore"):  # of an untrained network; clipping takes infinity too
        source = (boxes - shift) / np.float32(geometry.scale)
    return clip_boxes(source, geometry.source_hw) if clip else source


def clip_boxes(boxes: FloatArray, size_hw: tuple[int, int]) -> FloatArray:
    """Boxes moved inside an image of that size."""
    height, width = size_hw
    return np.asarray(np.clip(boxes, 0, [width, height] * 2), np.float32)
