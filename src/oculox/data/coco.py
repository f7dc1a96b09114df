"""Finding the splits of a dataset, and a compact, validated index of a split's images and boxes.

The index keeps everything in a handful of flat arrays: loader processes share their pages with
the parent, whereas lists of Python objects are copied one by one as their reference counts
change, and memory grows with every process and epoch.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from oculox.addresses import (
    AbsentError,
    Address,
    Location,
    forget_changed,
    list_files,
    list_names,
    on_disk,
)
from oculox.config.schema import DataConfig, SplitConfig
from oculox.data.coco_columns import CocoColumns, PackedStrings, read_columns
from oculox.data.coco_scan import CocoScan, GroundTruth, scan_coco
from oculox.data.image import ImageFile
from oculox.data.shards import image_file, require_room, shard_name
from oculox.errors import ConfigError, DataError, UsageError
from oculox.types import FloatArray, ImageId, IntArray

_Array = TypeVar("_Array", bound=npt.NDArray[Any])

Split = Literal["train", "val", "test"]
ScannedSplit = tuple[Location, CocoScan]
"""The image folder of a split, and what its annotations hold."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CocoIndex:
    """The images of one split and the objects in them; made by `load_coco`.

    Attributes:
        annotations: the JSON file it came from.
        image_dir: folder of the images.
        class_names: name of each class, by contiguous index.
        category_ids: the file's category id of each class, ascending.
        sizes_hw: int32 (n, 2), height and width of each image as the file states them.
        file_names: n names relative to `image_dir`.
        packed_ids: n image ids, as JSON.
        places: int64 (n, 4), of images in shards (`oculox.data.shards`); (0, 4) of files.
        all_boxes: float32 (total, 4), xyxy pixels, clipped to their images; no crowd regions.
        all_labels: int64 (total,), contiguous class indices.
        offsets: int64 (n + 1,); image i owns rows ``offsets[i]:offsets[i + 1]``.
        truth: what COCO metrics are counted against.
    """

    annotations: Location
    image_dir: Location
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    sizes_hw: npt.NDArray[np.int32]
    file_names: PackedStrings
    packed_ids: PackedStrings
    places: IntArray
    all_boxes: FloatArray
    all_labels: IntArray
    offsets: IntArray
    truth: GroundTruth

    def __len__(self) -> int:
        """Number of images, those without objects included."""
        return len(self.file_names)

    @property
    def image_ids(self) -> tuple[ImageId, ...]:
        """The file's own image ids, in order (made anew at each call)."""
        return tuple(map(json.loads, self.packed_ids))

    def image_id(self, i: int) -> ImageId:
        """The file's own id of image i."""
        value: ImageId = json.loads(self.packed_ids[i])
        return value

    def file_name(self, i: int) -> str:
        """Name of image i, relative to the image folder."""
        return self.file_names[i]

    def image_path(self, i: int) -> Location:
        """Path or address of image i."""
        return self.image_dir / self.file_names[i]

    def stored_in(self, i: int) -> str:
        """Name of the file in the image folder that holds image i: its own, or a shard."""
        return shard_name(self.places[i, 0]) if len(self.places) else self.file_names[i]

    def image_file(self, i: int) -> ImageFile:
        """Where the bytes of image i are."""
        place = self.places[i] if len(self.places) else None
        return image_file(self.image_dir, self.file_names[i], place)

    def source_hw(self, i: int) -> tuple[int, int]:
        """Height and width of image i, as the annotations state them."""
        height, width = self.sizes_hw[i].tolist()
        return height, width

    def boxes(self, i: int) -> FloatArray:
        """Boxes of image i: float32 (k, 4), xyxy pixels (a read-only view)."""
        return self.all_boxes[self.offsets[i] : self.offsets[i + 1]]

    def labels(self, i: int) -> IntArray:
        """Classes of image i: int64 (k,), contiguous (a read-only view)."""
        return self.all_labels[self.offsets[i] : self.offsets[i + 1]]

    def num_objects(self, i: int) -> int:
        """Number of objects in image i."""
        return int(self.offsets[i + 1] - self.offsets[i])


