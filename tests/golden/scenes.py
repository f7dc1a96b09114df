"""The rendered scenes that the golden values start from.

They are kept (`values/scenes.png`, `values/scenes.json`), so that an OpenCV that draws a pixel
otherwise changes no value but those of `test_golden_scenes.py`.
"""

import functools

import cv2
import numpy as np
import torch

from golden import VALUES, golden
from oculox.datasets.demo.scene import render_scene

PIXELS = VALUES / "scenes.png"
SMALL, LARGE = (64, 96), (240, 320)
NUM_SMALL, NUM_LARGE = 4, 20


def render():
    """The scenes as the code draws them now: small with pixels, large with boxes alone."""
    small = [render_scene(np.random.default_rng((7, i)), SMALL) for i in range(NUM_SMALL)]
    large = [render_scene(np.random.default_rng((8, i)), LARGE) for i in range(NUM_LARGE)]
    return small, large


def described(scenes):
    return [
        {
            "boxes": scene.boxes.astype(int).tolist(),
            "labels": scene.labels.tolist(),
            "areas": scene.areas.tolist(),
        }
        for scene in scenes
    ]


@functools.cache
def small_images():
    """uint8 (4, 64, 96, 3), BGR."""
    stacked = cv2.imread(str(PIXELS))
    return stacked.reshape(NUM_SMALL, *SMALL, 3)


def as_input(images, *, repeat=1):
    """Images (n, h, w, 3) as the network's input: (n, 3, h, w), pixels repeated, 0-255."""
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return tensor.repeat_interleave(repeat, dim=2).repeat_interleave(repeat, dim=3)


def coco_of(scenes, size_hw, *, crowds=()):
    """A COCO file's content; annotations whose place is in `crowds` become crowd regions."""
    annotations = []
    for image_id, scene in enumerate(scenes, 1):
        rows = zip(scene["boxes"], scene["labels"], scene["areas"], strict=True)
        for (left, top, right, bottom), label, area in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 3 * label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": int(len(annotations) in crowds),
                }
            )
    return {
        "images": [
            {"id": i, "height": size_hw[0], "width": size_hw[1], "file_name": f"{i}.png"}
            for i in range(1, len(scenes) + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 3 * i + 1, "name": f"kind {i}"} for i in range(6)],
    }


def small_scenes():
    """Boxes, labels and areas of `small_images`."""
    return golden("scenes")["small"]


def large_scenes():
    return golden("scenes")["large"]
