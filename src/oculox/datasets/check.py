"""The check: everything wrong with a COCO data set, with file and id, in one pass.

`load_coco` stops at the first fault that would spoil training; the check tolerates all of them,
lists them, and hands on what is sound, from which a clean copy or a conversion is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from oculox.config.schema import DataConfig
from oculox.data.coco import find_split
from oculox.data.coco_parse import read_sections
from oculox.data.faults import Fault, count_faults, has_errors
from oculox.datasets.check_entries import (
    CheckedCategory,
    CheckedImage,
    CheckedObject,
    ObjectScan,
    scan_categories,
    scan_images,
    settle_images,
)
from oculox.datasets.check_images import Depth, ImageFacts, examine
from oculox.datasets.stats import SplitStats, split_stats
from oculox.errors import DataError

SplitName = Literal["train", "val", "test"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitScan:
    """What is sound in one split, and what is not.

    Attributes:
        image_dir: folder of the images.
        annotations: the JSON file.
        categories: usable categories by ascending id.
        images: usable images in the file's order.
        objects: usable annotations in the file's order.
        digests: SHA-256 of each image that was decoded, by name.
        faults: what was found.
    """

    image_dir: Path
    annotations: Path
    categories: tuple[CheckedCategory, ...]
    images: tuple[CheckedImage, ...]
    objects: tuple[CheckedObject, ...]
    digests: Mapping[str, str]
    faults: tuple[Fault, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The check's findings on one split: its faults and metrics of what is sound."""

    scan: SplitScan
    stats: SplitStats
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error (warnings and information may be there)."""
        return not has_errors(self.faults)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataReport:
    """The check's findings on a data set: each split's, and those between splits."""

    splits: Mapping[SplitName, CheckReport]
    between: tuple[Fault, ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All of them, split by split."""
        return (*(f for r in self.splits.values() for f in r.faults), *self.between)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not has_errors(self.faults)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: ok, counts by code, and each split's faults and metrics."""
        return {
            "ok": self.ok,
            "counts": count_faults(self.faults),
            "splits": {
                name: {
                    "image_dir": str(report.scan.image_dir),
                    "annotations": str(report.scan.annotations),
                    "faults": [fault.as_dict() for fault in report.faults],
                    "stats": report.stats.as_dict(),
                }
                for name, report in self.splits.items()
            },
            "between": [fault.as_dict() for fault in self.between],
        }


def check_split(
    image_dir: Path,
    annotations: Path,
    *,
    deep: bool = True,
    input_hw: tuple[int, int] = (640, 640),
    on_image: Callable[[], None] | None = None,
) -> CheckReport:
    """Check one split.

    Args:
        image_dir: folder of the images.
        annotations: COCO JSON file.
        deep: decode every image (finds damage, wrong sizes and copies); otherwise only their
            presence is looked at.
        input_hw: network input that the metrics are about, height and width in pixels.
        on_image: called after each image, for progress.

    Raises:
        DataError: the annotation file is missing, is not JSON or not a COCO file.
    """
    depth: Depth = "decode" if deep else "exists"
    scan = scan_split(image_dir, annotations, depth=depth, on_image=on_image)
    stats = _stats(scan, input_hw)
    faults = (*scan.faults, *_copies_within(scan), *_remarks(scan, stats))
    return CheckReport(scan=scan, stats=stats, faults=faults)


def check_data(
    splits: Mapping[SplitName, tuple[Path, Path]],
    *,
    deep: bool = True,
    input_hw: tuple[int, int] = (640, 640),
    on_image: Callable[[], None] | None = None,
) -> DataReport:
    """Check several splits, each an image folder and an annotation file, and compare them.

    Raises:
        DataError: an annotation file is missing, is not JSON or not a COCO file.
    """
    reports = {
        name: check_split(*paths, deep=deep, input_hw=input_hw, on_image=on_image)
        for name, paths in splits.items()
    }
    return DataReport(splits=reports, between=tuple(_between(reports)))


def scan_split(
    image_dir: Path,
    annotations: Path,
    *,
    depth: Depth,
    on_image: Callable[[], None] | None = None,
) -> SplitScan:
    """Sort a split's entries into sound ones and faults; see `check_split`."""
    sections = read_sections(annotations)
    where = annotations.name
    categories, faults = scan_categories(sections["categories"], where)
    stated, found = scan_images(sections["images"], where)
    faults += found
    facts = examine(image_dir, (p.name for p in stated), depth=depth, on_image=on_image)
    images, found = settle_images(stated, facts)
    faults += found
    scan = ObjectScan(stated, images, categories, where=where)
    for i, entry in enumerate(sections["annotations"]):
        scan.add(i, entry)
    return SplitScan(
        image_dir=image_dir,
        annotations=annotations,
        categories=tuple(categories),
        images=tuple(images),
        objects=tuple(scan.objects),
        digests=_digests(facts),
        faults=(*faults, *scan.faults),
    )


