"""Arrays, sizes and progress: the plain values that every part passes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ImageId = int | str
ImageSize = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""
Progress = Callable[[int, int | None], None]
"""Called with how much is done and how much there is, None where that is unknown."""


def height_width(size: ImageSize) -> tuple[int, int]:
    """Height and width in pixels."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def counted(progress: Progress | None, total: int | None = None) -> Callable[[], None]:
    """A function that counts its calls and reports them, where somebody listens."""
    if progress is None:
        return lambda: None
    numbers = itertools.count(1)
    return lambda: progress(next(numbers), total)
