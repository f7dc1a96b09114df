"""The reader of COCO files: valid entries as columns, and a fault for every other entry.

Only a file that is not COCO JSON stops it. `oculox data check` lists the faults;
`oculox.data.coco.load_coco` raises the first one that spoils training or evaluation.
"""

import gc
import json
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oculox.addresses import Location, on_disk
from oculox.data.faults import Fault, Severity, stays_inside
from oculox.data.image import ImageFile
from oculox.data.shards import PLACE, SIZES, image_file, is_place
from oculox.errors import DataError
from oculox.types import ImageId, IntArray

Entry = Mapping[str, Any]

_SECTIONS = ("images", "annotations", "categories")
# JSON gives exactly these types; `isinstance` would take true for 1.
_IDS = frozenset((int, str))
_NUMBERS = frozenset((int, float))


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """Objects as the file states them, crowd regions included, in the file's order.

    Attributes:
        owners: int64 (m,), index of the image.
        labels: int64 (m,), contiguous class index.
        xywh: float64 (m, 4), left, top, width, height in pixels, not clipped.
        areas: float64 (m,), the file's ``area``; width times height where it states none.
        crowd: bool (m,), regions of many objects: not trained on, ignored by the metrics.
    """

    owners: IntArray
    labels: IntArray
    xywh: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    crowd: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoScan:
    """The valid entries of a COCO file, and what is wrong with the others.

    Attributes:
        annotations: the file.
        tree: all that is in it.
        categories: entries by ascending id; their places are the class indices.
        images: n entries in the file's order.
        sizes_hw: int32 (n, 2), stated height and width of the images; 0, 0 where not stated.
        objects: m entries in the file's order.
        truth: the objects as arrays.
        faults: what is wrong, section by section.
    """

    annotations: Location
    tree: Entry
    categories: Sequence[Entry]
    images: Sequence[Entry]
    sizes_hw: npt.NDArray[np.int32]
    objects: Sequence[Entry]
    truth: GroundTruth
    faults: tuple[Fault, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return tuple(str(c["name"]) for c in self.categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The file's id of each class."""
        return tuple(c["id"] for c in self.categories)

    def image_file(self, row: int, folder: Location) -> ImageFile:
        """Where the bytes of ``images[row]`` are; the file names count from `folder`."""
        entry = self.images[row]
        return image_file(folder, entry["file_name"], entry[PLACE] if SIZES in self.tree else None)

    def object_fault(
        self, row: int, code: str, message: str, *, severity: Severity = "error"
    ) -> Fault:
        """A fault of ``objects[row]``."""
        image = self.images[self.truth.owners[row]]
        return Fault(
            severity=severity,
            code=code,
            file=image["file_name"],
            message=message,
            image_id=image["id"],
            annotation_id=_id(self.objects[row]),
        )


@contextmanager
def paused_gc() -> Iterator[None]:
    """No garbage collection meanwhile.

    A JSON file makes millions of objects and not one cycle. The collector would look through
    all of them again and again, which takes as long as the reading itself.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@paused_gc()
def scan_coco(annotations: Location) -> CocoScan:
    """Read a COCO detection file.

    Raises:
        DataError: the file is missing, is not JSON or lacks one of the three lists.
    """
    try:
        tree = json.loads(on_disk(annotations).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{annotations}: no such annotation file") from None
    except OSError as error:
        raise DataError(f"{annotations}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{annotations}: not valid JSON ({error})") from None
    if not isinstance(tree, dict):
        raise DataError(
            f"{annotations}: not a COCO file: expected an object with {', '.join(_SECTIONS)}, "
            f"got {type(tree).__name__}"
        )
    for name in _SECTIONS:
        if not isinstance(tree.get(name), list):
            got = type(tree[name]).__name__ if name in tree else "no such key"
            raise DataError(f"{annotations}: not a COCO file: expected a list '{name}', got {got}")
    return scan_tree(tree, annotations)


def scan_tree(tree: Entry, annotations: Location) -> CocoScan:
    """Scan what is in a COCO file; `annotations` is its name."""
    faults = _Faults(annotations.name)
    categories = _categories(tree["categories"], faults)
    shards = _shard_sizes(tree, faults)
    images, sizes_hw = _images(tree["images"], shards, faults)
    objects, truth = _objects(tree["annotations"], images, categories, faults)
    return CocoScan(
        annotations=annotations,
        tree=tree,
        categories=categories,
        images=images,
        sizes_hw=sizes_hw,
        objects=objects,
        truth=truth,
        faults=tuple(faults),
    )


class _Faults(list[Fault]):
    """Faults of one JSON file."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def add(self, code: str, message: str, *, file: str | None = None, **more: Any) -> None:
        """Add a fault; without `file` it is one of the JSON file itself."""
        self.append(Fault(code=code, file=file or self._where, message=message, **more))


def _categories(entries: Sequence[Any], faults: _Faults) -> list[Entry]:
    """Valid categories by ascending id."""
    kept: dict[int, Entry] = {}
    names: set[str] = set()
    for i, entry in enumerate(entries):
        number, name = (entry.get(k) if type(entry) is dict else None for k in ("id", "name"))
        if type(number) is not int or type(name) not in _IDS:
            message = "expected an object with a whole number 'id' and a text 'name'"
            faults.add("category-malformed", f"categories[{i}]: {message}, got {_short(entry)}")
        elif number in kept:
            faults.add("category-id-duplicate", f"category id {number} occurs twice")
        else:
            if str(name) in names:
                faults.add("category-name-duplicate", f"category name {name!r} occurs twice")
            kept[number] = entry
            names.add(str(name))
    ids = sorted(kept)
    if not ids:
        what = "has no valid entry" if entries else "is empty"
        faults.add("no-categories", f"'categories' {what}: there are no classes to learn")
    elif ids != list(range(ids[0], ids[0] + len(ids))):
        message = f"category ids {ids[0]}..{ids[-1]} have gaps; fine, classes are numbered by order"
        faults.add("category-gaps", message, severity="info")
    return [kept[i] for i in ids]


def _shard_sizes(tree: Entry, faults: _Faults) -> Sequence[int] | None:
    """Bytes of the shards that images are in; None where they are files."""
    sizes = tree.get(SIZES)
    if SIZES in tree and not (type(sizes) is list and all(type(v) is int for v in sizes)):
        message = f"'{SIZES}' must be a list of whole numbers, got {_short(sizes)}"
        faults.add("shards-malformed", message)
        return ()
    return sizes


def _images(
    entries: Sequence[Any], shards: Sequence[int] | None, faults: _Faults
) -> tuple[list[Entry], npt.NDArray[np.int32]]:
    """Valid images in order and their sizes; of entries with the same id the first is kept."""
    kept: dict[ImageId, Entry] = {}
    sizes: list[tuple[int, int]] = []
    first: dict[str, ImageId] = {}
    for i, entry in enumerate(entries):
        number = _id(entry)
        if number is None:
            message = "expected an object with a whole number or a text as 'id'"
            faults.add("image-malformed", f"images[{i}]: {message}, got {_short(entry)}")
            continue
        name = entry.get("file_name")
        if type(name) is not str or not name:
            message = f"file_name must be a non-empty text, got {_short(name)}"
            faults.add("image-malformed", message, image_id=number)
        elif not stays_inside(name):
            message = f"file_name {name!r} leads out of the image folder"
            faults.add("path-escape", message, file=name, image_id=number)
        elif number in kept:
            message = f"image id {number!r} occurs twice, first for {kept[number]['file_name']}"
            faults.add("image-id-duplicate", message, file=name, image_id=number)
        elif shards is not None and not is_place(entry.get(PLACE), shards):
            message = (
                f"'{PLACE}' must be [shard, offset, bytes, CRC-32] within the {len(shards)} shards "
                f"of '{SIZES}', got {_short(entry.get(PLACE))}"
            )
            faults.add("shard-place", message, file=name, image_id=number)
        else:
            kept[number] = entry
            sizes.append(image_size(entry.get("height"), entry.get("width")))
            if first.setdefault(name, number) != number:
                message = f"the same file as that of image {first[name]!r}"
                faults.add("file-name-duplicate", message, file=name, image_id=number)
            if sizes[-1] == (0, 0):
                got = f"{_short(entry.get('height'))} and {_short(entry.get('width'))}"
                message = f"height and width must be positive whole numbers, got {got}"
                faults.add("size-missing", message, file=name, image_id=number)
    if not kept:
        what = "has no valid entry" if entries else "is empty"
        faults.add("no-images", f"'images' {what}: there is nothing to read")
    return list(kept.values()), np.array(sizes, np.int32).reshape(-1, 2)


def image_size(height: Any, width: Any) -> tuple[int, int]:
    """Height and width in pixels as a file states them; 0, 0 where one is not a valid size."""
    if all(type(v) in _NUMBERS and 1 <= v < 2**31 and v == int(v) for v in (height, width)):
        return int(height), int(width)
    return 0, 0


def _objects(
    entries: Sequence[Any], images: Sequence[Entry], categories: Sequence[Entry], faults: _Faults
) -> tuple[list[Entry], GroundTruth]:
    """Valid objects in order, as entries and as arrays."""
    position = {image["id"]: i for i, image in enumerate(images)}
    label_of = {category["id"]: i for i, category in enumerate(categories)}
    ids: set[ImageId] = set()
    kept: list[Entry] = []
    owners: list[int] = []
    labels: list[int] = []
    for i, entry in enumerate(entries):
        number = _id(entry)
        if number is None:
            message = "expected an object with a whole number or a text as 'id'"
            code = "annotation-id-missing" if type(entry) is dict else "annotation-malformed"
            faults.add(code, f"annotations[{i}]: {message}, got {_short(entry)}")
            if type(entry) is not dict:
                continue
        elif number in ids:
            message = f"annotation id {number!r} occurs twice"
            faults.add("annotation-id-duplicate", message, annotation_id=number)
        else:
            ids.add(number)
        image, category = entry.get("image_id"), entry.get("category_id")
        owner = position.get(image) if type(image) in _IDS else None
        label = label_of.get(category) if type(category) is int else None
        if owner is None:
            message = f"annotations[{i}]: image_id {_short(image)} is not among the images"
            faults.add("image-unknown", message, annotation_id=number)
            continue
        if label is None or not _is_box(entry.get("bbox")):
            code, message = _object_problem(entry, label, len(label_of))
            file = images[owner]["file_name"]
            faults.add(code, message, file=file, image_id=image, annotation_id=number)
            continue
        kept.append(entry)
        owners.append(owner)
        labels.append(label)
    return kept, GroundTruth(
        owners=np.array(owners, np.int64),
        labels=np.array(labels, np.int64),
        xywh=np.array([entry["bbox"] for entry in kept], np.float64).reshape(-1, 4),
        areas=np.array([_area(entry) for entry in kept], np.float64),
        crowd=np.array([bool(entry.get("iscrowd")) for entry in kept], np.bool_),
    )


def _object_problem(entry: Entry, label: int | None, classes: int) -> tuple[str, str]:
    """Code and message of why an annotation of a known image cannot be used."""
    if label is None:
        category = _short(entry.get("category_id"))
        return "category-unknown", f"category_id {category} is not among the {classes} categories"
    box: Any = entry.get("bbox")
    if type(box) is list and len(box) == 4 and all(type(v) in _NUMBERS for v in box):
        code = "box-not-finite"
    else:
        code = "box-malformed"
    message = "bbox must be four finite numbers [x, y, width, height]"
    return code, f"{message}, got {_short(box)}"


def _is_box(box: Any) -> bool:
    """Whether it is a list of four finite numbers."""
    try:
        x, y, w, h = box
        return math.isfinite(x + y + w + h) and bool not in map(type, box)
    except (TypeError, ValueError, OverflowError):
        return False


def _area(entry: Entry) -> float:
    area: Any = entry.get("area")
    if type(area) in _NUMBERS and abs(area) < 1e300:
        return float(area)
    return float(entry["bbox"][2]) * float(entry["bbox"][3])


def _id(entry: Any) -> ImageId | None:
    """The entry's id; None where it has none."""
    number: Any = entry.get("id") if type(entry) is dict else None
    return number if type(number) in _IDS else None


_short = reprlib.repr
