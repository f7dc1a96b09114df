"""COCO JSON in (tolerantly) and out (in the layout that training finds by itself)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oculox.data.faults import Fault
from oculox.datasets.check import SplitScan, locate_splits, scan_split
from oculox.datasets.formats.dataset import ImageReader, LabelledData, LabelledImage, Progress
from oculox.errors import DataError
from oculox.files import FileMode, place_file


def read_coco(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    splits: Mapping[str, str] | None = None,
    on_image: Progress | None = None,
) -> LabelledData:
    """Read a COCO data set, leaving out what is faulty.

    Args:
        root: a folder in one of the layouts that `find_split` knows.
        classes: names, in the order wanted; without them those of the files, by category id.
        splits: train, val or test -> split; without it all that are there.
        on_image: called after each image, for progress.

    Raises:
        DataError: no split is found, or an annotation file is not a COCO file.
    """
    located = locate_splits(root)
    absent = set(splits or ()) - set(located)
    if absent:
        raise DataError(f"{root}: no {', '.join(sorted(absent))} split; found {list(located)}")
    scans = {
        name: scan_split(*paths, depth="header", on_image=on_image)
        for name, paths in located.items()
        if splits is None or name in splits
    }
    found = dict.fromkeys(c.name for scan in scans.values() for c in scan.categories)
    names = tuple(classes) if classes is not None else tuple(found)
    reader = ImageReader()
    result: dict[str, tuple[LabelledImage, ...]] = {}
    faults: list[Fault] = []
    for name, scan in scans.items():
        split = splits[name] if splits is not None else name
        faults += scan.faults
        result[split] = (*result.get(split, ()), *_images(scan, names, reader, split))
    return LabelledData(names, result, (*faults, *reader.faults))


def _images(
    scan: SplitScan, classes: Sequence[str], reader: ImageReader, split: str
) -> list[LabelledImage]:
    label = {name: i for i, name in enumerate(classes)}
    name_of = {c.category_id: c.name for c in scan.categories}
    rows: dict[Any, list[tuple[tuple[float, float, float, float], int, bool]]] = {}
    for found in scan.objects:
        name = name_of[found.category_id]
        if name in label:
            rows.setdefault(found.image_id, []).append((found.box, label[name], found.crowd))
        else:
            message = f"annotation {found.entry.get('id')!r}: class {name!r} is not wanted"
            reader.tell("class-unknown", scan.annotations.name, message)
    images = []
    for image in scan.images:
        if image.hw is None:
            continue
        mine = rows.get(image.image_id, [])
        images.append(
            LabelledImage(
                source=scan.image_dir / image.name,
                name=reader.free_name(split, image.name.replace("\\", "/")),
                hw=image.hw,
                boxes=np.array([box for box, _, _ in mine], np.float32).reshape(-1, 4),
                labels=np.array([i for _, i, _ in mine], np.int64),
                crowd=np.array([crowd for _, _, crowd in mine], np.bool_),
            )
        )
    return images


def write_coco(
    data: LabelledData, folder: Path, *, mode: FileMode, on_image: Progress | None = None
) -> None:
    """Write ``<split>2017/`` and ``annotations/instances_<split>2017.json`` into an empty folder.

    Categories are numbered from 1 in the order of the classes, images and annotations from 1
    in each file.
    """
    (folder / "annotations").mkdir()
    categories = [{"id": i, "name": name} for i, name in enumerate(data.classes, start=1)]
    for split, images in data.splits.items():
        image_entries: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, image in enumerate(images, start=1):
            place_file(image.source, folder / f"{split}2017" / image.name, mode=mode)
            height, width = image.hw
            image_entries.append(
                {"id": number, "file_name": image.name, "height": height, "width": width}
            )
            annotations += _annotations(image, number, first=len(annotations) + 1)
            if on_image is not None:
                on_image()
        tree = {"categories": categories, "images": image_entries, "annotations": annotations}
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(tree), encoding="utf-8")


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
    return entries
