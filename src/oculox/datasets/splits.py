"""The splits of a dataset in any format that is read, told apart by its content.

YOLO and Pascal VOC are read into the tree of a COCO file in memory. Training, evaluation, the
check and the statistics so see one thing.
"""

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from oculox.addresses import Address, Location, to_location
from oculox.config.schema import DataConfig, SplitConfig
from oculox.data.coco import (
    CocoIndex,
    MissingImagesError,
    ScannedSplit,
    Split,
    find_splits,
    index_split,
    load_coco,
    load_split,
)
from oculox.data.coco_scan import CocoScan, scan_coco, scan_tree
from oculox.data.faults import Fault
from oculox.datasets.formats import SourceFormat
from oculox.datasets.formats.coco import coco_tree
from oculox.datasets.formats.dataset import SPLITS, LabelledImage
from oculox.datasets.formats.voc import read_voc
from oculox.datasets.formats.yolo import read_yolo
from oculox.errors import DataError, UsageError

YAML_SUFFIXES = (".yaml", ".yml")


def recognise(root: Location) -> SourceFormat | None:
    """The format of a dataset, by what is there; COCO first, None for none of them.

    Args:
        root: a folder, or the YAML file of a YOLO dataset; at an address only COCO is.
    """
    if isinstance(root, Path) and root.suffix.lower() in YAML_SUFFIXES and root.is_file():
        return "yolo"
    with contextlib.suppress(DataError):
        find_splits(root)
        return "coco"
    if isinstance(root, Address):
        return None
    if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
        return "voc"
    if (root / "data.yaml").is_file() or (root / "data.yml").is_file():
        return "yolo"
    folders = (root, *(root / split for split in ("train", "val", "valid", "test")))
    return "yolo" if any((folder / "labels").is_dir() for folder in folders) else None


def scan_data(
    data: str | Location,
    *,
    split: Split | Literal["all"] = "all",
    images: str | Location | None = None,
) -> dict[Split, ScannedSplit]:
    """Image folder and scan of splits: of a dataset, or of the one COCO file that is named.

    Raises:
        DataError: a split is not there.
        UsageError: `images` was named for a dataset.
    """
    path = to_location(data)
    folder = images_of_file(path, images)
    if folder is not None:
        return {"train" if split == "all" else split: (folder, scan_coco(path))}
    return scan_splits(path) if split == "all" else scan_splits(path, split)


def images_of_file(path: Location, images: str | Location | None) -> Location | None:
    """Image folder of one COCO JSON file; None where `path` is a dataset.

    Args:
        path: the file or the dataset.
        images: the folder, if it is not the one that the file lies in.

    Raises:
        UsageError: `images` was named for a dataset.
    """
    if path.is_file() and path.suffix.lower() not in YAML_SUFFIXES:
        return path.parent if images is None else to_location(images)
    if images is not None:
        raise UsageError(f"`images` goes with a COCO JSON file; {path} is not one")
    return None


def open_split(
    data: str | Location, split: Split, *, images: str | Location | None = None
) -> CocoIndex:
    """Read one split; see `scan_data`."""
    path = to_location(data)
    folder = images_of_file(path, images)
    if folder is not None:
        try:
            return load_coco(path, folder)
        except MissingImagesError as error:
            if images is not None:
                raise
            raise DataError(f"{error}; name their folder with `images`") from None
    if recognise(path) == "coco":
        folder, annotations = find_splits(path, split)[split]
        return load_coco(annotations, folder)
    return index_split(*scan_data(data, split=split)[split])


