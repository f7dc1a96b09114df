"""The parts of a COCO JSON file, validated one by one; used by `oculox.data.coco` alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oculox.errors import DataError
from oculox.types import ImageId, IntArray

_SECTIONS = ("images", "annotations", "categories")


class Images(NamedTuple):
    """files: n names; ids: n image ids; sizes_hw: int32 (n, 2)."""

    files: list[str]
    ids: list[ImageId]
    sizes_hw: npt.NDArray[np.int32]


class Objects(NamedTuple):
    """owners: int64 (m,), image index; labels: int64 (m,); xywh: float64 (m, 4), pixels."""

    owners: IntArray
    labels: IntArray
    xywh: npt.NDArray[np.float64]


def read_sections(path: Path) -> dict[str, list[Any]]:
    """The three lists of a COCO detection file.

    Raises:
        DataError: the file is missing, is not JSON or lacks a list.
    """
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(tree, dict):
        raise DataError(
            f"{path}: not a COCO file: expected an object with {', '.join(_SECTIONS)}, "
            f"got {type(tree).__name__}"
        )
    for name in _SECTIONS:
        if not isinstance(tree.get(name), list):
            got = type(tree[name]).__name__ if name in tree else "no such key"
            raise DataError(f"{path}: not a COCO file: expected a list '{name}', got {got}")
    return {name: tree[name] for name in _SECTIONS}


def read_categories(entries: Sequence[Any], where: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and category ids, by ascending id.

    Raises:
        DataError: there are none, one is malformed or an id occurs twice.
    """
    if not entries:
        raise DataError(f"{where}: 'categories' is empty: there are no classes to learn")
    names: dict[int, str] = {}
    for i, entry in enumerate(entries):
        number = _field(entry, "id", where=f"{where}: categories[{i}]")
        name = _field(entry, "name", where=f"{where}: categories[{i}]")
        if not isinstance(number, int) or isinstance(number, bool):
            raise DataError(f"{where}: categories[{i}]: id must be a whole number, got {number!r}")
        if number in names:
            raise DataError(f"{where}: category id {number} occurs twice")
        names[number] = str(name)
    ids = tuple(sorted(names))
    return tuple(names[i] for i in ids), ids


def read_images(entries: Sequence[Any], where: Path) -> Images:
    """Names, ids and sizes of the images, in the file's order.

    Raises:
        DataError: there are none, a field is missing or malformed, an id occurs twice or a name
            leads out of the image folder.
    """
    if not entries:
        raise DataError(f"{where}: 'images' is empty: there is nothing to read")
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    ids: dict[ImageId, None] = {}
    for i, entry in enumerate(entries):
        number = _field(entry, "id", where=f"{where}: images[{i}]")
        if not isinstance(number, (int, str)) or isinstance(number, bool):
            raise DataError(
                f"{where}: images[{i}]: id must be a whole number or a text, got {number!r}"
            )
        if number in ids:
            raise DataError(f"{where}: image id {number!r} occurs twice")
        ids[number] = None
        here = f"{where}: image {number!r}"
        files.append(_inside(_field(entry, "file_name", where=here), here))
        sizes.append((_extent(entry, "height", here), _extent(entry, "width", here)))
    return Images(files, list(ids), np.array(sizes, np.int32))


def read_objects(
    entries: Sequence[Any],
    ids: Sequence[ImageId],
    category_ids: Sequence[int],
    *,
    where: Path,
) -> Objects:
    """The labelled objects, crowd regions left out.

    Raises:
        DataError: a field is missing, or an annotation names an unknown image or category, or
            its box is not four finite numbers.
    """
    position = {number: i for i, number in enumerate(ids)}
    index = {number: i for i, number in enumerate(category_ids)}
    owners, labels, boxes = [], [], []
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise DataError(f"{where}: annotations[{i}]: expected an object, got {entry!r}")
        if entry.get("iscrowd"):
            continue
        try:
            image, category, box = entry["image_id"], entry["category_id"], entry["bbox"]
        except KeyError as error:
            raise DataError(f"{where}: {_name(entry, i)}: no {error.args[0]!r}") from None
        owner = position.get(image) if isinstance(image, (int, str)) else None
        if owner is None:
            raise DataError(
                f"{where}: {_name(entry, i)}: image_id {image!r} is not among the images"
            )
        label = index.get(category) if isinstance(category, int) else None
        if label is None:
            raise DataError(
                f"{where}: {_name(entry, i)} (image {image!r}): category_id {category!r} is not "
                f"among the {len(index)} categories"
            )
        if not _is_box(box):
            raise DataError(
                f"{where}: {_name(entry, i)} (image {image!r}): bbox must be four finite "
                f"numbers [x, y, width, height], got {box!r}"
            )
        owners.append(owner)
        labels.append(label)
        boxes.append(box)
    return Objects(
        np.array(owners, np.int64),
        np.array(labels, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
    )


def check_files(files: Sequence[str], images: Path, *, where: Path) -> None:
    """Every file must exist; one directory listing a folder, not one look-up an image.

    Raises:
        DataError: the folder or an image is missing (the first is named, the rest counted).
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such image folder (for {where})")
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for name in files:
        folder, _, base = name.rpartition("/")
        if folder not in listings:
            path = images / folder
            listings[folder] = frozenset(os.listdir(path) if path.is_dir() else ())  # noqa: PTH208
        if base not in listings[folder]:
            missing.append(name)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"{where}: {len(missing)} of {len(files)} images are missing from {images}: "
            f"{missing[0]!r}{more}"
        )


def _field(entry: Any, key: str, *, where: str) -> Any:
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: expected an object, got {entry!r}")
    if key not in entry:
        raise DataError(f"{where}: no '{key}'")
    return entry[key]


def _extent(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = _field(entry, key, where=where)
    if not isinstance(value, (int, float)) or not 1 <= value < 2**31 or value != int(value):
        raise DataError(f"{where}: {key} must be a positive whole number, got {value!r}")
    return int(value)


def _inside(name: Any, where: str) -> str:
    """The name, if it stays below the image folder on every system."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where}: file_name must be a non-empty text, got {name!r}")
    if name[0] not in "/\\." and ".." not in name and ":" not in name:
        return name  # nearly all; the careful look below costs more than the rest of the parsing
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root
    if outside or ".." in windows.parts:
        raise DataError(f"{where}: file_name {name!r} leads out of the image folder")
    return name


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(type(v) in (int, float) and math.isfinite(v) for v in box)
    )


def _name(entry: Mapping[str, Any], i: int) -> str:
    return f"annotation {entry['id']!r}" if "id" in entry else f"annotations[{i}]"
