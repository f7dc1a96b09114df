"""Images in any form as the one form that the pipeline takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oculox.addresses import WEB_PREFIXES, Address, Location, as_text, on_disk, to_location
from oculox.data.image import decode_image, read_image
from oculox.errors import UsageError
from oculox.predict.sources import VIDEO_SUFFIXES, download
from oculox.types import ImageArray

ColorOrder = Literal["bgr", "rgb"]


def images_in(given: object) -> Iterable[Any] | None:
    """The images one by one where `given` is several; None where it is one.

    Several are a batch, (B, H, W, 3) as an array or (B, 3, H, W) as a tensor, and anything to
    iterate over that is not an image itself.
    """
    if isinstance(given, np.ndarray | Tensor):
        return iter(given) if given.ndim == 4 else None
    one = isinstance(given, str | bytes | bytearray | memoryview) or hasattr(given, "read")
    return given if isinstance(given, Iterable) and not one else None


def load_image(
    image: object, *, color: ColorOrder | None = None, where: str = "image"
) -> ImageArray:
    """Read an image where that is needed, and bring it to BGR.

    Args:
        image: a path; an address, of http and https at most `MAX_DOWNLOAD` bytes; the bytes of an
            image file, or a file open for reading them; or what `as_bgr` takes.
        color: see `as_bgr`.
        where: which image this is, for messages.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        DataError: it cannot be read or downloaded, or is no image.
        UsageError: it is a folder, a pattern, a video or no image.
    """
    _check_color(color)
    if isinstance(image, str | Location):
        text = image if isinstance(image, str) else as_text(image)
        if text.startswith(WEB_PREFIXES):
            return decode_image(download(text), where=str(image))
        path = to_location(image)
        if isinstance(path, Address):
            return read_image(on_disk(path))
        if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES or "*" in path.name:
            raise UsageError(
                f"{path}: not one image; folders, patterns and videos go to Detector.stream"
            )
        return read_image(path)
    content = image.read() if hasattr(image, "read") else image
    if isinstance(content, bytes | bytearray | memoryview):
        return decode_image(bytes(content), where=where)
    return as_bgr(content, color=color, where=where)


def as_bgr(image: object, *, color: ColorOrder | None = None, where: str = "image") -> ImageArray:
    """Check an image and bring it to three channels, BGR.

    Args:
        image: a numpy array, uint8: (H, W) or (H, W, 1) grey, (H, W, 3) or (H, W, 4) with
            alpha (dropped). Or a tensor, (3, H, W) likewise, uint8 or floats from 0 to 1. Or a
            Pillow image, whose mode gives its colours; its EXIF orientation is applied and 16 bits
            are scaled to 8.
        color: channel order: ``bgr``, as OpenCV reads, is that of arrays unless said otherwise,
            ``rgb``, as torchvision reads, that of tensors.
        where: which image this is, for messages.

    Returns:
        uint8 (H, W, 3), BGR; the argument itself where nothing had to change.

    Raises:
        UsageError: when it is not an image, empty, or of another dtype or shape.
    """
    _check_color(color)
    if isinstance(image, Tensor):
        image, color = _from_tensor(image, where), color or "rgb"
    array = image if isinstance(image, np.ndarray) else None
    if array is None:
        array = _from_pillow(image, where)
        color = "rgb"
    if array is None:
        raise UsageError(
            f"{where}: expected a path, a URL, a numpy array (H, W, 3), a tensor (3, H, W), "
            f"bytes or a Pillow image, got {type(image).__name__}"
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
    if color != "rgb":
        return array if channels == 3 else np.ascontiguousarray(array[..., :3])
    return np.asarray(
        cv2.cvtColor(array, cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGR), np.uint8
    )


def _check_color(color: str | None) -> None:
    if color not in ("bgr", "rgb", None):
        raise UsageError(f"color must be 'bgr' or 'rgb', got {color!r}")


def _from_tensor(image: Tensor, where: str) -> npt.NDArray[Any]:
    """The same pixels as an array (H, W, C); floats from 0 to 1 as uint8."""
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise UsageError(
            f"{where}: expected a tensor of shape (3, height, width), got {tuple(image.shape)}"
        )
    image = image.detach().cpu()
    if image.is_floating_point():
        # Resizing may leave the range a little.
        if not ((image >= -0.01) & (image <= 1.01)).all():
            raise UsageError(
                f"{where}: expected floats from 0 to 1, or uint8 from 0 to 255; got floats from "
                f"{image.min():.3g} to {image.max():.3g}"
            )
        image = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _from_pillow(image: object, where: str) -> ImageArray | None:
    """RGB or grey pixels of a Pillow image, turned upright; None for anything else.

    Pillow is optional: without it there are none of its images.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        return None
    if not isinstance(image, Image.Image):
        return None
    if image.mode in ("I", "F"):
        raise UsageError(
            f"{where}: a Pillow image of mode {image.mode} has no known range; scale its pixels to "
            "0-255 and call .convert('L')"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):  # as files are read; Pillow would clip it to white
        return np.asarray(np.asarray(upright) >> 8, np.uint8)
    return np.asarray(upright.convert("RGB"))