def load_splits(data: DataConfig, *splits: Split) -> tuple[CocoIndex, ...]:
    """Read and validate splits of a dataset.

    What `data.train` or `data.val` states is COCO; the rest is in `data.root`, in any format.

    Raises:
        DataError: a split is not there or faulty; see `oculox.data.coco.load_coco`.
    """
    stated = {"train": data.train, "val": data.val}
    plain = [s for s in splits if stated.get(s, SplitConfig()) == SplitConfig()]
    inside: Mapping[Split, ScannedSplit] = {}
    if isinstance(data.root, Path) and plain and recognise(data.root) in ("voc", "yolo"):
        inside = scan_splits(data.root, *plain)
    indexes = []
    for split in splits:
        if split in inside:
            indexes.append(index_split(*inside[split]))
        else:
            indexes.append(load_split(data, split))
    found = [i.annotations for s, i in zip(splits, indexes, strict=True) if s in plain]
    if not inside and len({*found}) < len(found):
        raise DataError(
            f"{indexes[0].annotations} is all that was found for {' and '.join(splits)}: an AP on "
            "the images of the training says nothing; name the folder that holds both splits, or, "
            "where you do want this, data.val.annotations and data.val.images"
        )
    return tuple(indexes)


def scan_splits(root: Location, *splits: Split) -> dict[Split, ScannedSplit]:
    """Image folder and scan of splits of a dataset; of all that are there where none is named.

    Raises:
        DataError: a split (or, for all, any split) is not there, or cannot be read at all.
    """
    kind = recognise(root)
    if isinstance(root, Address) or kind is None or kind == "coco":
        which: Sequence[Split | Literal["all"]] = splits or ("all",)
        found = {name: pair for one in which for name, pair in find_splits(root, one).items()}
        return {name: (images, scan_coco(file)) for name, (images, file) in found.items()}
    if kind == "voc":
        # Its classes are those of all splits.
        data, source = (
            read_voc(root, classes=None, splits=None, keep_bad_images=True, on_image=_nothing),
            root / "Annotations",
        )
    else:
        data = read_yolo(
            root,
            classes=None,
            splits=None,
            wanted=splits or SPLITS,
            keep_bad_images=True,
            on_image=_nothing,
        )
        source = root if root.is_file() else root / "data.yaml"
    there = [s for s in SPLITS if data.splits.get(s) or data.faults.get(s)]
    for split in splits:
        if split not in there:
            place = "ImageSets/Main/{}.txt" if kind == "voc" else "data.yaml ({}: FOLDER)"
            raise DataError(
                f"{root}: no {split} split found in this {FORMAT_NAMES[kind]} dataset; "
                f"name its images in {place.format(split)}, or divide them with `oculox data split`"
            )
    return {
        cast("Split", split): _scan(
            data.classes, data.splits.get(split, ()), data.faults[split], source=source
        )
        for split in splits or there
    }


def _nothing() -> None:
    """No progress to show."""


FORMAT_NAMES: Mapping[SourceFormat, str] = {"voc": "Pascal VOC", "yolo": "YOLO"}

# The check finds these anew in what was read; training and evaluation meet and count bad images.
_FOUND_AGAIN = frozenset(
    (("image-unreadable", "error"), ("size-mismatch", "error"), ("box-tiny", "warning"))
)


def _scan(
    classes: Sequence[str],
    images: Sequence[LabelledImage],
    faults: Sequence[Fault],
    *,
    source: Path,
) -> ScannedSplit:
    """Common image folder and scan of labelled images.

    Images have their names for ids, and objects their places in the label files.
    """
    # Both formats have their images in files.
    sources = [cast("Path", image.source) for image in images]
    parents = {p: p.resolve() for p in {path.parent for path in sources}}
    folder = Path(os.path.commonpath(parents.values())) if parents else source.parent
    tree = coco_tree(classes, images)
    places = (f"{image.name}: {place}" for image in images for place in image.places)
    for entry, image, source_path in zip(tree["images"], images, sources, strict=True):
        path = parents[source_path.parent] / source_path.name
        entry |= {"id": image.name, "file_name": path.relative_to(folder).as_posix()}
    for entry, place in zip(tree["annotations"], places, strict=True):
        entry |= {"id": place, "image_id": images[entry["image_id"] - 1].name}
    scan: CocoScan = scan_tree(tree, source)
    own = [f for f in faults if (f.code, f.severity) not in _FOUND_AGAIN]
    return folder, dataclasses.replace(scan, faults=(*own, *scan.faults))
