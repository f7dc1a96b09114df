"""A clean copy of a data set: what the doctor found sound, in COCO layout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oculox.data.check import DataReport, SplitScan
from oculox.data.check_entries import SoundObject, SoundPicture
from oculox.data.folders import FileMode, new_folder, place_file
from oculox.errors import DataError
from oculox.types import ImageId


@dataclasses.dataclass(frozen=True)
class CleanSummary:
    """What `write_clean` did to a split.

    Attributes:
        pictures: pictures written.
        objects: annotations written.
        dropped_pictures: picture entries left out.
        dropped_objects: annotations left out, by themselves or with their picture.
        clipped: boxes cut to their picture.
        renumbered: annotations that got a new id.
        merged: picture entries joined with an earlier one of the same file.
        resized: pictures whose stated size was corrected.
    """

    pictures: int
    objects: int
    dropped_pictures: int
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

    Faulty pictures and annotations are left out, boxes are clipped, sizes corrected, duplicate
    annotation ids renumbered, entries of the same file joined. Everything else about an entry
    (licences, segmentations, own keys) is kept.

    Args:
        report: of `check_data` with ``deep`` on.
        target: new or empty folder; gets ``<split>2017/`` and
            ``annotations/instances_<split>2017.json``.
        mode: copy the pictures, or link to them.
        on_image: called after each picture, for progress.

    Raises:
        DataError: a split has no usable picture or category, the target is in use or cannot be
            written.
    """
    for name, checked in report.splits.items():
        if not checked.scan.pictures or not checked.scan.categories:
            raise DataError(
                f"{checked.scan.annotations}: the {name} split has no usable picture or no "
                "category; nothing clean can be made of it"
            )
    summaries: dict[str, CleanSummary] = {}
    with new_folder(target) as scratch:
        (scratch / "annotations").mkdir()
        for name, checked in report.splits.items():
            coco, summary = clean_coco(checked.scan)
            for image in coco["images"]:
                source = checked.scan.images / image["file_name"]
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
    pictures, alias = _join_files(scan.pictures)
    images = [_image_entry(p) for p in pictures]
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
        pictures=len(images),
        objects=len(entries),
        dropped_pictures=len(tree["images"]) - len(alias),
        dropped_objects=len(tree["annotations"]) - len(entries),
        clipped=clipped,
        renumbered=renumbered,
        merged=len(alias) - len(images),
        resized=sum((p.entry.get("height"), p.entry.get("width")) != p.hw for p in pictures),
    )
    rest = {k: v for k, v in tree.items() if k not in ("images", "annotations", "categories")}
    categories = [dict(c.entry) for c in scan.categories]
    return {**rest, "categories": categories, "images": images, "annotations": entries}, summary


def _join_files(
    pictures: tuple[SoundPicture, ...],
) -> tuple[list[SoundPicture], dict[ImageId, ImageId]]:
    """One picture for each file, and the id under which each usable picture goes on."""
    first: dict[str, SoundPicture] = {}
    alias: dict[ImageId, ImageId] = {}
    for picture in pictures:
        if picture.hw is not None:
            alias[picture.image_id] = first.setdefault(picture.name, picture).image_id
    return list(first.values()), alias


def _image_entry(picture: SoundPicture) -> dict[str, Any]:
    height, width = picture.hw or (0, 0)
    return {**picture.entry, "height": height, "width": width}


def _object_entry(found: SoundObject, image_id: ImageId) -> tuple[dict[str, Any], bool]:
    """The entry with its box inside the picture, and whether that changed it."""
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
