"""The built-in demo dataset: rendered scenes in COCO layout, the same for the same seed."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from oculox.datasets.demo.scene import Scene, render_scene
from oculox.datasets.demo.shapes import KINDS
from oculox.distributed.ahead import usable_threads, work_ahead
from oculox.errors import UsageError
from oculox.files import encode_image, move_entries, require_own, scratch_beside

CLASSES = tuple(kind.name for kind in KINDS)
"""Class names, in the order of category ids 1, 2, ..."""

MARK = "Oculox demo dataset: rendered scenes"
"""In the annotation files: tells the dataset from others."""


@dataclasses.dataclass(frozen=True)
class DemoSummary:
    """What `write_demo` wrote: numbers of images and labelled objects by split."""

    folder: Path
    classes: tuple[str, ...]
    images: dict[str, int]
    objects: dict[str, int]


def write_demo(
    folder: Path,
    *,
    seed: int = 0,
    train: int = 300,
    val: int = 60,
    size: tuple[int, int] = (320, 240),
    overwrite: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> DemoSummary:
    """Render the demo dataset: six kinds of objects on varied backgrounds, with clutter.

    Scene ``i`` of a split depends only on (seed, split, i) and the size, so a larger set starts
    with the smaller one. The folder appears at the end, whole.

    Args:
        folder: where to write ``train2017/ val2017/ annotations/``; new or empty.
        seed: chooses the scenes.
        train: training images.
        val: validation images.
        size: width and height of the images in pixels.
        overwrite: replace an earlier demo dataset in `folder` (nothing else is ever replaced).
        on_image: called after each image, for progress.

    Raises:
        UsageError: a number is too small, or the folder is in use.
        OculoxError: the folder cannot be written.
    """
    if min(train, val) < 1 or seed < 0 or min(size) < 32:
        raise UsageError(
            "a demo dataset needs at least 1 training and 1 validation image, a seed of at "
            f"least 0 and 32 x 32 pixels; got train={train}, val={val}, seed={seed}, size={size}"
        )
    folder = folder.expanduser().absolute()
    require_own(folder, MARK, overwrite=overwrite)
    images, objects = {"train": train, "val": val}, {}
    render = partial(render_scene, hw=size[::-1])
    with scratch_beside(folder) as new:
        (new / "annotations").mkdir()
        for number, (split, count) in enumerate(images.items()):
            rngs = (np.random.default_rng((seed, number, i)) for i in range(count))
            (new / f"{split}2017").mkdir()
            coco = _empty_coco(seed)
            scenes = work_ahead(render, rngs, threads=usable_threads())
            for i, scene in enumerate(scenes, start=1):
                path = new / f"{split}2017" / f"{i:06d}.jpg"
                _write_scene(path, scene, coco)
                on_image()
            objects[split] = len(coco["annotations"])
            path = new / "annotations" / f"instances_{split}2017.json"
            path.write_text(json.dumps(coco), encoding="utf-8")
        move_entries(new, folder)
    return DemoSummary(folder, CLASSES, images, objects)


def _empty_coco(seed: int) -> dict[str, Any]:
    return {
        "info": {"description": MARK, "seed": seed, "version": "1"},
        "licenses": [],
        "categories": [
            {"id": i, "name": name, "supercategory": "demo"} for i, name in enumerate(CLASSES, 1)
        ],
        "images": [],
        "annotations": [],
    }


def _write_scene(path: Path, scene: Scene, coco: dict[str, Any]) -> None:
    """Write the image and append it and its objects to `coco`, which this module builds."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 92]
    path.write_bytes(encode_image(scene.image, ".jpg", options, where=str(path)))
    height, width = scene.image.shape[:2]
    image_id = len(coco["images"]) + 1
    coco["images"].append(
        {"id": image_id, "file_name": path.name, "height": height, "width": width}
    )
    for (x1, y1, x2, y2), label, area in zip(
        scene.boxes.tolist(), scene.labels.tolist(), scene.areas.tolist(), strict=True
    ):
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": 0,
            }
        )
