"""A backend that needs no weights: it finds the one block of pure red in each image."""

import cv2
import numpy as np
import torch

from oculox.config.schema import InputConfig, ModelConfig
from oculox.postprocess import select_detections
from oculox.runtime.backend import Backend
from oculox.types import DecodedPredictions, ModelSpec


class RedBackend(Backend):
    """Finds pixels that are red in the colour order it was told to expect."""

    kind = "red"

    def __init__(self, *, size_hw=(64, 96), batch=None, dynamic_size=True, **pixels):
        super().__init__(
            ModelSpec(
                model=ModelConfig(name="red", num_classes=2),
                input=InputConfig(size=size_hw, **pixels),
                names=("square", "disc"),
                dynamic_size=dynamic_size,
                batch=batch,
            )
        )
        self.batches = []

    def predict(self, images):
        images = np.asarray(images)
        self.batches.append(images.shape)
        red = 2 if self.spec.input.color == "bgr" else 0
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

    def select(self, outputs, settings):
        return select_detections(DecodedPredictions(*outputs), settings, names=self.spec.names)


def red_image(height=48, width=120, box=(40, 12, 80, 36)):
    """A dark BGR image with one red block; box is left, top, right, bottom."""
    image = np.full((height, width, 3), 20, np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = (0, 0, 255)
    return image


def save_red_images(folder, count, *, step, bad):
    """`count` images with a red block, in each `step` pixels further right, and a bad file."""
    digits = len(str(count - 1))
    for i in range(count):
        image = red_image(box=(step * i, 12, step * i + 20, 30))
        save_image(folder / f"{i:0{digits}}.png", image)
    (folder / bad).write_bytes(b"no image")
    return folder


def save_image(path, image):
    """Write an image in the format of its suffix; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path
