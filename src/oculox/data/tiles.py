"""Tiles: overlapping windows that cover an image. Prediction and tiled datasets both use them."""

from __future__ import annotations

import dataclasses

import numpy as np

from oculox.errors import UsageError

Window = tuple[int, int, int, int]
"""Left, top, right and bottom of a tile, in whole pixels of its image."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles.

    Attributes:
        size: side of the square tiles in pixels of the image.
        overlap: least share of a tile that it has in common with the next, 0 to 0.9.

    Raises:
        UsageError: when a value is out of its range.
    """

    size: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.size < 32:
            raise UsageError(f"tiles must measure at least 32 pixels, got {self.size}")
        if not 0 <= self.overlap <= 0.9:
            raise UsageError(
                f"tiles must overlap by a share from 0 to 0.9 of their side, got {self.overlap}"
            )

    def windows(self, image_hw: tuple[int, int]) -> list[Window]:
        """The tiles of an image, row by row.

        Tiles of an image have one size, that of the image where it is smaller, and lie evenly;
        the last ones end where the image ends.
        """
        rows, columns = (self._spans(length) for length in image_hw)
        return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]

    def _spans(self, length: int) -> list[tuple[int, int]]:
        side = min(self.size, length)
        # A whole number, so that rounding leaves no gap between neighbours.
        most_apart = max(1, int(side * (1 - self.overlap)))
        count = -(-(length - side) // most_apart) + 1
        starts = np.linspace(0, length - side, count).round().astype(int).tolist()
        return [(start, start + side) for start in starts]