class MissingImagesError(DataError):
    """Images that an annotation file lists are not in the folder."""


def load_coco(annotations: Location, images: Location) -> CocoIndex:
    """Read and validate a COCO detection file.

    Images without objects are kept. Category ids may have gaps: sorted ascending, they become
    class indices 0..C-1.

    Args:
        annotations: the JSON file.
        images: folder that its file names are relative to.

    Raises:
        DataError: the JSON is unreadable, incomplete or inconsistent, or an image is missing.
            The message names the file and the image, annotation or category.
    """
    columns = read_columns(on_disk(annotations))
    if columns is None:
        return index_split(images, scan_coco(annotations))
    _check_images(annotations, columns, images)
    return _index(annotations, columns, images)


def index_split(images: Location, scan: CocoScan) -> CocoIndex:
    """Validate what a scan found, and index it; see `load_coco`."""
    annotations = scan.annotations
    errors = [f for f in scan.faults if f.severity == "error" and f.code not in _HARMLESS]
    if errors:
        first, more = errors[0], f"; {len(errors)} errors in all" if len(errors) > 1 else ""
        place = "" if first.file == annotations.name else f": {first.file}"
        raise DataError(
            f"{dataclasses.replace(first, file=f'{annotations}{place}')}{more}; "
            "`oculox data check` lists every error and can write a copy without them"
        )
    columns = CocoColumns.from_scan(scan)
    _check_images(annotations, columns, images)
    return _index(annotations, columns, images)


def _check_images(annotations: Location, columns: CocoColumns, images: Location) -> None:
    """See that all image files are there."""
    if not images.is_dir():
        raise DataError(f"{images}: no such image folder (for {annotations})")
    if len(columns.places):
        require_room(images, columns.places)
        missing = missing_files(map(shard_name, np.unique(columns.places[:, 0])), images)
        if missing:
            raise DataError(
                f"{annotations}: {len(missing)} of its shards are missing from {images}: "
                f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
            )
        return
    missing = missing_files(columns.file_names, images)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        slashes = "; write / for \\ in file_name" if "\\" in missing[0] else ""
        raise MissingImagesError(
            f"{annotations}: {len(missing)} of {len(columns.file_names)} images are missing from "
            f"{images}: {missing[0]!r}{more}{slashes}"
        )


# Errors that matter neither to training nor to metrics, or whose entries are not there any more.
_HARMLESS = frozenset(
    (
        "annotation-id-duplicate",
        "annotation-id-missing",
        "box-empty",
        "box-inverted",
        "box-outside",
        "category-name-duplicate",
        "file-name-duplicate",
    )
)


def index_scan(scan: CocoScan, images: Location) -> CocoIndex:
    """The index of a scan's valid entries, whose images need not be there."""
    return _index(scan.annotations, CocoColumns.from_scan(scan), images)


def _index(annotations: Location, columns: CocoColumns, images: Location) -> CocoIndex:
    """The index of valid entries.

    Crowd regions stay only in `CocoIndex.truth`, boxes are clipped to their image and dropped
    when nothing remains.
    """
    truth = columns.truth
    for array in vars(truth).values():
        _frozen(array)
    low, size = truth.xywh[:, :2], truth.xywh[:, 2:]
    # Rounding keeps the order of numbers, so that clipping may come after it.
    with np.errstate(over="ignore"):
        boxes = np.concatenate((low, low + size), axis=1, dtype=np.float32, casting="same_kind")
    limits = columns.sizes_hw[:, [1, 0, 1, 0]].astype(np.float32)
    np.clip(boxes, 0, limits.take(truth.owners, axis=0), out=boxes)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & ~truth.crowd
    rows = np.flatnonzero(kept)
    rows = rows[_stable_order(truth.owners[rows])]
    count = len(columns.sizes_hw)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(truth.owners[rows], minlength=count), out=offsets[1:])
    return CocoIndex(
        annotations=annotations,
        image_dir=images,
        class_names=columns.class_names,
        category_ids=columns.category_ids,
        sizes_hw=_frozen(columns.sizes_hw),
        file_names=columns.file_names,
        packed_ids=columns.packed_ids,
        places=_frozen(columns.places),
        all_boxes=_frozen(boxes.take(rows, axis=0)),
        all_labels=_frozen(truth.labels[rows]),
        offsets=_frozen(offsets),
        truth=truth,
    )