def locate_splits(
    root: Path, which: SplitName | Literal["all"] = "all"
) -> dict[SplitName, tuple[Path, Path]]:
    """Image folder and annotation file of a split below `root`, or of all that are there.

    Raises:
        DataError: the split (or, for all, any split) is not there.
    """
    if which != "all":
        return {which: _locate(root, which)}
    found: dict[SplitName, tuple[Path, Path]] = {}
    first: DataError | None = None
    for name in get_args(SplitName):
        try:
            found[name] = _locate(root, name)
        except DataError as error:
            first = first or error
    if first is not None and not found:
        raise first
    return found


def _locate(root: Path, name: SplitName) -> tuple[Path, Path]:
    if name != "test":
        return find_split(DataConfig(root=root), name)
    # Training and evaluation know no test split; the check and the converters do.
    pairs = [
        (root / "test2017", root / "annotations" / "instances_test2017.json"),
        (root / "test", root / "annotations" / "instances_test.json"),
        (root / "test", root / "test" / "_annotations.coco.json"),
    ]
    for pair in pairs:
        if pair[0].is_dir() and pair[1].is_file():
            return pair
    looked = ", ".join(str(a.relative_to(root)) for _, a in pairs)
    raise DataError(f"{root}: no test split found; looked for {looked} (with its images)")


def _digests(facts: Mapping[str, ImageFacts]) -> dict[str, str]:
    return {name: fact.digest for name, fact in facts.items() if fact.digest is not None}


def _stats(scan: SplitScan, input_hw: tuple[int, int]) -> SplitStats:
    images = [p for p in scan.images if p.hw is not None]
    owner = {p.image_id: i for i, p in enumerate(images)}
    label = {c.category_id: i for i, c in enumerate(scan.categories)}
    objects = [o for o in scan.objects if not o.crowd]
    return split_stats(
        [c.name for c in scan.categories],
        sizes_hw=np.array([p.hw for p in images], np.int32).reshape(-1, 2),
        boxes=np.array([o.box for o in objects], np.float32).reshape(-1, 4),
        labels=np.array([label[o.category_id] for o in objects], np.int64),
        owners=np.array([owner[o.image_id] for o in objects], np.int64),
        input_hw=input_hw,
    )


def _copies_within(scan: SplitScan) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for name, digest in scan.digests.items():
        twin = first.setdefault(digest, name)
        if twin != name:
            message = f"the same bytes as {twin}"
            yield Fault(severity="warning", code="image-duplicate", file=name, message=message)


def _remarks(scan: SplitScan, stats: SplitStats) -> Iterator[Fault]:
    """What is worth knowing about the split as a whole."""
    where = scan.annotations.name
    for name, count in stats.per_class.items():
        if count == 0:
            message = f"class {name!r} has no object"
            yield Fault(severity="warning", code="class-empty", file=where, message=message)
    if not scan.images:
        message = "there is not one usable image"
        yield Fault(severity="error", code="no-images", file=where, message=message)
    labelled = {o.image_id for o in scan.objects}
    empty = [p.name for p in scan.images if p.image_id not in labelled]
    if empty:
        more = ", ..." if len(empty) > 3 else ""
        message = f"images without objects: {len(empty)} ({', '.join(empty[:3])}{more})"
        yield Fault(severity="info", code="no-objects", file=where, message=message)
    crowds = sum(o.crowd for o in scan.objects)
    if crowds:
        message = f"crowd regions: {crowds}; not trained on, ignored by the evaluation"
        yield Fault(severity="info", code="crowds", file=where, message=message)


def _between(reports: Mapping[SplitName, CheckReport]) -> Iterator[Fault]:
    """Splits whose classes differ, and images that are in two of them."""
    names = list(reports)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            a, b = reports[first].scan, reports[second].scan
            classes = [[(c.category_id, c.name) for c in s.categories] for s in (a, b)]
            if classes[0] != classes[1]:
                odd = sorted({n for _, n in set(classes[0]) ^ set(classes[1])})
                yield Fault(
                    severity="error",
                    code="categories-differ",
                    file=b.annotations.name,
                    message=f"the categories differ from those of {a.annotations.name}: "
                    f"{', '.join(odd[:8])}",
                )
            known = {digest: name for name, digest in a.digests.items()}
            for name, digest in b.digests.items():
                if digest in known:
                    message = f"the same bytes as {first} image {known[digest]}"
                    yield Fault(
                        severity="warning",
                        code="split-leak",
                        file=f"{second}/{name}",
                        message=message,
                    )
