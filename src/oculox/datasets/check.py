"""The check: everything wrong with a COCO dataset, with file and id, in one pass.

`load_coco` stops at the first fault that spoils training. The check lists all of them, looks at
the images as well, and says what can be used; a clean copy or a conversion is made of that.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic_core import to_jsonable_python

from oculox.addresses import Location, to_location
from oculox.data.coco import Split, missing_files
from oculox.data.coco_scan import CocoScan
from oculox.data.faults import Fault, check_boxes, count_faults
from oculox.data.image import ImageFile
from oculox.data.shards import ShardImage
from oculox.datasets.image_facts import ImageFacts, absent_image, look_at
from oculox.datasets.stats import SplitStats, split_stats
from oculox.types import ImageSize, Progress, counted, height_width

Depth = Literal["exists", "header", "decode"]
"""How images are looked at: only for presence; size and end from the header; all, decoded."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CheckedSplit:
    """One split with the images and objects that can be used.

    Attributes:
        image_dir: folder of the images.
        coco: the annotation file's valid entries, n images and m objects.
        sizes_hw: int32 (n, 2), height and width of the images; 0, 0 where one cannot be used.
        boxes: float64 (m, 4), xyxy pixels, clipped to their images.
        usable: bool (m,), which objects can be used.
        digests: SHA-256 of each image that was decoded, by name.
        faults: what is wrong with entries, images and boxes.
    """

    image_dir: Location
    coco: CocoScan
    sizes_hw: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float64]
    usable: npt.NDArray[np.bool_]
    digests: Mapping[str, str]
    faults: tuple[Fault, ...]

    def image_file(self, row: int) -> ImageFile:
        """Where the bytes of ``coco.images[row]`` are."""
        return self.coco.image_file(row, self.image_dir)

    @property
    def image_rows(self) -> list[int]:
        """Which of ``coco.images`` can be used."""
        rows: list[int] = np.flatnonzero(self.sizes_hw[:, 0]).tolist()
        return rows

    @property
    def object_rows(self) -> list[int]:
        """Which of ``coco.objects`` can be used."""
        rows: list[int] = np.flatnonzero(self.usable).tolist()
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitReport:
    """The check's findings on one split: its faults, and statistics of what can be used."""

    checked: CheckedSplit
    stats: SplitStats
    faults: tuple[Fault, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The check's findings on a dataset: each split's, and those between splits."""

    splits: Mapping[Split, SplitReport]
    between: tuple[Fault, ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All of them, split by split."""
        return (*(f for r in self.splits.values() for f in r.faults), *self.between)

    @property
    def ok(self) -> bool:
        """Whether there is no error (warnings and information may be there)."""
        return all(fault.severity != "error" for fault in self.faults)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: ok, counts by code, and each split's faults and statistics."""
        splits = {
            name: {
                "image_dir": str(report.checked.image_dir),
                "annotations": str(report.checked.coco.annotations),
                "faults": report.faults,
                "stats": report.stats,
            }
            for name, report in self.splits.items()
        }
        counts = count_faults(self.faults)
        values: dict[str, Any] = to_jsonable_python(
            {"ok": self.ok, "counts": counts, "splits": splits, "between": self.between}
        )
        return values


def check_data(
    data: str | Location,
    *,
    split: Split | Literal["all"] = "all",
    images: str | Location | None = None,
    deep: bool = True,
    imgsz: ImageSize = 640,
    progress: Progress | None = None,
) -> CheckReport:
    """Look for everything that is wrong with a dataset.

    Each split is checked by itself, then the splits against each other.

    Args:
        data: a dataset folder (COCO, YOLO or Pascal VOC), a ``data.yaml`` or a COCO JSON file.
        split: which split of a folder.
        images: folder of the images of a JSON file; by default the file's own.
        deep: decode every image (finds damage, wrong sizes and copies); otherwise only look
            whether it is there.
        imgsz: network input that the statistics are about.
        progress: called with the number of images done; how many there are is not known.

    Raises:
        DataError: an annotation file is missing, is not JSON or not a COCO file.
    """
    from oculox.datasets.splits import scan_data  # whose readers need `check_split`

    on_image = counted(progress)
    reports: dict[Split, SplitReport] = {}
    for name, (folder, scan) in scan_data(data, split=split, images=images).items():
        depth: Depth = "decode" if deep else "exists"
        checked = check_split(folder, scan, depth=depth, on_image=on_image)
        stats = _stats(checked, height_width(imgsz))
        faults = (*checked.faults, *_copies_within(checked), *_remarks(name, checked, stats))
        reports[name] = SplitReport(checked=checked, stats=stats, faults=faults)
    between = list(_between(reports))
    if split == "all" and "val" not in reports and to_location(data).is_dir():
        message = "there is no validation split, which training needs: see oculox data split"
        between.append(Fault(severity="info", code="no-val-split", file=str(data), message=message))
    return CheckReport(splits=reports, between=tuple(between))


def check_split(
    image_dir: Location,
    coco: CocoScan,
    *,
    depth: Depth,
    on_image: Callable[[], None],
) -> CheckedSplit:
    """What can be used of one split, and what is wrong with the rest."""
    files = [image["file_name"] for image in coco.images]
    found = {name: coco.image_file(row, image_dir) for row, name in enumerate(files)}
    facts = _examine(image_dir, found, depth=depth, on_image=on_image)
    faults = list(coco.faults)
    sizes = np.zeros_like(coco.sizes_hw)
    for row, (image, fact) in enumerate(zip(coco.images, map(facts.get, files), strict=True)):
        stated: tuple[int, int] = tuple(coco.sizes_hw[row].tolist())
        size, problem = _settle_size(stated, fact or ImageFacts())
        sizes[row] = size
        if problem is not None:
            code, message = problem
            faults.append(
                Fault(code=code, message=message, file=image["file_name"], image_id=image["id"])
            )
    boxes, usable = _settle_objects(coco, sizes, faults)
    return CheckedSplit(
        image_dir=image_dir,
        coco=coco,
        sizes_hw=sizes,
        boxes=boxes,
        usable=usable,
        digests={name: fact.digest for name, fact in facts.items() if fact.digest is not None},
        faults=tuple(faults),
    )


def _examine(
    folder: Location,
    images: Mapping[str, ImageFile],
    *,
    depth: Depth,
    on_image: Callable[[], None],
) -> dict[str, ImageFacts]:
    """Facts of images of a folder, by name."""
    if depth == "exists":
        shards = {n: i.shard.name for n, i in images.items() if isinstance(i, ShardImage)}
        absent = set(missing_files({shards.get(name, name): None for name in images}, folder))
        return {n: absent_image(i) for n, i in images.items() if shards.get(n, n) in absent}
    facts: dict[str, ImageFacts] = {}
    look = partial(look_at, decode=depth == "decode")
    # Reading and decoding leave the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        looked = pool.map(look, images.values())
        for name, found in zip(images, looked, strict=True):
            facts[name] = found
            on_image()
    return facts


def _settle_size(
    stated: tuple[int, int], fact: ImageFacts
) -> tuple[tuple[int, int], tuple[str, str] | None]:
    """The height and width to use (0, 0 for an image that cannot be used), and a fault.

    Boxes of an image whose stated size is not the file's are doubtful, so it cannot be used,
    unless height and width are merely swapped or were not stated (0, 0).
    """
    if fact.problem is not None:
        return (0, 0), fact.problem
    if fact.hw is None or fact.hw == stated:
        return stated, None
    if stated == (0, 0):
        return fact.hw, None
    swapped = fact.hw == stated[::-1]
    why = "; the sides are swapped (an EXIF turn?)" if swapped else ""
    (h, w), (real_h, real_w) = stated, fact.hw
    message = f"stated {w} x {h}, the file is {real_w} x {real_h}{why}"
    return fact.hw if swapped else (0, 0), ("size-mismatch", message)


def _settle_objects(
    coco: CocoScan, sizes_hw: npt.NDArray[np.int32], faults: list[Fault]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Clipped boxes (m, 4) and which of the objects can be used (m,); adds to the faults."""
    truth = coco.truth
    sizes = sizes_hw[truth.owners]
    known = sizes[:, 0] > 0
    left_top, extent = truth.xywh[:, :2], truth.xywh[:, 2:]
    xyxy = np.concatenate((left_top, left_top + extent), axis=1)
    # An image that cannot be used has no known size; its boxes are checked without one.
    boxes, usable, found = check_boxes(xyxy, np.where(known[:, None], sizes, np.inf))
    usable &= known
    for row, code, severity, message in found:
        faults.append(coco.object_fault(row, code, message, severity=severity))
    rows = np.flatnonzero(usable & ~truth.crowd)
    keys = np.column_stack((truth.owners, truth.labels, boxes))[rows]
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    twins = rows[first[group.reshape(-1)]]
    for row, twin in zip(rows[twins != rows].tolist(), twins[twins != rows].tolist(), strict=True):
        usable[row] = False
        message = f"the same box and class as annotation {coco.objects[twin].get('id')!r}"
        faults.append(coco.object_fault(row, "box-duplicate", message, severity="warning"))
    return boxes, usable


def _stats(checked: CheckedSplit, input_hw: tuple[int, int]) -> SplitStats:
    truth = checked.coco.truth
    shown = checked.sizes_hw[:, 0] > 0
    objects = checked.usable & ~truth.crowd
    return split_stats(
        checked.coco.class_names,
        sizes_hw=checked.sizes_hw[shown],
        boxes=checked.boxes[objects].astype(np.float32),
        labels=truth.labels[objects],
        owners=(np.cumsum(shown) - 1)[truth.owners[objects]],
        input_hw=input_hw,
    )


def _copies_within(checked: CheckedSplit) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for name, digest in checked.digests.items():
        twin = first.setdefault(digest, name)
        if twin != name:
            message = f"the same bytes as {twin}"
            yield Fault(severity="warning", code="image-duplicate", file=name, message=message)


def class_empty(name: str, split: str, *, file: str) -> Fault:
    """The finding that a class has no object in a split."""
    message = f"class {name!r} has no object in {split}"
    return Fault(severity="warning", code="class-empty", file=file, message=message)


def _remarks(split: Split, checked: CheckedSplit, stats: SplitStats) -> Iterator[Fault]:
    """What is worth knowing about the split as a whole."""
    coco = checked.coco
    remark = partial(Fault, file=coco.annotations.name)
    for name, count in stats.per_class.items():
        if count == 0:
            yield class_empty(name, split, file=coco.annotations.name)
    if coco.images and not checked.image_rows:
        yield remark(code="no-images", message=f"there is not one usable image in {split}")
    labelled = set(coco.truth.owners[checked.usable].tolist())
    empty = [coco.images[i]["file_name"] for i in checked.image_rows if i not in labelled]
    if empty:
        more = ", ..." if len(empty) > 3 else ""
        message = f"images without objects in {split}: {len(empty)} ({', '.join(empty[:3])}{more})"
        yield remark(severity="info", code="no-objects", message=message)
    crowds = int((coco.truth.crowd & checked.usable).sum())
    if crowds:
        message = f"crowd regions in {split}: {crowds}; not trained on, ignored by the evaluation"
        yield remark(severity="info", code="crowds", message=message)


def _between(reports: Mapping[Split, SplitReport]) -> Iterator[Fault]:
    """Splits whose classes differ, and images that are in two of them."""
    names = list(reports)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            a, b = reports[first].checked, reports[second].checked
            ours, theirs = (
                dict(zip(s.category_ids, s.class_names, strict=True)) for s in (a.coco, b.coco)
            )
            if ours != theirs:
                odd = sorted({name for _, name in ours.items() ^ theirs.items()})
                message = (
                    f"the categories differ from those of {a.coco.annotations.name}: "
                    f"{', '.join(odd[:8])}"
                )
                file = b.coco.annotations.name
                yield Fault(code="categories-differ", file=file, message=message)
            known = {digest: name for name, digest in a.digests.items()}
            for name, digest in b.digests.items():
                if digest in known:
                    message = f"the same bytes as {first} image {known[digest]}"
                    file = f"{second}/{name}"
                    yield Fault(severity="warning", code="split-leak", file=file, message=message)
