"""A clean copy of a dataset: what the check can use of it, in COCO layout."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oculox.data.coco import Split
from oculox.data.shards import PLACE, SIZES
from oculox.datasets.check import CheckedSplit, CheckReport
from oculox.datasets.image_facts import place_image
from oculox.errors import DataError
from oculox.files import FileMode, new_folder
from oculox.types import ImageId


@dataclasses.dataclass(frozen=True)
class CleanSummary:
    """What `write_clean` did to a split.

    Attributes:
        images: images written.
        objects: annotations written.
        dropped_images: image entries left out.
        dropped_objects: annotations left out, by themselves or with their image.
        clipped: boxes cut to their image.
        renumbered: annotations that got a new id.
        merged: image entries joined with an earlier one of the same file.
        resized: images whose stated size was corrected.
    """

    images: int
    objects: int
    dropped_images: int
    dropped_objects: int
    clipped: int
    renumbered: int
    merged: int
    resized: int


def write_clean(
    report: CheckReport,
    target: Path,
    *,
    mode: FileMode = "copy",
    on_image: Callable[[], None] = lambda: None,
) -> dict[Split, CleanSummary]:
    """Write what can be used of a checked dataset to a new folder; the source is not touched.

    Faulty images and annotations are left out, boxes are clipped, sizes corrected, duplicate
    annotation ids renumbered, entries of the same file joined. Everything else about an entry
    (licenses, segmentations, own keys) is kept.

    Args:
        report: of `check_data` with ``deep`` on.
        target: new or empty folder; gets ``<split>2017/`` and
            ``annotations/instances_<split>2017.json``.
        mode: copy the images, or link to them.
        on_image: called after each image, for progress.

    Raises:
        UsageError: the target is in use.
        DataError: a split has no usable image or category.
        OculoxError: the target cannot be written.
    """
    splits = {name: split.checked for name, split in report.splits.items()}
    for name, checked in splits.items():
        if not checked.image_rows or not checked.coco.categories:
            raise DataError(
                f"{checked.coco.annotations}: the {name} split has no usable image or no "
                "category; no clean copy can be made of it"
            )
    summaries: dict[Split, CleanSummary] = {}
    with new_folder(target) as scratch:
        (scratch / "annotations").mkdir()
        for name, checked in splits.items():
            coco, summaries[name] = _clean_coco(checked)
            files = {
                checked.coco.images[row]["file_name"]: checked.image_file(row)
                for row in checked.image_rows
            }
            for file_name, source in files.items():
                place_image(source, scratch / f"{name}2017" / file_name, mode=mode)
                on_image()
            path = scratch / "annotations" / f"instances_{name}2017.json"
            path.write_text(json.dumps(coco), encoding="utf-8")
    return summaries


def _clean_coco(checked: CheckedSplit) -> tuple[dict[str, Any], CleanSummary]:
    """The usable part of a split as a COCO tree, and what was done to get it."""
    coco, tree = checked.coco, checked.coco.tree
    clipped = renumbered = resized = 0
    of_shards = (SIZES, PLACE) if SIZES in tree else ()  # the copy is of files
    first: dict[str, ImageId] = {}  # image id of each file
    images = []
    for row in checked.image_rows:
        entry, (height, width) = coco.images[row], checked.sizes_hw[row].tolist()
        if first.setdefault(entry["file_name"], entry["id"]) == entry["id"]:
            kept = {key: value for key, value in entry.items() if key not in of_shards}
            images.append({**kept, "height": height, "width": width})
            resized += (entry.get("height"), entry.get("width")) != (height, width)
    ids: set[ImageId] = set()
    # Above all ids of the source, so that no new id is that of an annotation left out.
    numbers = (a.get("id") for a in tree["annotations"] if isinstance(a, dict))
    spare = 1 + max((n for n in numbers if type(n) is int), default=0)
    objects = []
    for row in checked.object_rows:
        file = coco.images[coco.truth.owners[row]]["file_name"]
        entry, cut = _object_entry(coco.objects[row], first[file], checked.boxes[row].tolist())
        if type(entry.get("id")) not in (int, str) or entry["id"] in ids:
            entry["id"] = spare + renumbered
            renumbered += 1
        clipped += cut
        ids.add(entry["id"])
        objects.append(entry)
    summary = CleanSummary(
        images=len(images),
        objects=len(objects),
        dropped_images=len(tree["images"]) - len(checked.image_rows),
        dropped_objects=len(tree["annotations"]) - len(objects),
        clipped=clipped,
        renumbered=renumbered,
        merged=len(checked.image_rows) - len(images),
        resized=resized,
    )
    return {
        **{key: value for key, value in tree.items() if key not in of_shards},
        "categories": coco.categories,
        "images": images,
        "annotations": objects,
    }, summary


def _object_entry(stated: Any, image_id: ImageId, box: list[float]) -> tuple[dict[str, Any], bool]:
    """The entry with its box inside the image, and whether that changed it."""
    x, y, w, h = stated["bbox"]
    left, top, right, bottom = box
    entry: dict[str, Any] = {**stated, "image_id": image_id}
    cut = box != [x, y, x + w, y + h]
    if cut:
        entry["bbox"] = [left, top, round(right - left, 4), round(bottom - top, 4)]
    area, box_area = entry.get("area"), round((right - left) * (bottom - top), 4)
    if not isinstance(area, (int, float)) or not 0 < area <= box_area:
        entry["area"] = box_area
    return entry, cut
