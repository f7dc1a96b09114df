"""A dataset as tar shards: few large files in place of many small ones."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from oculox.data.coco import CocoIndex, Split, index_split
from oculox.data.coco_scan import CocoScan
from oculox.data.image import IMAGE_SUFFIXES, read_file
from oculox.data.shards import PLACE, SIZES, ShardWriter
from oculox.datasets.splits import scan_data
from oculox.errors import UsageError
from oculox.files import move_entries, require_own, scratch_beside
from oculox.types import Progress, counted


@dataclasses.dataclass(frozen=True)
class PackedSplit:
    """What was written of a split.

    Attributes:
        folder: of the shards.
        index: the COCO file with the place of each image.
        images: how many.
        objects: annotations.
        shards: how many.
        bytes: of all shards.
    """

    folder: Path
    index: Path
    images: int
    objects: int
    shards: int
    bytes: int


def pack_data(
    source: str | Path,
    target: str | Path,
    *,
    images: str | Path | None = None,
    shard_mb: float = 256,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[Split, PackedSplit]:
    """Write all splits of a dataset as shards with an index; see `oculox.data.shards`.

    The image bytes are those of the files, also of damaged images, which training counts. The index
    is the split's COCO file with all that it holds, and the place of each image.

    Args:
        source: a dataset in any format that is read, or a COCO JSON file.
        target: a new or empty folder; the dataset appears whole or not at all. It gets
            ``<split>2017/`` with the shards and ``annotations/instances_<split>2017.json``.
        images: folder of the images of a JSON file; by default the file's own.
        shard_mb: most millions of bytes of a shard; a larger image has one of its own.
        overwrite: replace a dataset of shards in `target`.
        progress: called with the number of images done and in all.

    Raises:
        UsageError: the size is not positive, or the target is in use.
        DataError: the source is faulty, as for training, or a file cannot be read.
        OculoxError: the target cannot be written.
    """
    if not shard_mb > 0:
        raise UsageError(f"`shard_mb` must be above 0, got {shard_mb}")
    target = Path(target)
    require_own(target, f'{{"{SIZES}": [', overwrite=overwrite)
    scanned = scan_data(source, images=images)
    indexes = {name: index_split(folder, scan) for name, (folder, scan) in scanned.items()}
    on_image = counted(progress, sum(map(len, indexes.values())))
    packed: dict[Split, PackedSplit] = {}
    with scratch_beside(target) as scratch:
        (scratch / "annotations").mkdir()
        for name, index in indexes.items():
            folder, file = f"{name}2017", f"annotations/instances_{name}2017.json"
            writer, scan = (
                ShardWriter(scratch / folder, limit=shard_mb * 1e6),
                scanned[name][1],
            )
            with closing(writer):
                tree = _write_images(writer, index, scan, on_image=on_image)
            text = json.dumps({SIZES: writer.sizes, **tree})
            (scratch / file).write_text(text, encoding="utf-8")
            packed[name] = PackedSplit(
                folder=target / folder,
                index=target / file,
                images=len(index),
                objects=len(scan.objects),
                shards=len(writer.sizes),
                bytes=sum(writer.sizes),
            )
        # The index last: shards that were not all moved are no dataset.
        move_entries(scratch, target, last="annotations")
    return packed


def _write_images(
    writer: ShardWriter, index: CocoIndex, scan: CocoScan, *, on_image: Callable[[], None]
) -> dict[str, Any]:
    """Write a split's images; its COCO file with their places, but for the shards' sizes."""
    entries = []
    for i, sample in enumerate(_samples(scan)):
        suffix = Path(index.file_name(i)).suffix.lower()
        place = writer.add(
            f"{i:09d}",
            read_file(index.image_file(i)),
            suffix=suffix if suffix in IMAGE_SUFFIXES else ".image",
            sample=json.dumps(sample).encode(),
        )
        entries.append({**scan.images[i], PLACE: place})
        on_image()
    return {**{k: v for k, v in scan.tree.items() if k != SIZES}, "images": entries}


def _samples(scan: CocoScan) -> Iterator[dict[str, Any]]:
    """Of each image its entry, with its objects' entries under ``annotations``."""
    objects = defaultdict(list)
    for owner, entry in zip(scan.truth.owners.tolist(), scan.objects, strict=True):
        objects[owner].append(entry)
    for i, image in enumerate(scan.images):
        kept = {key: value for key, value in image.items() if key != PLACE}
        yield {**kept, "annotations": objects[i]}
