"""A backend that needs no weights: it finds the one block of pure red in each image."""

import numpy as np
import torch

from oculox.runtime.backend import DecodingBackend, ModelSpec
from oculox.types import DecodedPredictions, Preprocessing


class RedBackend(DecodingBackend):
    """Finds pixels that are red in the colour order it was told to expect."""

    kind = "red"

    def __init__(self, *, preprocessing=None, size_hw=(64, 96), batch=None, dynamic_size=True):
        super().__init__(
            ModelSpec(
                name="red",
                names=("square", "disc"),
                category_ids=None,
                preprocessing=preprocessing or Preprocessing(),
                size_hw=size_hw,
                strides=(8, 16, 32),
                num_classes=2,
                dynamic_size=dynamic_size,
                batch=batch,
            )
        )
        self.batches = []

    def predict(self, images):
        images = np.asarray(images)
        self.batches.append(images.shape)
        red = 2 if self.spec.preprocessing.color == "bgr" else 0
        boxes = torch.zeros(len(images), 1, 4)
        found = torch.zeros(len(images), 1)
        for i, image in enumerate(images):
            hit = (image[red] > 200) & (image[1] < 50) & (image[2 - red] < 50)
            rows, columns = np.nonzero(hit)
            if len(rows):
                edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                boxes[i, 0] = torch.tensor([float(v) for v in edges])
                found[i] = 0.9
        classes = torch.tensor([1.0, 0.0]).expand(len(images), 1, 2)
        return DecodedPredictions(boxes, found, classes)


def red_image(height=48, width=120, box=(40, 12, 80, 36)):
    """A dark BGR image with one red block; box is left, top, right, bottom."""
    image = np.full((height, width, 3), 20, np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = (0, 0, 255)
    return image
