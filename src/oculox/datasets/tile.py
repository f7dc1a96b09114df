"""A dataset of tiles: large images cut into pieces that a network is trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from oculox.data.image import read_image
from oculox.data.tiles import Tiling, Window
from oculox.datasets.formats.coco import read_coco, write_annotations
from oculox.datasets.formats.convert import ConvertSummary
from oculox.datasets.formats.dataset import ImageReader, LabelledImage
from oculox.datasets.image_facts import place_image
from oculox.datasets.splits import FORMAT_NAMES, recognise
from oculox.errors import DataError, UsageError
from oculox.files import encode_image, move_entries, require_own, scratch_beside
from oculox.types import FloatArray, ImageArray, Progress, counted

_MARK = "Oculox tiles of another dataset"
_JPEG = (".jpg", ".jpeg")
_ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class TileSummary(ConvertSummary):
    """What was written; an object counts in each tile that shows it.

    Attributes:
        unseen: objects of each split of which no tile shows enough.
    """

    unseen: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**super().as_dict(), "unseen": self.unseen}


def tile_data(
    source: str | Path,
    target: str | Path,
    *,
    tiling: Tiling,
    min_visible: float = 0.3,
    keep_empty: float = 1.0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TileSummary:
    """Cut the images of a COCO dataset into tiles; faulty boxes and images are left out and listed.

    An image that is no larger than a tile is copied byte by byte. Tiles of JPEG files are JPEG of
    quality 95, all others PNG; their names end in their left and top in the image.

    Args:
        source: a folder in one of the layouts that `find_splits` knows.
        target: a new or empty folder; the dataset appears whole or not at all.
        tiling: size and overlap.
        min_visible: a tile labels the objects of which it shows at least that share of the box;
            with 0 even slivers.
        keep_empty: share of the tiles without objects that is kept, evenly spread.
        overwrite: replace a dataset of tiles in `target`.
        progress: called with the number of images done and in all.

    Raises:
        UsageError: a share is not between 0 and 1, or the target is in use.
        DataError: the source cannot be read or holds nothing usable.
    """
    for name, share in (("min_visible", min_visible), ("keep_empty", keep_empty)):
        if not 0 <= share <= 1:
            raise UsageError(f"`{name}` must be between 0 and 1, got {share}")
    source, target = Path(source), Path(target)
    require_own(target, _MARK, overwrite=overwrite)
    kind = recognise(source)
    if kind in ("yolo", "voc"):
        raise DataError(
            f"{source}: this is a {FORMAT_NAMES[kind]} dataset, and only COCO datasets can be cut "
            "into tiles; "
            "convert it first with `oculox data convert`"
        )
    data = read_coco(source, classes=None, splits=None, on_image=lambda: None)
    readers = {split: ImageReader() for split in data.splits}
    total = sum(map(len, data.splits.values()))
    on_image = counted(progress, total)
    splits: dict[str, list[LabelledImage]] = {}
    unseen = dict.fromkeys(data.splits, 0)
    with scratch_beside(target) as scratch:
        for split, images in data.splits.items():
            tiles, reader = splits.setdefault(split, []), readers[split]
            empty = 0
            for image in images:
                on_image()
                windows = tiling.windows(image.hw)
                labelled = [_labelled(image, window, min_visible) for window in windows]
                try:
                    pixels = read_image(image.source) if len(windows) > 1 else None
                except DataError as error:
                    message = str(error).removeprefix(f"{image.source}: ")
                    reader.fault("image-unreadable", str(image.source), message)
                    continue
                unseen[split] += int((~np.any([rows for rows, _ in labelled], axis=0)).sum())
                for window, (rows, boxes) in zip(windows, labelled, strict=True):
                    if not rows.any():
                        empty += 1
                        if int(empty * keep_empty) == int((empty - 1) * keep_empty):
                            continue
                    tile = _tile(image, window, rows, boxes, whole=pixels is None)
                    tile = dataclasses.replace(tile, name=reader.free_name(tile.name))
                    _write(image, pixels, window, scratch / f"{split}2017" / tile.name)
                    tiles.append(tile)
            write_annotations(tiles, scratch, split=split, classes=data.classes, description=_MARK)
        found = [f for one in readers.values() for f in one.faults]
        faults = (*data.all_faults, *found)
        if not any(splits.values()) or not data.classes:
            first = f"; the first fault: {faults[0]}" if faults else ""
            raise DataError(f"{source}: nothing could be cut into tiles{first}")
        move_entries(scratch, target)
    return TileSummary.of(target, data.classes, splits, faults, unseen=unseen)


def _labelled(
    image: LabelledImage, window: Window, min_visible: float
) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Which objects (n,) a tile labels, and all boxes (n, 4) in its pixels, clipped."""
    left, top, right, bottom = window
    inside = np.clip(image.boxes - [left, top, left, top], 0, [right - left, bottom - top] * 2)
    sides, full = (boxes[:, 2:] - boxes[:, :2] for boxes in (inside, image.boxes))
    # At least half a pixel or half a side: of two neighbours one shows that of any object.
    rows = (sides >= np.minimum(0.5, full / 2)).all(axis=1)
    rows &= sides.prod(axis=1) >= (min_visible - _ROUNDING) * full.prod(axis=1)
    return rows, inside.astype(np.float32)


def _tile(
    image: LabelledImage,
    window: Window,
    rows: npt.NDArray[np.bool_],
    boxes: FloatArray,
    *,
    whole: bool,
) -> LabelledImage:
    """A tile as an image of its own."""
    left, top, right, bottom = window
    path = PurePosixPath(image.name)
    suffix = path.suffix if path.suffix.lower() in _JPEG else ".png"
    return LabelledImage(
        source=image.source,
        name=image.name if whole else str(path.with_name(f"{path.stem}_{left}_{top}{suffix}")),
        hw=(bottom - top, right - left),
        boxes=boxes[rows],
        labels=image.labels[rows],
        crowd=image.crowd[rows],
    )


def _write(image: LabelledImage, pixels: ImageArray | None, window: Window, path: Path) -> None:
    """Write a tile of decoded pixels; without them it is the whole image, which is copied."""
    if pixels is None:
        place_image(image.source, path, mode="copy")
        return
    left, top, right, bottom = window
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in _JPEG else []
    tile = pixels[top:bottom, left:right]
    encoded = encode_image(tile, path.suffix, options, where=str(image.source))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)
