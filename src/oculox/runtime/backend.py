"""The contract between a model in any format and those who use it.

A backend takes letterboxed images and returns detections in the pixels of its input.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculox.postprocess import DetectSettings
from oculox.runtime.timing import Stopwatch
from oculox.types import Detections, ImageArray, ModelSpec


class Backend(abc.ABC):
    """A model in some format, ready to run.

    Attributes:
        kind: the format's short name, such as ``torch``.
        spec: what the model takes and returns.
        side_by_side: whether the network runs for several threads at once, each with its own
            memory; otherwise they wait for each other.
    """

    kind: str
    side_by_side = False

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @abc.abstractmethod
    def predict(self, images: ImageArray | Tensor) -> tuple[Any, ...]:
        """Run the model.

        Args:
            images: uint8 (B, 3, H, W), letterboxed, in the colour order of `spec`; B is
                `spec.batch` where that is set.

        Returns:
            The format's own outputs, each with B rows.
        """

    @abc.abstractmethod
    def select(self, outputs: tuple[Any, ...], settings: DetectSettings) -> list[Detections]:
        """Detections, best first, from what `predict` gave."""

    def for_threads(self, threads: int) -> Backend:
        """The model for so many threads that call it at once; itself where it needs no change.

        Each call then takes its share of the cores.
        """
        return self

    def detect(
        self,
        images: ImageArray | Tensor,
        settings: DetectSettings,
        *,
        watch: Stopwatch | None = None,
    ) -> list[Detections]:
        """Find objects.

        Args:
            images: uint8 (B, 3, H, W), letterboxed, in the colour order of `spec`; any memory
                layout (that of `preprocess` is channels last).
            settings: thresholds and class filter.
            watch: counts the network and the post-processing.

        Returns:
            B results in pixels of the input, best score first.
        """
        watch = watch or Stopwatch()
        found: list[Detections] = []
        for chunk, real in fixed_batches(images, self.spec.batch):
            with watch.stage("network"):
                outputs = self.predict(chunk)
            with watch.stage("postprocess"):
                found += self.select(tuple(output[:real] for output in outputs), settings)
        return found


def fixed_batches(
    images: ImageArray | Tensor, batch: int | None
) -> Iterator[tuple[ImageArray | Tensor, int]]:
    """Split images into batches of exactly `batch`, the last one filled up with zeros.

    Args:
        images: uint8 (B, 3, H, W).
        batch: the size that the model was built for; None passes `images` on whole.

    Yields:
        Images (batch, 3, H, W) and how many of them are real.
    """
    if batch is None:
        yield images, len(images)
        return
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        real = len(chunk)
        if real < batch:
            filler = (batch - real, *chunk.shape[1:])
            if isinstance(chunk, Tensor):
                chunk = torch.cat((chunk, chunk.new_zeros(filler)))
            else:
                chunk = np.concatenate((chunk, np.zeros(filler, chunk.dtype)))
        yield chunk, real
