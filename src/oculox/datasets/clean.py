"""A clean copy of a data set: what the check found sound, in COCO layout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oculox.datasets.check import DataReport, SplitScan
from oculox.datasets.check_entries import CheckedImage, CheckedObject
from oculox.errors import DataError
from oculox.files import FileMode, new_folder, place_file
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
    report: DataReport,
    target: Path,
    *,
    mode: FileMode = "copy",
    on_image: Callable[[], None] | None = None,
) -> dict[str, CleanSummary]:
    """Write the sound part of a checked data set to a new folder; the source is not touched.

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
        DataError: a split has no usable image or category, the target is in use or cannot be
            written.
    """
    for name, checked in report.splits.items():
        if not checked.scan.images or not checked.scan.categories:
            raise DataError(
                f"{checked.scan.annotations}: the {name} split has no usable image or no "
                "category; nothing clean can be made of it"
            )
    summaries: dict[str, CleanSummary] = {}
    with new_folder(target) as scratch:
        (scratch / "annotations").mkdir()
        for name, checked in report.splits.items():
            coco, summary = clean_coco(checked.scan)
            for image in coco["images"]:
                source = checked.scan.image_dir / image["file_name"]
                place_file(source, scratch / f"{name}2017" / image["file_name"], mode=mode)
                if on_image is not None:
                    on_image()
            path = scratch / "annotations" / f"instances_{name}2017.json"
            path.write_text(json.dumps(coco), encoding="utf-8")
            summaries[name] = summary
    return summaries


def clean_coco(scan: SplitScan) -> tuple[dict[str, Any], CleanSummary]:
    """The sound part of a split as a COCO tree, and what was done to get it."""
    tree = json.loads(scan.annotations.read_bytes())
    images, alias = _join_files(scan.images)
    image_entries = [_image_entry(p) for p in images]
    ids: set[ImageId] = set()
    # Above all ids of the source, so that no new id is that of an annotation left out.
    spare = 1 + max((a["id"] for a in tree["annotations"] if _is_number(a)), default=0)
    entries = []
    clipped = renumbered = 0
    for found in scan.objects:
        if found.image_id not in alias:
            continue
        entry, cut = _object_entry(found, alias[found.image_id])
        clipped += cut
        number = entry.get("id")
        if not isinstance(number, (int, str)) or isinstance(number, bool) or number in ids:
            number, spare = spare, spare + 1
            entry["id"] = number
            renumbered += 1
        ids.add(number)
        entries.append(entry)
    summary = CleanSummary(
        images=len(image_entries),
        objects=len(entries),
        dropped_images=len(tree["images"]) - len(alias),
        dropped_objects=len(tree["annotations"]) - len(entries),
        clipped=clipped,
        renumbered=renumbered,
        merged=len(alias) - len(image_entries),
        resized=sum((p.entry.get("height"), p.entry.get("width")) != p.hw for p in images),
    )
    rest = {k: v for k, v in tree.items() if k not in ("images", "annotations", "categories")}
    categories = [dict(c.entry) for c in scan.categories]
    return {
        **rest,
        "categories": categories,
        "images": image_entries,
        "annotations": entries,
    }, summary


def _join_files(
    images: tuple[CheckedImage, ...],
) -> tuple[list[CheckedImage], dict[ImageId, ImageId]]:
    """One image for each file, and the id under which each usable image goes on."""
    first: dict[str, CheckedImage] = {}
    alias: dict[ImageId, ImageId] = {}
    for image in images:
        if image.hw is not None:
            alias[image.image_id] = first.setdefault(image.name, image).image_id
    return list(first.values()), alias


def _image_entry(image: CheckedImage) -> dict[str, Any]:
    height, width = image.hw or (0, 0)
    return {**image.entry, "height": height, "width": width}


def _object_entry(found: CheckedObject, image_id: ImageId) -> tuple[dict[str, Any], bool]:
    """The entry with its box inside the image, and whether that changed it."""
    x, y, w, h = found.entry["bbox"]
    left, top, right, bottom = found.box
    entry: dict[str, Any] = {**found.entry, "image_id": image_id}
    cut = (left, top, right, bottom) != (x, y, x + w, y + h)
    if cut:
        entry["bbox"] = [left, top, round(right - left, 4), round(bottom - top, 4)]
    area, box_area = entry.get("area"), round((right - left) * (bottom - top), 4)
    if not isinstance(area, (int, float)) or not 0 < area <= box_area:
        entry["area"] = box_area
    return entry, cut


def _is_number(entry: Any) -> bool:
    return isinstance(entry, Mapping) and type(entry.get("id")) is int