def _stable_order(owners: IntArray) -> IntArray:
    """Sorts numbers from 0 on; of equal ones the first stays first.

    By the lower 16 bits and then by the others: NumPy sorts 16 bits in a fifth of the time of 64.
    """
    if (owners[1:] >= owners[:-1]).all():
        return np.arange(len(owners))
    order = np.argsort(owners.astype(np.uint16), kind="stable")
    above = owners >> 16
    while above.any():
        order = order[np.argsort(above[order].astype(np.uint16), kind="stable")]
        above = above >> 16
    return order


def missing_files(names: Iterable[str], folder: Location) -> list[str]:
    """The names that `folder` does not have; one listing per folder, not one look-up per file."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for name in names:
        below, _, base = name.rpartition("/")
        if below not in listings:
            listings[below] = _list(folder / below if below else folder)
        if base not in listings[below]:
            missing.append(name)
    return missing


def _list(folder: Location) -> frozenset[str]:
    """The names in a folder; none where it is not there."""
    if isinstance(folder, Address):
        try:
            found = list(list_files(folder))
        except AbsentError:
            return frozenset()
        # What the cache kept earlier is checked now, and not at each read.
        forget_changed(found)
        return frozenset(file.address.name for file in found)
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - the quickest
    except OSError:  # not there, no folder, or too long for a name
        return frozenset()


def load_split(data: DataConfig, split: Split) -> CocoIndex:
    """Find and read a split; see `find_split` and `load_coco`."""
    images, annotations = find_split(data, split)
    return load_coco(annotations, images)


def find_splits(
    root: Location, which: Split | Literal["all"] = "all"
) -> dict[Split, tuple[Location, Location]]:
    """Image folder and annotation file of a split below `root`, or of all that are there.

    The layouts are those of `find_split`. A file that fits several splits counts for the first.

    Raises:
        DataError: the split (or, for all, any split) is not there.
    """
    # Unchecked: it is not saved, so the address may be one that gives access.
    data = DataConfig.model_construct(root=root)
    found: dict[Split, tuple[Location, Location]] = {}
    errors = []
    for split in get_args(Split) if which == "all" else (which,):
        try:
            pair = find_split(data, split, by_keys=False)
        except DataError as error:
            errors.append(error)
        else:
            if pair not in found.values():
                found[split] = pair
    if not found:
        raise errors[0]
    return found


def find_split(
    data: DataConfig, split: Split, *, by_keys: bool = True
) -> tuple[Location, Location]:
    """Where the images and annotations of a split are.

    What `data.train` or `data.val` states is taken; the rest is looked for below `data.root` in
    the usual layouts: COCO (``train2017/``, ``annotations/instances_train2017.json``), the same
    with ``train/``, ``annotations/train.json``, and ``train/_annotations.coco.json``. Relative
    stated paths count from `data.root` where they exist there, else from the working directory.
    The root itself is taken as the image folder where no other is found.

    Args:
        data: where to look.
        split: ``train``, ``val`` or ``test``.
        by_keys: whether keys of a configuration named the places, so that errors tell of them.

    Returns:
        The image folder and the annotation file, both existing.

    Raises:
        DataError: nothing fits; the message lists what was looked for.
        UsageError: there is no such split, or `data` names no place.
    """
    if split not in get_args(Split):
        raise UsageError(f"split must be {', '.join(get_args(Split))}, got {split!r}")
    stated = {"train": data.train, "val": data.val}.get(split, SplitConfig())
    root = data.root
    images = _stated(stated.images, root)
    annotations = _stated(stated.annotations, root)
    if images is not None and not images.is_dir():
        raise DataError(f"data.{split}.images: {images} is not a folder")
    if annotations is not None and not annotations.is_file():
        raise DataError(f"data.{split}.annotations: {annotations} is not a file")
    if images is not None and annotations is not None:
        return images, annotations
    if root is None:
        raise ConfigError(
            f"no {split} data: set data.root, or data.{split}.images and data.{split}.annotations"
        )
    place = _Places()
    if not (root.is_dir() if isinstance(root, Path) else place.names(root)):
        why = "" if isinstance(root, Path) else ": no such bucket, or nothing in it below that name"
        if isinstance(root, Path) and root.is_file():
            why = f"; set data.{split}.annotations to a COCO file, and data.{split}.images"
        if by_keys:
            raise DataError(f"data.root: {root} is not a folder{why}")
        raise DataError(
            f"{root}: no such dataset{why}; expected a dataset folder, a data.yaml or a COCO JSON "
            "file"
        )
    layouts = [(root / i if i else root, root / a) for i, a in _layouts(split)]
    for candidate_images, candidate_annotations in layouts:
        pair = images or candidate_images, annotations or candidate_annotations
        if place.is_file(pair[1]) and place.is_dir(pair[0]):
            return pair
    raise _nothing_fits(root, split, by_keys=by_keys)


def _nothing_fits(root: Location, split: Split, *, by_keys: bool) -> DataError:
    looked = ", ".join(dict.fromkeys(name for _, name in _layouts(split)))
    hint = (
        ""
        if split == "test" or not by_keys
        else f"; or set data.{split}.images and data.{split}.annotations"
    )
    if isinstance(root, Path):
        above = root.absolute().parent
        if any((above / annotations).is_file() for _, annotations in _layouts(split)):
            hint = f"; {above} holds a dataset: name that folder"
    if split == "val" and by_keys and isinstance(root, Path):
        hint += "; `oculox data split` divides a dataset that has no val split"
    others = (
        "; YOLO and Pascal VOC are not read from URLs: make COCO (`oculox data convert`) or "
        "shards (`oculox data pack`) of them on a disk, and copy those to the URL"
        if isinstance(root, Address)
        else ", and for a Pascal VOC or YOLO dataset"
    )
    return DataError(
        f"{root}: no {split} split found; looked for {looked} (with its images){others}{hint}"
    )


class _Places:
    """Which files and folders there are; a folder at an address is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Address, dict[str, bool]] = {}

    def is_dir(self, place: Location) -> bool:
        if isinstance(place, Path):
            return place.is_dir()
        return self._kind(place) is True

    def is_file(self, place: Location) -> bool:
        return place.is_file() if isinstance(place, Path) else self._kind(place) is False

    def _kind(self, place: Address) -> bool | None:
        return self.names(place.parent).get(place.name)

    def names(self, folder: Address) -> dict[str, bool]:
        if folder not in self._listed:
            self._listed[folder] = list_names(folder)
        return self._listed[folder]


def _stated(path: Location | None, root: Location | None) -> Location | None:
    if path is None or root is None or isinstance(path, Address) or path.is_absolute():
        return path
    return root / path if (root / path).exists() else path


def _layouts(split: Split) -> list[tuple[str, str]]:
    """Names of (image folder, annotation file) pairs, the likeliest first."""
    pairs = []
    for name in ("val", "valid") if split == "val" else (split,):
        folders = [f"{name}2017", name, f"images/{name}2017", f"images/{name}", "images"]
        stems = [f"instances_{name}2017", f"instances_{name}", name]
        for stem in stems:
            pairs += [(folder, f"annotations/{stem}.json") for folder in folders]
        pairs.append((name, f"{name}/_annotations.coco.json"))
    pairs.append(("", "_annotations.coco.json"))
    return pairs


def _frozen(array: _Array) -> _Array:
    """Make it read-only, so that a change in place cannot spoil the dataset."""
    array.flags.writeable = False
    return array
