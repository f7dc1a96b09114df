"""COCO JSON in (tolerantly) and out (in the layout that training finds by itself)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oculox.addresses import Location
from oculox.data.coco import find_splits
from oculox.data.coco_scan import scan_coco
from oculox.datasets.check import CheckedSplit, check_split
from oculox.datasets.formats.dataset import ImageReader, LabelledData, LabelledImage, OnImage
from oculox.datasets.image_facts import place_image
from oculox.errors import DataError
from oculox.files import FileMode


def read_coco(
    root: Path,
    *,
    classes: Sequence[str] | None,
    splits: Mapping[str, str] | None,
    on_image: OnImage,
    images: Location | None = None,
) -> LabelledData:
    """Read a COCO dataset, leaving out what is faulty.

    Args:
        root: a folder in one of the layouts that `find_splits` knows, or with `images` one COCO
            JSON file, whose entries are the split train.
        classes: names, in the order wanted; without them those of the files, by category id.
        splits: train, val or test -> split; without it all that are there.
        on_image: called after each image, for progress.
        images: image folder of that one file.

    Raises:
        DataError: no split is found, or an annotation file is not a COCO file.
    """
    located: Mapping[Any, tuple[Location, Location]]
    located = find_splits(root) if images is None else {"train": (images, root)}
    absent = set(splits or ()) - set(located)
    if absent:
        raise DataError(f"{root}: no {', '.join(sorted(absent))} split; found {list(located)}")
    checked = {
        name: check_split(images, scan_coco(annotations), depth="header", on_image=on_image)
        for name, (images, annotations) in located.items()
        if splits is None or name in splits
    }
    found = dict.fromkeys(c for part in checked.values() for c in part.coco.class_names)
    names = tuple(classes) if classes is not None else tuple(found)
    readers: dict[str, ImageReader] = {}
    result: dict[str, tuple[LabelledImage, ...]] = {}
    for name, part in checked.items():
        split = splits[name] if splits is not None else name
        reader = readers.setdefault(split, ImageReader())
        reader.faults += part.faults
        result[split] = (*result.get(split, ()), *_images(part, names, reader))
    return LabelledData(names, result, {split: r.faults for split, r in readers.items()})


def _images(
    checked: CheckedSplit, classes: Sequence[str], reader: ImageReader
) -> list[LabelledImage]:
    coco, truth, names = checked.coco, checked.coco.truth, checked.coco.class_names
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index.get(name, -1) for name in names], np.int64)[truth.labels]
    for row in np.flatnonzero(checked.usable & (labels < 0)).tolist():
        message = f"class {names[truth.labels[row]]!r} is not wanted"
        reader.faults.append(coco.object_fault(row, "class-unknown", message))
    rows = np.flatnonzero(checked.usable & (labels >= 0))
    rows = rows[np.argsort(truth.owners[rows], kind="stable")]
    first = np.searchsorted(truth.owners[rows], np.arange(len(coco.images) + 1))
    images = []
    for i in checked.image_rows:
        name, mine = coco.images[i]["file_name"], rows[first[i] : first[i + 1]]
        height, width = checked.sizes_hw[i].tolist()
        images.append(
            LabelledImage(
                source=checked.image_file(i),
                name=reader.free_name(name.replace("\\", "/")),
                hw=(height, width),
                boxes=checked.boxes[mine].astype(np.float32),
                labels=labels[mine],
                crowd=truth.crowd[mine],
            )
        )
    return images


def write_coco(data: LabelledData, folder: Path, *, mode: FileMode) -> None:
    """Write ``<split>2017/`` and ``annotations/instances_<split>2017.json`` into an empty folder.

    Categories are numbered from 1 in the order of the classes, images and annotations from 1
    in each file.
    """
    for split, images in data.splits.items():
        for image in images:
            place_image(image.source, folder / f"{split}2017" / image.name, mode=mode)
        write_annotations(images, folder, split=split, classes=data.classes)


def write_annotations(
    images: Sequence[LabelledImage],
    folder: Path,
    *,
    split: str,
    classes: Sequence[str],
    description: str | None = None,
) -> None:
    """Write the JSON file of a split whose images are in their place; see `write_coco`."""
    tree = coco_tree(classes, images)
    if description is not None:
        tree = {"info": {"description": description}, **tree}
    path = folder / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree), encoding="utf-8")


def coco_tree(classes: Sequence[str], images: Sequence[LabelledImage]) -> dict[str, Any]:
    """What a COCO file of these images holds; all ids count from 1."""
    image_entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        height, width = image.hw
        image_entries.append(
            {"id": number, "file_name": image.name, "height": height, "width": width}
        )
        annotations += _annotations(image, number, first=len(annotations) + 1)
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return {"categories": categories, "images": image_entries, "annotations": annotations}


def _annotations(image: LabelledImage, image_id: int, *, first: int) -> list[dict[str, Any]]:
    rows = zip(image.boxes.tolist(), image.labels.tolist(), image.crowd.tolist(), strict=True)
    entries = []
    for number, ((x1, y1, x2, y2), label, crowd) in enumerate(rows, start=first):
        # Three decimals: float32 is not exact beyond them in large images.
        bbox = [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]
        entries.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": bbox,
                "area": round(bbox[2] * bbox[3], 3),
                "iscrowd": int(crowd),
            }
        )
    for entry, score in zip(entries, image.scores.tolist(), strict=False):
        entry["score"] = round(score, 4)
    return entries
